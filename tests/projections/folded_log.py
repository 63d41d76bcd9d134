"""A log on a plain DuckDB connection, and what its events add up to in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from events import tables
from events.batch import Batch, batch_of
from events.event import Event, Recorded
from events.status import TrainingState, evolve
from events.streams import Admitted, Append
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    MetricsLogged,
    StepTrained,
    TrainingConfig,
    TrainingResumed,
)
from projections.projection import Projection, training_of
from projections.runner import every_projection

CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=100)


def step(n: int, sae: int = 0, **figures: Any) -> StepTrained:
    """A step whose figures tell it from others."""
    values: dict[str, Any] = {
        "loss": 1 / n,
        "loss_reconstruction": 1 / n,
        "l0": float(n),
        "l0_fraction": 0.01 * n,
        "fvu": 1 / n,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": n * 64,
        "tokens_per_second": 10.0,
        **figures,
    }
    return StepTrained(step=n, sae=sae, **values)


Placed = tuple[str, Event]
"""A stream and an event for it."""


class Log:
    """Events on a DuckDB connection in memory, folded by projections batch by batch."""

    def __init__(self, projections: Sequence[Projection] | None = None) -> None:
        self.con: DuckDBPyConnection = duckdb.connect(":memory:", config={"threads": 1})
        tables.create(self.con)
        self.projections = list(projections or every_projection())
        for each in self.projections:
            each.create(self.con)
        self.head = 0
        self._versions: dict[str, int] = {}
        self._batches: list[Batch] = []

    def make(self, *events: Placed, actor: str | None = None) -> Batch:
        """A batch of events after those that were appended, a millisecond apart."""
        admitted: list[Admitted] = []
        versions = dict(self._versions)
        for position, (stream, event) in enumerate(events, self.head + 1):
            versions[stream] = versions.get(stream, 0) + 1
            append = Append(stream, [event], actor=actor)
            admitted.append(Admitted(append, [event], [position * 1_000], position, versions[stream]))
        return batch_of(admitted)

    def append(self, *events: Placed, actor: str | None = None) -> Batch:
        """Appends the events as one batch and folds it in one transaction."""
        batch = self.make(*events, actor=actor)
        for stream, _ in events:
            self._versions[stream] = self._versions.get(stream, 0) + 1
        self.head = batch.last
        self._batches.append(batch)
        self.con.begin()
        tables.insert(self.con, batch)
        self.fold(batch)
        self.con.commit()
        return batch

    def fold(self, batch: Batch) -> None:
        for each in self.projections:
            each.fold(self.con, batch)

    def recorded(self) -> list[Recorded]:
        """Every event so far."""
        return [recorded for batch in self._batches for recorded in batch.events()]

    def replay(self, size: int) -> list[Projection]:
        """Second copies of the projections, folded from what the tables hold, `size` positions at a time."""
        copies = [type(each)("__copy") for each in self.projections]
        for each in copies:
            each.create(self.con)
        for after in range(0, self.head, size):
            batch = tables.load(self.con, after, after + size)
            for each in copies:
                each.fold(self.con, batch)
        return copies

    def rows(self, projections: Sequence[Projection] | None = None) -> dict[str, list[str]]:
        """Every table's rows as text, in a fixed order."""
        found: dict[str, list[str]] = {}
        for each in projections or self.projections:
            for kept, table in zip(each.schema, each.tables, strict=True):
                rows = self.con.execute(f"SELECT * FROM {table.name}").fetchall()
                found[kept.name] = sorted(map(repr, rows))
        return found

    def close(self) -> None:
        self.con.close()


class Model(msgspec.Struct):
    """A training as its events add up to, one by one."""

    state: TrainingState | None = None
    steps: list[Recorded] = []
    logged: list[Recorded] = []
    lines: list[Recorded] = []
    checkpoints: dict[int, Recorded] = {}
    evaluations: dict[tuple[int, int], Recorded] = {}

    def take(self, recorded: Recorded) -> None:
        event: Any = recorded.data
        if event.__class__.__module__ in ("events.control", "events.training"):
            self.state = evolve(self.state, event)
        match event:
            case StepTrained():
                self.steps.append(recorded)
            case MetricsLogged():
                self.logged.append(recorded)
            case CheckpointSaved(step=step):
                self.checkpoints[step] = recorded
            case CheckpointDeleted(step=step):
                self.checkpoints.pop(step, None)
            case EvaluationMade(step=step, sae=sae):
                self.evaluations[step, sae] = recorded
            case TrainingResumed(step=last):
                self.steps = [each for each in self.steps if each.data.step <= last]
                self.logged = [each for each in self.logged if each.data.step <= last]
                self.checkpoints = {step: each for step, each in self.checkpoints.items() if step <= last}
                self.evaluations = {key: each for key, each in self.evaluations.items() if key[0] <= last}
            case _ if recorded.type == "LogWritten":
                self.lines.append(recorded)
            case _ if recorded.type == "TrainingDeleted":
                self.checkpoints = {}
            case _:
                pass

    def latest(self) -> dict[int, StepTrained]:
        """SAE → its last step that counts."""
        return {each.data.sae: each.data for each in self.steps}


def models(recorded: Sequence[Recorded]) -> dict[str, Model]:
    """Training → its model."""
    found: dict[str, Model] = {}
    for each in recorded:
        if each.stream.startswith(("training-", "control-")):
            found.setdefault(training_of(each.stream), Model()).take(each)
    return found
