"""The views that people ask in SQL: their columns, what each means, and in which unit.

They lie in a replica's schema `main`; the tables that they are made of, in `raw`. What is said of a column here becomes
its comment in the database, from which the documentation is made. Names and meanings stay; columns may be added.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from duckdb import DuckDBPyConnection

from events.streams import CONTROL, TRAINING

from .metrics import LOGGED, METRICS, PREEMPTED, STEPS
from .templates import STREAM as TEMPLATE
from .trainings import MEANS

__all__ = ["VIEWS", "Described", "View", "create", "describe", "drop", "markdown"]

Columns = dict[str, tuple[str, str]]
"""Name → the SQL that it is, and what it means."""


class View(msgspec.Struct, frozen=True):
    """A view: `source` is what comes behind FROM."""

    name: str
    comment: str
    columns: Columns
    source: str


def _moment(column: str) -> str:
    return f"make_timestamp({column})"


def _after(prefix: str, stream: str = "stream") -> str:
    return f"substr({stream}, {len(prefix) + 1})"


def _config(field: str, kind: str) -> str:
    return f"try_cast(config->>'{field}' AS {kind})"


_POSITION = "Place in the log: 1, 2, 3 … without holes, in the order of commits."
_TRAINING = "The training's id."
_SAE = "Index of the SAE among those of its training; trainings.saes has their layers and hooks."
_WHEN = "When it happened by its writer's clock (UTC)."

_FIGURES = {
    "loss": "Loss, in units of FVU (the variance of the target is 1).",
    "loss_reconstruction": "The part of the loss that is about reconstruction, in units of FVU.",
    "loss_sparsity": "The part of the loss that is about sparsity, in units of FVU; 0 for architectures without one.",
    "loss_auxiliary": "The auxiliary part of the loss (dead latents), in units of FVU.",
    "l0": "Mean number of active latents per token.",
    "l0_fraction": "Share of all latents that are active on a token, 0-1.",
    "fvu": "Fraction of variance unexplained, 0 is perfect.",
    "dead_latents": "Latents that have not been active for the configured number of tokens.",
    "learning_rate": "Learning rate of this step.",
    "sparsity_coefficient": "Weight of the sparsity loss; NULL for architectures without one.",
    "grad_norm": "Norm of the gradient before clipping, in units of FVU.",
    "tokens": "Tokens that the training has seen so far.",
    "tokens_per_second": "Tokens per second of the whole training.",
    "device_memory": "Memory in use on the device, in bytes; NULL on the CPU.",
}


def _number(column: str) -> str:
    # Differences of unsigned columns are errors where they are below zero.
    return f"{column}::BIGINT"


_COUNTS = ("dead_latents", "tokens", "device_memory")


def _figures(*, shown: bool) -> Columns:
    return {
        (name if shown else column): (_number(column) if column in _COUNTS else column, _FIGURES[column])
        for name, column in METRICS.items()
    }


_TIMES = (
    f"SELECT training, max(step) AS last_step, max(occurred_at) AS seen_at, {MEANS},"
    " sum(dead_latents)::BIGINT AS dead_latents, max(tokens) AS tokens,"
    " arg_max(tokens_per_second, position) AS tokens_per_second FROM raw.training_figures GROUP BY training"
)

_EVALUATED = {
    "tokens": "Tokens that were evaluated.",
    "fvu": "Fraction of variance unexplained.",
    "l0": "Mean number of active latents per token.",
    "dead_latents": "Latents that were never active.",
    "dense_latents": "Latents that are active on a large share of tokens.",
    "duplicate_latents": "Latents that are almost the same as another.",
    "ce_clean": "Cross-entropy of the language model, in nats per token.",
    "ce_spliced": "Cross-entropy with the reconstruction in place of the activations, in nats per token.",
    "ce_ablated_zero": "Cross-entropy with zeros in place of the activations, in nats per token.",
    "ce_ablated_mean": "Cross-entropy with the mean in place of the activations, in nats per token.",
    "kl_spliced": "Divergence of the spliced from the clean predictions, in nats per token.",
    "loss_recovered": "Share of the loss between zero ablation and clean that is recovered, 1 is all.",
    "shrinkage": "Size of the reconstruction relative to its target, 1 is none.",
    "density_histogram": "Latents by log10 of their firing frequency: 60 bins on [-7, 0], then those that never fired.",
    "verdict": "good, watch or bad.",
    "reasons": "Why the verdict is not good.",
    "diverged": "Whether it had diverged by then and learns no more.",
}

VIEWS: tuple[View, ...] = (
    View(
        "events",
        "Every event of the log, steps too. Asking for steps here is slow: steps and metrics have them as columns.",
        {
            "position": (_number("position"), _POSITION),
            "stream": ("stream", "Whose event it is: training-ID, control-ID, template-ID, catalog, maintenance."),
            "version": (_number("version"), "Place in the stream: 1, 2, 3 …"),
            "type": ("type", "What happened, in the past tense: StepTrained, TrainingCreated, LogWritten …"),
            "occurred_at": (_moment("occurred_at"), _WHEN),
            "recorded_at": (_moment("recorded_at"), "When the log took it (UTC)."),
            "actor": ("actor", "Who caused it; NULL for what a trainer reports."),
            "metadata": ("metadata", "Idempotency key and causation."),
            "data": ("data", "The event's fields; numbers that are not finite are null."),
        },
        "raw.events",
    ),
    View(
        "steps",
        "Every step of every SAE as it was reported, also those that a resume has preempted.",
        {
            "training": (_after(TRAINING), _TRAINING),
            "step": (_number("step"), "Number of the optimiser step, from 1."),
            "sae": ("sae", _SAE),
            **_figures(shown=False),
            "occurred_at": (_moment("occurred_at"), _WHEN),
            "recorded_at": (_moment("recorded_at"), "When the log took it (UTC)."),
            "position": (_number("position"), _POSITION),
        },
        f"raw.{STEPS}",
    ),
    View(
        "metrics",
        "The steps that count: each step of each SAE once, less what a resume has preempted.",
        {
            "training": (_after(TRAINING, "steps.stream"), _TRAINING),
            "step": (_number("step"), "Number of the optimiser step, from 1."),
            "sae": ("sae", _SAE),
            **_figures(shown=True),
            "timestamp": (_moment("occurred_at"), _WHEN),
            "position": (_number("position"), _POSITION),
        },
        f"raw.{STEPS} AS steps WHERE NOT EXISTS (SELECT 1 FROM raw.{PREEMPTED.name} AS later"
        " WHERE later.stream = steps.stream AND steps.step > later.step AND steps.position < later.position)",
    ),
    View(
        "logged_metrics",
        "Metrics of trainers that are not ours, a row for each value, less what a resume has preempted.",
        {
            "training": ("training", _TRAINING),
            "step": ("step", "The step that the trainer gave."),
            "name": ("name", "What the trainer calls the metric."),
            "value": ("value", "Its value, in the trainer's own unit."),
            "timestamp": (_moment("occurred_at"), _WHEN),
            "position": (_number("position"), _POSITION),
        },
        f"raw.{LOGGED.name} AS logged WHERE NOT EXISTS (SELECT 1 FROM raw.{PREEMPTED.name} AS later"
        f" WHERE later.stream = '{TRAINING}' || logged.training AND logged.step > later.step"
        " AND logged.position < later.position)",
    ),
    View(
        "logs",
        "The log lines of trainings.",
        {
            "training": ("training", _TRAINING),
            "version": (_number("version"), "Place in the training's stream; orders its lines."),
            "timestamp": (_moment("occurred_at"), _WHEN),
            "level": ("level", "DEBUG, INFO, WARNING, ERROR or CRITICAL."),
            "severity": ("severity", "The level as a number: 10, 20, 30, 40, 50."),
            "logger": ("logger", "The part of the program that wrote it."),
            "message": ("message", "What it says."),
            "position": (_number("position"), _POSITION),
        },
        "raw.logs",
    ),
    View(
        "trainings",
        "Every training as it is now; deleted ones are marked.",
        {
            "training": ("t.id", _TRAINING),
            "name": ("name", "Its name."),
            "status": ("status", "queued, starting, running, paused, completed, failed, stopped, interrupted …"),
            "reason": ("reason", "Why it has this status, in a sentence."),
            "kind": ("kind", "sae, or external for a trainer that is not ours."),
            "launcher": ("launcher", "Who starts its process: local or external."),
            "deleted": ("deleted", "Whether somebody has deleted it."),
            "step": ("greatest(t.step, coalesce(f.last_step, 0))", "The last step that counts."),
            "total_steps": ("total_steps", "Steps that it is to train."),
            "model": ("model", "The language model whose activations it learns."),
            "datasets": ("datasets", "The data sets that it reads."),
            "architecture": ("architecture", "topk, batchtopk, matryoshka, standard, jumprelu, gated …"),
            "latent_dim": (_config("latent_dim", "BIGINT"), "Latents of each SAE."),
            "k": (_config("k", "BIGINT"), "Active latents per token, for architectures that are told."),
            "target_l0": (_config("target_l0", "DOUBLE"), "Share of latents that sparsity is steered to, 0-1."),
            "learning_rate": (_config("learning_rate", "DOUBLE"), "The configured learning rate."),
            "batch_size": (_config("batch_size", "BIGINT"), "Tokens per step."),
            "config": ("config", "The whole configuration; config->>'seed' is one field of it."),
            "saes": ("saes", "Its SAEs by index: layer, hook, target_layer, target_hook, variant, mean_ratio, folder."),
            "parameters": ("parameters", "Weights of all its SAEs."),
            "tags": ("tags", "Its tags."),
            "note": ("note", "Its note, in Markdown."),
            "template": ("template_id", "The template that it was made from."),
            "retry_of": ("retry_of", "The training that it is a retry of."),
            "host": ("host", "The machine that it runs or ran on."),
            "device": ("device", "cpu, cuda:0 …"),
            "device_name": ("device_name", "What the device is called."),
            "created_at": (_moment("created_at"), "When it was created (UTC)."),
            "started_at": (_moment("started_at"), "When its first process began to train (UTC)."),
            "updated_at": (
                _moment("greatest(t.updated_at, coalesce(f.seen_at, 0))"),
                "When its last event happened (UTC).",
            ),
            "ended_at": (_moment("ended_at"), "When its last process ended (UTC); NULL while one is at work."),
            "actor": ("actor", "Who created it."),
            "loss": ("f.loss", "Mean loss of its SAEs' last steps, in units of FVU."),
            "l0": ("f.l0", "Mean L0 of its SAEs' last steps, in latents per token."),
            "fvu": ("f.fvu", "Mean FVU of its SAEs' last steps."),
            "dead_latents": ("f.dead_latents", "Dead latents of all its SAEs at their last steps."),
            "tokens": (_number("f.tokens"), "Tokens that it has seen so far."),
            "tokens_per_second": ("f.tokens_per_second", "Tokens per second at its last step."),
            "position": ("t.position", "Position of the event that last changed its state."),
        },
        f"raw.trainings AS t LEFT JOIN ({_TIMES}) AS f ON f.training = t.id WHERE created_at IS NOT NULL",
    ),
    View(
        "templates",
        "Every template as it is now; deleted ones are marked.",
        {
            "template": ("id", "The template's id."),
            "name": ("name", "Its name."),
            "description": ("description", "What it says of itself."),
            "config": ("config", "The configuration that it fills in."),
            "favourite": ("favourite", "Whether it is marked as a favourite."),
            "deleted": ("deleted", "Whether somebody has deleted it."),
            "created_at": (_moment("created_at"), "When it was saved first (UTC)."),
            "updated_at": (_moment("updated_at"), "When it was changed last (UTC)."),
            "created_by": ("actor", "Who saved it first."),
            "updated_by": ("updated_by", "Who changed it last."),
            "version": (_number("version"), "How many changes it has had; a change of it expects this."),
            "position": ("position", "Position of the event that last changed it."),
        },
        "raw.templates",
    ),
    View(
        "checkpoints",
        "The checkpoints that exist and count.",
        {
            "training": ("training", _TRAINING),
            "step": ("step", "The step after which it was saved."),
            "timestamp": (_moment("occurred_at"), "When it was whole on disk (UTC)."),
            "path": ("path", "Its folder on the host."),
            "size": ("size", "Its size, in bytes."),
            "host": ("host", "The machine that it lies on."),
            "reason": ("reason", "What asked for it: interval, request, pause, stop or end."),
            "loss": ("loss", "Mean loss of the SAEs at that step, in units of FVU."),
            "fvu": ("fvu", "Mean FVU of the SAEs at that step."),
            "position": (_number("position"), _POSITION),
        },
        "raw.checkpoints",
    ),
    View(
        "evaluations",
        "What SAEs were worth on held-out text: the newest evaluation of each step and SAE.",
        {
            "training": ("training", _TRAINING),
            "step": ("step", "The step after which it was evaluated."),
            "sae": ("sae", _SAE),
            **{name: (name, comment) for name, comment in _EVALUATED.items()},
            "timestamp": (_moment("occurred_at"), _WHEN),
            "position": (_number("position"), _POSITION),
        },
        "raw.evaluations",
    ),
    View(
        "activity",
        "Who did what: with trainings, templates, the catalogue and the server.",
        {
            "position": (_number("position"), _POSITION),
            "timestamp": (_moment("occurred_at"), _WHEN),
            "actor": ("actor", "Who caused it: user:NAME, launcher …"),
            "type": ("type", "What was done: TrainingCreated, TemplateEdited, PauseRequested …"),
            "training": (
                f"CASE WHEN starts_with(stream, '{CONTROL}') THEN {_after(CONTROL)} END",
                "The training that it is about.",
            ),
            "template": (
                f"CASE WHEN starts_with(stream, '{TEMPLATE}') THEN {_after(TEMPLATE)} ELSE data->>'template_id' END",
                "The template that it is about, or that the training was made from.",
            ),
            "stream": ("stream", "Where it is recorded."),
            "data": ("data", "The event's fields."),
        },
        f"raw.log_events WHERE NOT starts_with(stream, '{TRAINING}')",
    ),
    View(
        "replica",
        "One row: which log this is a replica of, and the position that every view is true at.",
        {
            "log_id": ("log_id", "The log's id; another one is another log."),
            "position": (
                "least(position, (SELECT min(position) FROM raw.projections WHERE NOT ends_with(name, '__rebuild')))",
                "Everything up to this position of the log is in here, and nothing beyond it.",
            ),
            "server": ("server", "Where the log is."),
        },
        "raw.replica",
    ),
)


def create(con: DuckDBPyConnection) -> None:
    """Makes the views as this program knows them, on the tables in `raw`."""
    for view in VIEWS:
        columns = ", ".join(f'{sql} AS "{name}"' for name, (sql, _) in view.columns.items())
        con.execute(f"CREATE OR REPLACE VIEW main.{view.name} AS SELECT {columns} FROM {view.source}")
        con.execute(f"COMMENT ON VIEW main.{view.name} IS {_text(view.comment)}")
        for name, (_, comment) in view.columns.items():
            con.execute(f'COMMENT ON COLUMN main.{view.name}."{name}" IS {_text(comment)}')


def drop(con: DuckDBPyConnection) -> None:
    """Removes the views."""
    for view in VIEWS:
        con.execute(f"DROP VIEW IF EXISTS main.{view.name}")


class Described(msgspec.Struct, frozen=True):
    """A view as the catalogue of a database has it; `columns` are name, type and comment."""

    name: str
    comment: str
    columns: tuple[tuple[str, str, str], ...]


def describe(con: DuckDBPyConnection) -> list[Described]:
    """The views for people, from the database's own catalogue."""
    views = con.execute(
        "SELECT view_name, comment FROM duckdb_views() WHERE database_name = current_database()"
        " AND schema_name = 'main' AND NOT internal"
    ).fetchall()
    columns = con.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns()"
        " WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal"
        " ORDER BY table_name, column_index"
    ).fetchall()
    known = [view.name for view in VIEWS]
    return [
        Described(name, comment or "", tuple((c, kind, said or "") for view, c, kind, said in columns if view == name))
        for name, comment in sorted(views, key=lambda row: known.index(row[0]) if row[0] in known else len(known))
    ]


def markdown(described: list[Described]) -> str:
    """The documentation of the views."""
    return "\n".join(_lines(described)) + "\n"


def _lines(described: list[Described]) -> Iterator[str]:
    for view in described:
        yield from (f"## {view.name}", view.comment, "", "| column | type | |", "|---|---|---|")
        for name, kind, comment in view.columns:
            yield f"| `{name}` | {kind} | {comment} |"
        yield ""


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
