"""What the API answers. Every answer that a follower may go on from has the `position` that it is true at."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from core.commands import Description
from core.estimate import Estimate
from core.fields import Problem
from events.catalog import DatasetRegistered, ModelRegistered
from events.training import StepTrained, TrainingConfig
from projections.activity import ActivityRow
from projections.checkpoints import CheckpointRow
from projections.evaluations import EvaluationRow
from projections.logs import LogRow
from projections.metrics import METRICS
from projections.templates import TemplateRow, TemplateVersion
from projections.trainings import TrainingRow

from ..devices import Device


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded at `position`."""

    position: int


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """The new thing has this `id` and was recorded at `position`."""

    id: str
    position: int


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said about a configuration; `config` has every default filled in, None where there are problems."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    estimate: Estimate | None
    config: TrainingConfig | None


class Training(TrainingRow, frozen=True, kw_only=True):
    """A training, and the position that this is true at."""

    position: int


class Trainings(msgspec.Struct, frozen=True, kw_only=True):
    """Some trainings, how many there are of each status in all that the search finds, and of each tag in all."""

    data: list[TrainingRow]
    counts: dict[str, int]
    tags: dict[str, int]
    position: int


class DeletedTraining(msgspec.Struct, frozen=True, kw_only=True):
    """The training is hidden; `removed` are the paths that were removed, `bytes_freed` their size."""

    removed: tuple[str, ...]
    bytes_freed: int
    position: int


_STEP = {field.name: field.type for field in msgspec.structs.fields(StepTrained)}

MetricRow = msgspec.defstruct(
    "MetricRow",
    [
        ("step", int),
        ("timestamp", int),
        ("sae", int, 0),
        *((name, _STEP[column] | None, None) for name, column in METRICS.items()),
    ],
    frozen=True,
    kw_only=True,
    namespace={
        "__doc__": """The metrics of one SAE at one step, as `fields` asks; `timestamp` in µs since 1970 (UTC).

        `l0_sparsity` is the share of latents that are active (0-1). A value that is not finite is null. The trainer of
        somebody else has names of its own.
        """
    },
)


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics in the order asked for."""

    data: list[MetricRow]  # type: ignore[valid-type]
    position: int


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Log lines in the order asked for."""

    data: list[LogRow]
    position: int


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoints, the newest first."""

    data: list[CheckpointRow]
    position: int


class Checkpoint(CheckpointRow, frozen=True, kw_only=True):
    """A checkpoint; `position` is that of the event that recorded it."""


class Evaluations(msgspec.Struct, frozen=True, kw_only=True):
    """Evaluations in order of step and SAE."""

    data: list[EvaluationRow]
    position: int


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, the newest first."""

    data: list[ActivityRow]
    position: int


class AllActivity(Activity, frozen=True, kw_only=True):
    """Who did what, the newest first; `actors` are all who ever did something, all trainers as one."""

    actors: list[str]


class Template(TemplateRow, frozen=True, kw_only=True):
    """A template; `position` is that of the event which last changed it, `version` what a change of it expects."""


class Templates(msgspec.Struct, frozen=True, kw_only=True):
    """Templates in the order asked for."""

    data: list[TemplateRow]
    position: int


class TemplateHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Who made what of a template, the newest first."""

    data: list[TemplateVersion]
    position: int


class TemplateEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A template in a document; `config` holds fields of `TrainingConfig`."""

    name: str
    description: Description = ""
    config: dict[str, Any] = {}
    favourite: bool = False


class TemplateDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Templates to keep in a file, and to import."""

    format: Literal["saestudio-templates"] = "saestudio-templates"
    version: Literal[1] = 1
    templates: list[TemplateEntry]


class ImportedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an import would make of the document's entry at `index`.

    An `identical` one is there already; a `conflicting` one has the name of `template_id` and another content than that
    has at `version`, in what `differs` names (`description`, `config.FIELD`); `reason` says why an `invalid` one cannot
    be taken in.
    """

    index: int
    name: str
    outcome: Literal["new", "identical", "conflicting", "invalid"]
    reason: str | None = None
    template_id: str | None = None
    version: int | None = None
    differs: tuple[str, ...] = ()


class ImportPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What an import would do, entry by entry."""

    data: list[ImportedEntry]


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of templates that were created and overwritten, how many entries were skipped, and where it ended."""

    created: list[str]
    overwritten: list[str]
    skipped: int
    position: int


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """What a template of the configuration would be called; no template has the name."""

    name: str
    description: str


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The registered models."""

    data: list[ModelRegistered]
    position: int


class Datasets(msgspec.Struct, frozen=True, kw_only=True):
    """The registered data sets."""

    data: list[DatasetRegistered]
    position: int


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Who registered a model or data set last, and when (µs since 1970, UTC), and how many use it.

    Both counts are by the name that the configurations give: an id, a path or a hub id. What ships with SAE Studio is
    not `removable`.
    """

    registered_at: int
    registered_by: str | None
    removable: bool
    trainings: dict[str, int]
    templates: dict[str, int]


class CatalogueUse(msgspec.Struct, frozen=True, kw_only=True):
    """What every registered model and data set is used by, by its id."""

    models: dict[str, Use]
    datasets: dict[str, Use]
    position: int


class Inspecting(msgspec.Struct, frozen=True, kw_only=True):
    """An inspection that goes on: of which kind and source, for how many seconds, and what it does now."""

    kind: Literal["model", "dataset", "activations"]
    source: str
    seconds: float
    doing: str


class Inspectings(msgspec.Struct, frozen=True, kw_only=True):
    """The inspections that go on now."""

    data: list[Inspecting]


class InspectedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is; it was not registered."""

    model: ModelRegistered


class InspectedDataset(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set is; it was not registered."""

    dataset: DatasetRegistered


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to train on, and how many trainings may run at once."""

    data: list[Device]
    slots: int
    position: int


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in position order; everything up to `position` was considered, the log reaches to `head`."""

    data: list[msgspec.Raw]
    position: int
    head: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The server answers."""

    status: str
    log_id: str
    head: int


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """A link that signs one browser in, once, within some minutes."""

    url: str
