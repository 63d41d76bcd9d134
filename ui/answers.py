"""What the API answers, as structs."""

from __future__ import annotations

from typing import Any

import msgspec

from events.training import Sae, TrainingConfig


class FieldProblem(msgspec.Struct, frozen=True):
    """One sentence about one field."""

    field: str
    message: str


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """A training as the API gives it.

    Times are in µs since 1970; `loss`, `l0` and `fvu` are the newest, the mean over the SAEs, `dead_latents` their sum.
    `verdict` is the worst of the SAEs' newest evaluations, with the `reasons` of all; `note` is Markdown.
    """

    id: str
    name: str
    status: str
    reason: str | None = None
    launched: bool = False
    step: int = 0
    total_steps: int | None = None
    config: TrainingConfig | None = None
    saes: tuple[Sae, ...] = ()
    pid: int | None = None
    host: str | None = None
    device: str | None = None
    device_name: str | None = None
    created_at: int | None = None
    started_at: int | None = None
    updated_at: int | None = None
    ended_at: int | None = None
    actor: str | None = None
    retry_of: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    loss: float | None = None
    l0: float | None = None
    fvu: float | None = None
    dead_latents: int | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None


class MetricRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The charted metrics of one SAE at one step; None where the log has no finite value.

    `timestamp` is in µs since 1970, `device_memory` in bytes.
    """

    step: int
    sae: int = 0
    timestamp: int = 0
    tokens: float | None = None
    loss: float | None = None
    loss_reconstruction: float | None = None
    loss_sparsity: float | None = None
    loss_auxiliary: float | None = None
    l0: float | None = None
    fvu: float | None = None
    dead_latents: float | None = None
    learning_rate: float | None = None
    sparsity_coefficient: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    device_memory: float | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One log line; `version` orders a training's lines, `timestamp` is in µs since 1970."""

    version: int
    timestamp: int
    level: str
    logger: str
    message: str
    position: int = 0


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk: `path` on `host`, `size` in bytes, `timestamp` in µs since 1970.

    `evaluation_fvu` is that of the evaluation at its step; `best` is the one with the lowest of these.
    """

    step: int
    timestamp: int
    path: str
    size: int
    host: str = ""
    reason: str = ""
    loss: float | None = None
    fvu: float | None = None
    evaluation_fvu: float | None = None
    best: bool = False


class CheckpointPage(msgspec.Struct, frozen=True, kw_only=True):
    """A training's checkpoints, the newest step first, and the position that they are true at."""

    data: tuple[Checkpoint, ...]
    position: int


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What one SAE was worth on held-out text: figures as in `EvaluationMade`, `timestamp` in µs since 1970."""

    step: int
    sae: int = 0
    timestamp: int = 0
    tokens: int = 0
    fvu: float | None = None
    l0: float | None = None
    dead_latents: int = 0
    dense_latents: int = 0
    duplicate_latents: int = 0
    ce_clean: float | None = None
    ce_spliced: float | None = None
    kl_spliced: float | None = None
    loss_recovered: float | None = None
    shrinkage: float | None = None
    density_histogram: tuple[int, ...] = ()
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    diverged: bool = False


class EvaluationPage(msgspec.Struct, frozen=True, kw_only=True):
    """A training's evaluations in order of step and SAE, and the position that they are true at."""

    data: tuple[Evaluation, ...]
    position: int


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """An event that `actor` caused; `data` holds its fields, `timestamp` is in µs since 1970.

    `training` and `template` are the ids of what it is about, with the names that they have by now.
    """

    position: int
    timestamp: int
    type: str
    actor: str | None = None
    stream: str = ""
    training: str | None = None
    training_name: str | None = None
    template: str | None = None
    template_name: str | None = None
    data: dict[str, Any] = {}


class ActivityPage(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, the newest first, and the position that this is true at."""

    data: tuple[Deed, ...]
    position: int


class AllActivityPage(ActivityPage, frozen=True, kw_only=True):
    """Who did what with anything; `actors` are all who ever did something."""

    actors: tuple[str, ...] = ()


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A training was deleted; `removed` are the paths that went with it, `bytes_freed` their size."""

    removed: tuple[str, ...] = ()
    bytes_freed: int = 0


class TrainingPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the trainings, the number of all that the search finds by status, and the position they are true at.

    `tags` are all that are in use, with the number of trainings that have each.
    """

    data: tuple[Training, ...]
    counts: dict[str, int] = {}
    tags: dict[str, int] = {}
    position: int = 0


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A training's metrics, complete up to `position`."""

    data: list[MetricRow]
    position: int


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Log lines in the order asked for; with those after `position` they are complete."""

    data: list[LogLine]
    position: int


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A named configuration; `version` is what a change of it expects. Times are in µs since 1970."""

    id: str
    version: int = 0
    name: str
    description: str = ""
    config: TrainingConfig
    favourite: bool = False
    created_at: int = 0
    updated_at: int = 0
    updated_by: str | None = None


class TemplatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Templates, favourites first, and the position that they are true at."""

    data: tuple[Template, ...]
    position: int = 0


class TemplateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A template as one event left it; `changed` names what that changed, `restored` the version it brought back.

    `timestamp` is in µs since 1970.
    """

    version: int
    timestamp: int
    actor: str | None = None
    type: str
    name: str
    description: str = ""
    config: TrainingConfig
    changed: tuple[str, ...] = ()
    restored: int | None = None


class ImportEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What an import would make of the entry at `index`: it is `new`, `identical`, `conflicting` or `invalid`.

    `differs` names in what a conflicting one differs, `reason` says why an invalid one cannot be taken in.
    """

    index: int
    name: str
    outcome: str
    reason: str | None = None
    version: int | None = None
    differs: tuple[str, ...] = ()


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The templates that an import created and overwrote, and how many entries it skipped."""

    created: tuple[str, ...]
    overwritten: tuple[str, ...]
    skipped: int


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """The name and the description that a configuration suggests for a template."""

    name: str
    description: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a training will need: tokens, weights, bytes on its device and on disk, seconds (None: not known)."""

    tokens: int
    parameters: int
    memory_bytes: int
    disk_bytes: int = 0
    seconds: float | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of a configuration; `config` has its defaults filled in where there is no problem."""

    problems: tuple[FieldProblem, ...] = ()
    warnings: tuple[FieldProblem, ...] = ()
    estimate: Estimate | None = None
    config: TrainingConfig | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Something to train on; memory in bytes."""

    id: str
    kind: str
    name: str
    memory_free: int | None = None


class SqlColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of an answer, with its type."""

    name: str
    type: str


class SqlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a question in SQL gives: true at `position`, `seconds` of work; `cut` says why rows are missing."""

    columns: tuple[SqlColumn, ...]
    data: tuple[list[Any], ...]
    rows: int
    cut: str | None = None
    position: int = 0
    head: int = 0
    seconds: float = 0.0


class SqlView(msgspec.Struct, frozen=True, kw_only=True):
    """A view that can be asked, with what its columns mean."""

    name: str
    comment: str
    columns: dict[str, str]


class SqlSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked in SQL, and questions with their statements."""

    views: tuple[SqlView, ...]
    questions: dict[str, str]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Who registered a model or data set last and when (µs since 1970), and how many use it, by the name they give.

    What is not `removable` ships with SAE Studio.
    """

    registered_at: int = 0
    registered_by: str | None = None
    removable: bool = False
    trainings: dict[str, int] = {}
    templates: dict[str, int] = {}


class CatalogueUse(msgspec.Struct, frozen=True, kw_only=True):
    """What every registered model and data set is used by, by its id."""

    models: dict[str, Use]
    datasets: dict[str, Use]


class Inspecting(msgspec.Struct, frozen=True, kw_only=True):
    """An inspection of a `model` or `dataset` that goes on, for how many seconds, and what it does now."""

    kind: str
    source: str
    seconds: float
    doing: str


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """The new thing's id, recorded at `position`."""

    id: str
    position: int


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command was recorded at `position`."""

    position: int
