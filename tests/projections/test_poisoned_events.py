"""An odd event is left out and reported; everything else is folded."""

from __future__ import annotations

import logging

import pytest
from folded_log import Log, Placed, step

from events.control import TrainingCreated, TrainingLaunched, TrainingRenamed, WriterClaimed
from events.event import EventRejected, UnknownEvent
from events.log import LogWritten
from events.training import (
    CheckpointSaved,
    EvaluationMade,
    MetricsLogged,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
)
from projections import checkpoints, evaluations, logs, metrics, trainings
from projections.projection import Fault

C, T = "control-one", "training-one"
HUGE = 10**18 * 10**12

POISON: list[Placed] = [
    (T, UnknownEvent(name="FromTheFuture", data={"step": "x"})),
    (T, EventRejected(raw=b"\xff", reason="Not msgpack.")),
    (T, TrainingResumed(step=HUGE)),
    (T, TrainingResumed(step=-1)),
    (T, CheckpointSaved(step=HUGE, path="p", size=1)),
    (T, CheckpointSaved(step=2, path="p", size=HUGE)),
    (T, EvaluationMade(step=2, sae=HUGE, tokens=1, fvu=0.1, l0=1.0, dead_latents=0)),
    (T, EvaluationMade(step=2, sae=0, tokens=HUGE, fvu=0.1, l0=1.0, dead_latents=0, density_histogram=(HUGE,))),
    (T, MetricsLogged(step=HUGE, values={"a": 1.0})),
    (T, MetricsLogged(step=-5, values={"a": 1.0})),
    (T, TrainingPaused(step=-1)),
    (T, TrainingStarted(pid=HUGE, host="box", device="cpu", parameters=HUGE)),
    (C, TrainingLaunched(launcher="local", pid=HUGE)),
    (C, WriterClaimed(epoch=HUGE, first_version=HUGE)),
    (C, TrainingRenamed(name="nul \0 and \U0001f9e0")),
    (T, LogWritten(level="INFO", logger="\0", message="\0 quoted ' and % and \u2028")),
    ("training-", LogWritten(level="INFO", logger="", message="")),
    ("nowhere", TrainingPaused(step=1)),
]


@pytest.mark.parametrize("poison", POISON, ids=lambda each: type(each[1]).__name__)
@pytest.mark.filterwarnings("default")
def test_an_odd_event_stops_nothing(log: Log, poison: Placed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    log.append(
        (C, TrainingCreated(name="first")), (T, step(1)), poison, (T, LogWritten(level="INFO", logger="a", message="b"))
    )
    log.append((T, step(2)), (T, CheckpointSaved(step=2, path="good", size=1)), (C, TrainingRenamed(name="renamed")))
    row = trainings.get(log.con, "one")
    assert row is not None
    assert (row.name, row.tokens) == ("renamed", 128)
    assert metrics.history(log.con, "one")["step"].to_pylist() == [1, 2]
    assert metrics.history(log.con, "one", points=2).num_rows == 2
    assert "b" in [line.message for line in logs.lines(log.con, "one")]
    assert [each.path for each in checkpoints.list_(log.con, "one")] == ["good"]
    assert all(each.fvu == 0.1 for each in evaluations.list_(log.con, "one"))
    assert trainings.list_(log.con)[1] == {row.status: 1}
    assert log.rows() == log.rows(log.replay(2))


def test_what_is_left_out_is_reported_with_its_position(log: Log) -> None:
    log.append((C, TrainingCreated(name="first")), (T, CheckpointSaved(step=HUGE, path="p", size=1)))
    faults = {each.name: each.faults for each in log.projections if each.faults}
    assert faults == {"checkpoints": [Fault(2, f"CheckpointSaved: step {HUGE} is not a step.")]}


def test_a_value_that_no_column_holds_is_unknown_and_its_row_is_kept(log: Log) -> None:
    log.append((C, TrainingCreated(name="first")), (C, TrainingLaunched(launcher="local", pid=HUGE)))
    row = trainings.get(log.con, "one")
    assert row is not None
    assert (row.name, row.pid, row.status) == ("first", None, "starting")
