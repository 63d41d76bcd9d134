"""Trainings as they are now: status, times, configuration, and the latest figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, cast, get_args

import msgspec
import numpy as np
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.control import (
    TrainingCreated,
    TrainingLaunched,
    TrainingNoted,
    TrainingRenamed,
    TrainingTagged,
    WriterClaimed,
)
from events.event import Event, Float32, Recorded, UInt16, UInt32, UInt64
from events.status import Status, TrainingState, evolve
from events.streams import TRAINING
from events.training import (
    MetricsLogged,
    Sae,
    StepTrained,
    TrainingConfig,
    TrainingResumed,
    TrainingStarted,
    sae_name,
)

from .evaluations import verdicts
from .filters import group_key, where
from .metrics import STEPS, counted
from .projection import Projection, QueryRefused, at_least, one_of, training_of, words
from .table import Changes, Json, Table

_logger = logging.getLogger(__name__)

ENDED: frozenset[Status] = frozenset({"paused", "stopped", "interrupted", "completed", "failed"})
"""Statuses in which no process is at work or awaited."""


class Training(msgspec.Struct):
    """A row of the table `trainings`; times in µs since 1970 (UTC).

    `created` is None as long as only facts have come in; `resumes` are pairs of step and position.
    """

    id: str
    position: int = 0
    name: str = ""
    status: str = "queued"
    reason: str | None = None
    launcher: str = "local"
    launched: bool = False
    deleted: bool = False
    kind: str = "sae"
    config: Json | None = None
    model: str | None = None
    datasets: tuple[str, ...] = ()
    architecture: str | None = None
    total_steps: int | None = None
    step: int = 0
    epoch: int = 0
    tags: tuple[str, ...] = ()
    note: str = ""
    template_id: str | None = None
    retry_of: str | None = None
    pid: int | None = None
    host: str = ""
    device: str = ""
    device_name: str = ""
    saes: Json = "[]"
    parameters: int = 0
    created_at: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    ended_at: int | None = None
    actor: str | None = None
    resumes: Json = "[]"


class Figures(msgspec.Struct, frozen=True):
    """A row of the table `training_figures`: the latest step of one SAE that counts."""

    training: str
    sae: UInt16
    position: UInt64
    occurred_at: int
    step: UInt32
    loss: Float32
    l0: Float32
    fvu: Float32
    dead_latents: UInt32
    tokens: UInt64
    tokens_per_second: Float32


class TrainingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A training.

    `step` is the last that counts and `progress` (0-1) its share of `total_steps`; `loss`, `l0` and `fvu` are the means
    of the SAEs' latest steps, `dead_latents` their sum, `tokens` counts the training's so far. `verdict` is the worst
    of the SAEs' newest evaluations, `reasons` are all that these give. Times in µs since 1970 (UTC):
    `started_at` of its first process, `updated_at` of its last event, `ended_at` of the end of its last process (None
    while one is at work or awaited). `pid` is None where no process is expected; `actor` is who created it.
    """

    id: str
    name: str
    status: Status
    reason: str | None
    kind: str
    launcher: str
    launched: bool
    deleted: bool
    step: int
    total_steps: int | None
    progress: float
    config: TrainingConfig | None
    tags: tuple[str, ...]
    note: str
    template_id: str | None
    retry_of: str | None
    pid: int | None
    host: str
    device: str
    device_name: str
    saes: tuple[Sae, ...]
    parameters: int
    created_at: int
    started_at: int | None
    updated_at: int
    ended_at: int | None
    actor: str | None
    epoch: int
    loss: float | None
    l0: float | None
    fvu: float | None
    dead_latents: int | None
    tokens: int | None
    tokens_per_second: float | None
    verdict: str | None = None
    reasons: tuple[str, ...] = ()


TRAININGS = Table("trainings", Training, ("id",))
FIGURES = Table("training_figures", Figures, ("training", "sae"))

_IN_PLACE = 8
"""Of so many trainings in a batch (a live one), rows are changed in place; more are cheaper to write anew."""

_FIGURES = tuple(Figures.__struct_fields__[2:])
_STEP = StepTrained(
    step=1, loss=0, loss_reconstruction=0, l0=0, l0_fraction=0, fvu=0, learning_rate=0, grad_norm=0, tokens=0,
    tokens_per_second=0,
)  # fmt: skip


class Trainings(Projection):
    """Every training's state, folded by `events.status`, and the latest figures of its SAEs.

    A batch of steps costs no Python per step: only the last row of every SAE is looked at, and the first after a
    control event, which may tell that the trainer lives.
    """

    name = "trainings"
    version = 3
    types = frozenset(
        {
            "TrainingCreated",
            "TrainingLaunched",
            "WriterClaimed",
            "PauseRequested",
            "ResumeRequested",
            "StopRequested",
            "TrainingInterrupted",
            "TrainingRenamed",
            "TrainingTagged",
            "TrainingNoted",
            "TrainingDeleted",
            "TrainingStarted",
            "StepTrained",
            "MetricsLogged",
            "TrainingPaused",
            "TrainingResumed",
            "TrainingStopped",
            "TrainingCompleted",
            "TrainingFailed",
            "TroubleReported",
        }
    )
    schema = (TRAININGS, FIGURES)

    def __init__(self, suffix: str = "") -> None:
        super().__init__(suffix)
        # Trainings whose state another step would not change, as of position `_seen`.
        self._settled: set[str] = set()
        self._seen = 0

    def purge(self, con: DuckDBPyConnection, trainings: Sequence[str]) -> None:
        super().purge(con, trainings)
        con.execute(f"DELETE FROM {self.tables[0].name} WHERE id IN (SELECT unnest(?))", [list(trainings)])
        self._settled.difference_update(trainings)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        if batch.first <= self._seen:
            # The transaction of the batch before was rolled back.
            self._settled.clear()
        self._seen = batch.last
        trainings, figures = self.tables
        steps = _Steps(batch.columnar.get("StepTrained"))
        cold: dict[str, list[Recorded]] = {}
        self.each(batch, lambda recorded: cold.setdefault(training_of(recorded.stream), []).append(recorded))
        touched = cold.keys() | (steps.trainings() - self._settled)
        rows: dict[str, Training] = {}
        if touched:
            rows = {row.id: row for row in trainings.select(con, "WHERE id IN (SELECT unnest(?))", [sorted(touched)])}
        resumed: dict[str, int] = {}
        changed, before = Changes(trainings), Changes(figures)
        for id in sorted(touched):
            old = rows.get(id)
            row = Training(id=id, name=id) if old is None else copy(old)
            at = self._evolve(row, cold.get(id, []), steps)
            if old is not None and len(touched) <= _IN_PLACE:
                trainings.change(con, old, row, self.skip)
            else:
                changed.put(row)
            if at is not None:
                resumed[id] = at
                before.cut(id, -1)
                for each in self._figures_before(con, row):
                    before.put(each)
            state = _state(row)
            (self._settled.add if evolve(state, _STEP) == state else self._settled.discard)(id)
        changed.apply(con, self.skip)
        before.apply(con, self.skip)
        latest = [each for each in steps.latest() if each.position > resumed.get(each.training, 0)]
        figures.update(con, latest, self.skip)

    def _evolve(self, row: Training, events: list[Recorded], steps: _Steps) -> int | None:
        """Folds a training's events into its row; the position of its last resume among them."""
        resumed: int | None = None
        after = 0
        for recorded in events:
            self._lives(row, steps.between(row.id, after, recorded.position))
            after = recorded.position
            try:
                _take(row, recorded)
            except Exception as error:
                _logger.exception("A training's event at position %d cannot be folded.", recorded.position)
                self.skip(recorded.position, f"{recorded.type}: {error!r}")
                continue
            if recorded.type == "TrainingResumed":
                resumed = recorded.position
        self._lives(row, steps.between(row.id, after, None))
        return resumed

    def _lives(self, row: Training, step: tuple[int, int] | None) -> None:
        """Folds the first of a run of steps; the others change nothing."""
        if step is not None:
            position, occurred_at = step
            _transition(row, _STEP, position, occurred_at)

    def _figures_before(self, con: DuckDBPyConnection, row: Training) -> list[Figures]:
        """The latest steps that still count right after the training's last resume."""
        resumes = msgspec.json.decode(row.resumes, type=list[tuple[int, int]])
        packed = ", ".join(f"{name} := {name}" for name in _FIGURES)
        found = con.execute(
            f"SELECT sae, arg_max(struct_pack({packed}), position) FROM {STEPS}"
            f" WHERE stream = ? AND position < ? AND {counted(resumes)} GROUP BY sae",
            [TRAINING + row.id, resumes[-1][1]],
        ).fetchall()
        return [Figures(row.id, sae, **figures) for sae, figures in found]


class _Steps:
    """The steps of a batch, by training."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._rows: dict[str, Any] = {}
        self._code: Any = None
        if table is None:
            return
        streams = table["stream"].combine_chunks().dictionary_encode()
        self._code = streams.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self._rows = {training_of(stream): code for code, stream in enumerate(streams.dictionary.to_pylist())}

    def trainings(self) -> set[str]:
        """The trainings that have steps in the batch."""
        return set(self._rows)

    def between(self, training: str, after: int, before: int | None) -> tuple[int, int] | None:
        """Position and time of the training's first step after one position and before another."""
        if training not in self._rows:
            return None
        if not isinstance(self._rows[training], tuple):
            rows = np.flatnonzero(self._code == self._rows[training])
            positions = self._table["position"].to_numpy()[rows]
            self._rows[training] = (positions, self._table["occurred_at"].to_numpy()[rows])
        positions, times = self._rows[training]
        index = int(np.searchsorted(positions, after, side="right"))
        if index == len(positions) or (before is not None and positions[index] > before):
            return None
        return int(positions[index]), int(times[index])

    def latest(self) -> Iterator[Figures]:
        """The last row of every training and SAE."""
        if self._table is None:
            return
        keys = (self._code << 16) | self._table["sae"].to_numpy()
        _, from_end = np.unique(keys[::-1], return_index=True)
        last = self._table.take(np.sort(len(keys) - 1 - from_end))
        for row in last.select(["stream", "sae", *_FIGURES]).to_pylist():
            yield Figures(training_of(row.pop("stream")), **row)


def _state(row: Training) -> TrainingState:
    return TrainingState(
        status=cast(Status, row.status),
        launcher=cast(Any, row.launcher),
        launched=row.launched,
        deleted=row.deleted,
        reason=row.reason,
    )


def _transition(row: Training, event: Event, position: int, occurred_at: int) -> None:
    before = _state(row)
    state = evolve(before, event)
    if state == before:
        return
    row.position = position
    row.status, row.reason = state.status, state.reason
    row.launcher, row.launched, row.deleted = state.launcher, state.launched, state.deleted
    if state.status in ENDED:
        row.ended_at = row.ended_at or occurred_at
        row.pid = None
    else:
        row.ended_at = None
    if row.started_at is None and state.status == "running":
        row.started_at = occurred_at


def _take(row: Training, recorded: Recorded) -> None:
    """Folds one event of the training's control or facts; all that can fail comes before the first change."""
    event = recorded.data
    match event:
        case TrainingCreated():
            configured = _configured(event.config)
            row.name, row.kind = event.name, event.kind
            row.template_id, row.retry_of = event.template_id, event.retry_of
            row.created_at, row.actor = recorded.occurred_at, recorded.actor
            _configure(row, configured)
        case TrainingLaunched():
            row.pid, row.host, row.device = event.pid, event.host or row.host, event.device or row.device
        case WriterClaimed():
            row.epoch = event.epoch
            row.pid, row.host = event.pid or row.pid, event.host or row.host
        case TrainingStarted():
            configured = _configured(event.config)
            saes = msgspec.json.encode(event.saes).decode()
            row.pid, row.host, row.device, row.device_name = event.pid, event.host, event.device, event.device_name
            row.saes, row.parameters = saes, event.parameters
            row.started_at = row.started_at or recorded.occurred_at
            _configure(row, configured)
        case TrainingRenamed(name=name):
            row.name = name
        case TrainingTagged(tags=tags):
            row.tags = tags
        case TrainingNoted(note=note):
            row.note = note
        case TrainingResumed(step=step):
            resumes = msgspec.json.decode(row.resumes, type=list[tuple[int, int]])
            row.resumes = msgspec.json.encode([*resumes, (step, recorded.position)]).decode()
            row.step = step
        case MetricsLogged(step=step):
            row.step = step
        case _:
            pass
    row.position = recorded.position
    row.updated_at = max(row.updated_at, recorded.occurred_at)
    _transition(row, event, recorded.position, recorded.occurred_at)


def _configured(config: TrainingConfig | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    return {
        "config": msgspec.json.encode(config).decode(),
        "model": config.model or config.activations or "",
        "datasets": config.datasets,
        "architecture": config.architecture_type,
        "total_steps": config.total_steps,
    }


def _configure(row: Training, configured: Mapping[str, Any]) -> None:
    for name, value in configured.items():
        setattr(row, name, value)


# Queries

SORTS = {
    "created": "created_at",
    "updated": "shown_updated_at",
    "started": "started_at",
    "ended": "ended_at",
    "name": "lower(name)",
    "status": "status",
    "step": "shown_step",
    "progress": "progress",
    "model": "lower(model)",
    "architecture": "architecture",
    "loss": "loss",
    "l0": "l0",
    "fvu": "fvu",
    "dead_latents": "dead_latents",
    "tokens": "tokens",
    "tokens_per_second": "tokens_per_second",
}

MEANS = ", ".join(f"avg({name}) FILTER (WHERE isfinite({name})) AS {name}" for name in ("loss", "l0", "fvu"))
"""Means over the SAEs. One that has diverged has no figures any more, and takes nothing from what the others say."""

_SHOWN = (
    "SELECT t.*, f.* EXCLUDE (training, step, occurred_at), greatest(t.step, coalesce(f.step, 0)) AS shown_step,"
    " greatest(t.updated_at, coalesce(f.occurred_at, 0)) AS shown_updated_at,"
    " CASE WHEN status = 'completed' THEN 1.0 WHEN coalesce(total_steps, 0) = 0 THEN 0.0"
    " ELSE least(1.0, shown_step / total_steps) END AS progress"
    f" FROM {TRAININGS.name} AS t LEFT JOIN (SELECT training, max(step) AS step, max(occurred_at) AS occurred_at,"
    f" {MEANS}, sum(dead_latents)::BIGINT AS dead_latents,"
    " max(tokens) AS tokens, arg_max(tokens_per_second, position) AS tokens_per_second"
    f" FROM {FIGURES.name} GROUP BY training) AS f ON f.training = t.id WHERE created_at IS NOT NULL"
)

_READ = TrainingRow.__struct_fields__[:-2]
_COLUMNS = tuple({"step": "shown_step", "updated_at": "shown_updated_at"}.get(name, name) for name in _READ)

_SEARCHED = "lower(concat_ws(' ', id, name, model, array_to_string(datasets, ' '), array_to_string(tags, ' '), note))"


def get(con: DuckDBPyConnection, id: str) -> TrainingRow | None:
    """The training, also a deleted one; None where there is none of this id."""
    found = con.execute(f"SELECT {', '.join(_COLUMNS)} FROM ({_SHOWN} AND t.id = ?)", [id]).fetchall()
    return _rows(con, found)[0] if found else None


class Named(NamedTuple):
    """What a training is called, and whether it is ours (`sae`) or somebody else's (`external`)."""

    name: str
    kind: str


def named(con: DuckDBPyConnection, id: str) -> Named | None:
    """The training's name and kind, in a tenth of the time that `get` takes; None where there is none, or no more."""
    found = con.execute(
        f"SELECT name, kind FROM {TRAININGS.name} WHERE id = ? AND created_at IS NOT NULL AND NOT deleted", [id]
    ).fetchone()
    return None if found is None else Named(*found)


def state(con: DuckDBPyConnection, id: str) -> TrainingState | None:
    """What a command on the training is decided against; None where there is none of this id."""
    found = TRAININGS.select(con, "WHERE id = ? AND created_at IS NOT NULL", [id])
    return _state(found[0]) if found else None


def list_(
    con: DuckDBPyConnection,
    *,
    status: str | None = None,
    q: str | None = None,
    conditions: str | None = None,
    tags: Sequence[str] = (),
    group: str | None = None,
    sort: str = "-created",
    limit: int = 50,
    offset: int = 0,
    deleted: bool = False,
) -> tuple[list[TrainingRow], dict[str, int]]:
    """A page of the trainings, and how many there are of each status, whatever `status`, `limit` and `offset` say.

    `status` may be several, separated by commas. Every word of `q` is looked for in id, name, model, data sets, tags
    and note, whatever its case. `conditions` are on the configuration, as `filters.where` reads them; of `tags` a
    training has all. `sort` is one of the names in the error's list, with `-` before it for
    descending; trainings without a value come last. With a `group` (`status`, `tag` or a field) what is the same in it
    stands together. `deleted` shows the deleted ones instead. Raises `QueryRefused`.
    """
    limit, offset = at_least("limit", limit, 1), at_least("offset", offset, 0)
    column = SORTS[one_of("sort", sort.removeprefix("-"), tuple(SORTS))]
    direction = "DESC" if sort.startswith("-") else "ASC"
    statuses = _statuses(status)
    matching, parameters = _matching(q, conditions, tags, deleted)
    counts = dict(con.execute(f"SELECT status, count(*) FROM ({matching}) GROUP BY status", parameters).fetchall())
    chosen = f"WHERE status IN ({', '.join('?' * len(statuses))})" if statuses else ""
    together = f"{group_key(group)} NULLS LAST, " if group else ""
    found = con.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM ({matching}) {chosen} ORDER BY {together}{column} {direction} NULLS LAST,"
        f" id {direction} LIMIT {limit} OFFSET {offset}",
        [*parameters, *statuses],
    ).fetchall()
    return _rows(con, found), counts


def tags_in_use(con: DuckDBPyConnection) -> dict[str, int]:
    """Every tag of a training that is not deleted, with how many have it, the commonest first."""
    found = con.execute(
        f"SELECT tag, count(*) AS number FROM (SELECT unnest(tags) AS tag FROM {TRAININGS.name}"
        " WHERE NOT deleted AND created_at IS NOT NULL) GROUP BY tag ORDER BY number DESC, tag"
    ).fetchall()
    return dict(found)


def _matching(q: str | None, conditions: str | None, tags: Sequence[str], deleted: bool) -> tuple[str, list[object]]:
    """SQL for all trainings that a search finds, whatever their status, and its parameters."""
    sql, parameters = f"{_SHOWN} AND deleted = ?", list[object]([deleted])
    for word in words(q):
        sql += f" AND contains({_SEARCHED}, ?)"
        parameters.append(word)
    if tags:
        sql += " AND list_has_all(tags, ?::VARCHAR[])"
        parameters.append(list(tags))
    more, values = where(conditions)
    return sql + more, [*parameters, *values]


def _statuses(status: str | None) -> list[str]:
    known = get_args(Status)
    named = [each.strip() for each in (status or "").split(",") if each.strip()]
    for each in named:
        if each not in known:
            raise QueryRefused("status", f"{each!r} is not known; allowed: {', '.join(known)}.")
    return named


def _rows(con: DuckDBPyConnection, found: Sequence[tuple[Any, ...]]) -> list[TrainingRow]:
    rows: list[TrainingRow] = []
    judged = verdicts(con, [values[0] for values in found])
    for values in found:
        row = dict(zip(_READ, values, strict=True))
        row["config"] = row["config"] and msgspec.json.decode(row["config"], type=TrainingConfig)
        saes = row["saes"] = msgspec.json.decode(row["saes"], type=tuple[Sae, ...])
        row["tags"] = tuple(row["tags"])
        verdict, reasons = judged.get(row["id"], (None, ()))
        said = tuple(f"{sae_name(saes[sae]) if sae < len(saes) else f'SAE {sae}'}: {reason}" for sae, reason in reasons)
        rows.append(TrainingRow(**row, verdict=verdict, reasons=said))
    return rows
