"""The checkpoints that trainings have on disk."""

from __future__ import annotations

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.control import TrainingDeleted
from events.event import Recorded
from events.training import CheckpointDeleted, CheckpointSaved, TrainingResumed

from .evaluations import mean_fvu
from .projection import Projection, training_of
from .table import Changes, Table


class Saved(msgspec.Struct, frozen=True):
    """A row of the table `checkpoints`; `occurred_at` in µs since 1970 (UTC), `size` in bytes."""

    training: str
    step: int
    position: int
    occurred_at: int
    path: str
    size: int
    host: str
    loss: float | None
    fvu: float | None
    reason: str


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint.

    `path` is its folder on `host`, `size` its bytes, `loss` and `fvu` the means over the SAEs at that step,
    `evaluation_fvu` the mean FVU of the evaluation at that step, of the SAEs that have not diverged since; `best` marks
    the lowest of these. `timestamp` in µs since 1970 (UTC).
    """

    step: int
    position: int
    timestamp: int
    path: str
    size: int
    host: str
    reason: str
    loss: float | None = None
    fvu: float | None = None
    evaluation_fvu: float | None = None
    best: bool = False


CHECKPOINTS = Table("checkpoints", Saved, ("training", "step"))


class Checkpoints(Projection):
    """The checkpoints that exist and count: neither deleted nor beyond the step of a later resume."""

    name = "checkpoints"
    types = frozenset({"CheckpointSaved", "CheckpointDeleted", "TrainingResumed", "TrainingDeleted"})
    schema = (CHECKPOINTS,)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        changes = Changes(self.tables[0])

        def take(recorded: Recorded) -> None:
            training = training_of(recorded.stream)
            match recorded.data:
                case CheckpointSaved() as event:
                    changes.put(
                        Saved(
                            training,
                            event.step,
                            recorded.position,
                            recorded.occurred_at,
                            event.path,
                            event.size,
                            event.host,
                            event.loss,
                            event.fvu,
                            event.reason,
                        )
                    )
                case CheckpointDeleted(step=step):
                    changes.remove(training, step)
                case TrainingResumed(step=step):
                    changes.cut(training, step)
                case TrainingDeleted():
                    changes.cut(training, -1)
                case _:
                    pass

        self.each(batch, take)
        changes.apply(con, self.skip)


def list_(con: DuckDBPyConnection, id: str) -> list[CheckpointRow]:
    """The training's checkpoints, newest step first."""
    found = CHECKPOINTS.select(con, "WHERE training = ? ORDER BY step DESC", [id])
    evaluated = mean_fvu(con, id) if found else {}
    scores = {saved.step: evaluated[saved.step] for saved in found if saved.step in evaluated}
    best = min(scores, key=lambda step: scores[step], default=None)
    return [
        CheckpointRow(
            step=saved.step,
            position=saved.position,
            timestamp=saved.occurred_at,
            path=saved.path,
            size=saved.size,
            host=saved.host,
            reason=saved.reason,
            loss=saved.loss,
            fvu=saved.fvu,
            evaluation_fvu=evaluated.get(saved.step),
            best=saved.step == best,
        )
        for saved in found
    ]


def newest(con: DuckDBPyConnection, id: str) -> CheckpointRow | None:
    """The training's checkpoint of the highest step."""
    return next(iter(list_(con, id)), None)
