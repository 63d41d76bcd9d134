"""The one table of operations, from which routes and OpenAPI follow."""

from __future__ import annotations

from core.commands import (
    CheckTraining,
    ControlTraining,
    CreateTraining,
    EditTemplate,
    EditTraining,
    ImportTemplates,
    PreviewImport,
    RegisterDataset,
    RegisterModel,
    RestoreTemplate,
    SaveTemplate,
    SuggestTemplate,
)

from ..arrow import ARROW, MEDIA_TYPES
from ..maintenance import Job
from . import answers as a
from . import catalogue, facts, sql, system, templates, trainings
from .operation import CSV, TAR, TEXT, Operation

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "trainings", trainings.create_training, a.Created, 201, body=CreateTraining, refusals=(413, 415, 422)
    ),
    Operation("GET", "trainings", trainings.list_trainings, a.Trainings, query=trainings.TrainingsQuery),
    Operation(
        "POST", "trainings/check", trainings.check_training, a.Checked, body=CheckTraining, refusals=(413, 415, 422)
    ),
    Operation("GET", "trainings/{id}", trainings.get_training, a.Training, refusals=(404,)),
    Operation(
        "PATCH",
        "trainings/{id}",
        trainings.edit_training,
        a.Training,
        body=EditTraining,
        refusals=(404, 413, 415, 422),
    ),
    Operation("DELETE", "trainings/{id}", trainings.delete_training, a.DeletedTraining, refusals=(404, 409)),
    Operation(
        "POST",
        "trainings/{id}/control",
        trainings.control_training,
        a.Accepted,
        202,
        body=ControlTraining,
        refusals=(404, 409, 413, 415, 422),
    ),
    Operation(
        "GET",
        "trainings/{id}/metrics",
        facts.get_metrics,
        a.Metrics,
        query=facts.MetricsQuery,
        refusals=(404,),
        downloads=(CSV,),
    ),
    Operation(
        "GET",
        "trainings/{id}/logs",
        facts.get_logs,
        a.Logs,
        query=facts.LogsQuery,
        refusals=(404,),
        downloads=(TEXT,),
    ),
    Operation("GET", "trainings/{id}/checkpoints", facts.list_checkpoints, a.Checkpoints, refusals=(404,)),
    Operation("GET", "trainings/{id}/checkpoints/{step}", facts.get_checkpoint, a.Checkpoint, refusals=(404,)),
    Operation("DELETE", "trainings/{id}/checkpoints/{step}", facts.delete_checkpoint, a.Accepted, refusals=(404, 409)),
    Operation(
        "GET",
        "trainings/{id}/checkpoints/{step}/download",
        facts.download_checkpoint,
        None,
        refusals=(404, 409),
        downloads=(TAR,),
    ),
    Operation(
        "GET",
        "trainings/{id}/checkpoints/{step}/export",
        facts.export_checkpoint,
        None,
        query=facts.CheckpointExportQuery,
        refusals=(404, 409, 507),
        downloads=(TAR,),
    ),
    Operation(
        "GET",
        "trainings/{id}/evaluations",
        facts.list_evaluations,
        a.Evaluations,
        query=facts.EvaluationsQuery,
        refusals=(404,),
    ),
    Operation(
        "GET", "trainings/{id}/activity", facts.list_activity, a.Activity, query=facts.ActivityQuery, refusals=(404,)
    ),
    Operation("GET", "templates", templates.list_templates, a.Templates, query=templates.TemplatesQuery),
    Operation(
        "POST", "templates", templates.save_template, a.Created, 201, body=SaveTemplate, refusals=(413, 415, 422)
    ),
    Operation(
        "GET",
        "templates/export",
        templates.export_templates,
        a.TemplateDocument,
        query=templates.ExportQuery,
        refusals=(404,),
    ),
    Operation(
        "POST",
        "templates/import/preview",
        templates.preview_import,
        a.ImportPreview,
        body=PreviewImport,
        refusals=(413, 415, 422),
    ),
    Operation(
        "POST",
        "templates/import",
        templates.import_templates,
        a.Imported,
        body=ImportTemplates,
        refusals=(413, 415, 422),
    ),
    Operation(
        "POST",
        "templates/suggestion",
        templates.suggest_template,
        a.Suggestion,
        body=SuggestTemplate,
        refusals=(413, 415, 422),
    ),
    Operation("GET", "templates/{id}", templates.get_template, a.Template, refusals=(404,)),
    Operation(
        "PATCH",
        "templates/{id}",
        templates.edit_template,
        a.Template,
        body=EditTemplate,
        refusals=(404, 409, 413, 415, 422),
    ),
    Operation("DELETE", "templates/{id}", templates.delete_template, a.Accepted, refusals=(404, 409)),
    Operation(
        "POST",
        "templates/{id}/restore",
        templates.restore_template,
        a.Template,
        body=RestoreTemplate,
        refusals=(404, 409, 413, 415, 422),
    ),
    Operation("POST", "templates/{id}/duplicate", templates.duplicate_template, a.Created, 201, refusals=(404, 409)),
    Operation("GET", "templates/{id}/history", templates.list_template_history, a.TemplateHistory, refusals=(404,)),
    Operation("GET", "activity", facts.list_everything_done, a.AllActivity, query=facts.AllActivityQuery),
    Operation("GET", "models", catalogue.list_models, a.Models),
    Operation("POST", "models", catalogue.register_model, a.Created, 201, body=RegisterModel, refusals=(413, 415, 422)),
    Operation(
        "POST",
        "models/inspect",
        catalogue.inspect_model,
        a.InspectedModel,
        body=RegisterModel,
        refusals=(413, 415, 422),
    ),
    Operation("GET", "datasets", catalogue.list_datasets, a.Datasets),
    Operation(
        "POST", "datasets", catalogue.register_dataset, a.Created, 201, body=RegisterDataset, refusals=(413, 415, 422)
    ),
    Operation(
        "POST",
        "datasets/inspect",
        catalogue.inspect_dataset,
        a.InspectedDataset,
        body=RegisterDataset,
        refusals=(413, 415, 422),
    ),
    Operation("GET", "catalogue/uses", catalogue.list_catalogue_uses, a.CatalogueUse),
    Operation("GET", "catalogue/inspections", catalogue.list_inspections, a.Inspectings),
    Operation("GET", "devices", system.list_devices, a.Devices),
    Operation(
        "GET",
        "events",
        system.list_events,
        a.EventPage,
        query=system.EventsQuery,
        refusals=(409,),
        downloads=(ARROW,),
    ),
    Operation(
        "POST",
        "sql",
        sql.ask_sql,
        sql.SqlAnswer,
        body=sql.AskSql,
        refusals=(413, 415, 422, 503),
        downloads=(*MEDIA_TYPES.values(),),
    ),
    Operation("GET", "sql/schema", sql.get_sql_schema, sql.SqlSchema),
    Operation("POST", "maintenance/rebuild", system.start_rebuild, Job, 202, refusals=(409,)),
    Operation("POST", "maintenance/verify", system.start_verify, Job, 202, refusals=(409,)),
    Operation(
        "POST",
        "maintenance/backup",
        system.start_backup,
        Job,
        202,
        body=system.BackUp,
        refusals=(409, 413, 415, 422),
    ),
    Operation("GET", "maintenance", system.list_jobs, system.Jobs),
    Operation("GET", "maintenance/{id}", system.get_job, Job, refusals=(404,)),
    Operation("POST", "sign-in", system.make_sign_in, a.SignIn, 201),
    Operation("GET", "/healthz", system.get_health, a.Health),
)
