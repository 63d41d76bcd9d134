"""The status table: what every event makes of a training in every status."""

from __future__ import annotations

from typing import get_args

import pytest

from events.control import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingInterrupted,
    TrainingLaunched,
    TrainingRenamed,
)
from events.event import Event
from events.status import PROCESS_EXPECTED, Status, TrainingState, evolve
from events.training import (
    CheckpointSaved,
    StepTrained,
    TrainingCompleted,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
    TroubleReported,
)

STATUSES: tuple[Status, ...] = get_args(Status)
STEP = StepTrained(
    step=1, loss=0, loss_reconstruction=0, l0=0, l0_fraction=0, fvu=0, learning_rate=0, grad_norm=0, tokens=0,
    tokens_per_second=0,
)  # fmt: skip


def everywhere(status: Status) -> dict[Status, Status]:
    return dict.fromkeys(STATUSES, status)


TABLE: list[tuple[Event, dict[Status, Status]]] = [
    (TrainingLaunched(launcher="local"), {"queued": "starting"}),
    (
        TrainingStarted(pid=1, host="box", device="cpu"),
        {"queued": "running", "starting": "running", "interrupted": "running"},
    ),
    (STEP, {"queued": "running", "starting": "running", "resuming": "running", "interrupted": "running"}),
    (PauseRequested(), {"running": "pausing"}),
    (TrainingPaused(step=1), everywhere("paused")),
    (ResumeRequested(), dict.fromkeys(("interrupted", "failed", "stopped", "paused"), "resuming")),
    (TrainingResumed(step=1), {**everywhere("running"), "pausing": "pausing", "stopping": "stopping"}),
    (
        StopRequested(),
        {
            **dict.fromkeys(("starting", "running", "pausing", "resuming"), "stopping"),
            **dict.fromkeys(("queued", "paused", "interrupted", "failed"), "stopped"),
        },
    ),
    (TrainingStopped(step=1), everywhere("stopped")),
    (TrainingCompleted(step=1), everywhere("completed")),
    (TrainingFailed(error="no memory"), everywhere("failed")),
    (TrainingInterrupted(reason="killed"), dict.fromkeys(PROCESS_EXPECTED, "interrupted")),
    (CheckpointRequested(), {}),
    (CheckpointSaved(step=1, path="p", size=1), {}),
    (TrainingRenamed(name="other"), {}),
    (TrainingDeleted(), {}),
]
"""Event → what becomes of each status; one that is not named stays."""


@pytest.mark.parametrize(
    ("event", "changes"), TABLE, ids=lambda value: "" if isinstance(value, dict) else type(value).__name__
)
def test_every_event_makes_of_every_status_what_the_table_says(event: Event, changes: dict[Status, Status]) -> None:
    for status in STATUSES:
        before = TrainingState(status=status, launched=status in PROCESS_EXPECTED)
        after = evolve(before, event)
        assert after.status == changes.get(status, status), status
        if after.status != status:
            # A process is to be expected; only the wish to go on has none yet.
            waits = isinstance(event, ResumeRequested)
            assert after.launched == (after.status in PROCESS_EXPECTED and not waits), status
        assert after.deleted == isinstance(event, TrainingDeleted)


def test_a_training_waits_for_a_slot_here_and_is_expected_to_start_elsewhere() -> None:
    assert evolve(None, TrainingCreated(name="x")) == TrainingState(status="queued")
    elsewhere = evolve(None, TrainingCreated(name="x", launcher="external"))
    assert (elsewhere.status, elsewhere.launched) == ("starting", True)


def test_one_that_waits_to_resume_is_stopped_at_once_and_interrupted_by_nothing_but_a_lost_process() -> None:
    waiting = evolve(TrainingState(status="paused"), ResumeRequested())
    assert (waiting.status, waiting.launched) == ("resuming", False)
    assert evolve(waiting, StopRequested()).status == "stopped"
    assert evolve(waiting, TrainingLaunched(launcher="local")) == TrainingState(status="resuming", launched=True)


def test_a_reason_is_told_until_the_training_goes_on() -> None:
    failed = evolve(TrainingState(status="running", launched=True), TrainingFailed(error="no memory"))
    interrupted = evolve(TrainingState(status="running", launched=True), TrainingInterrupted(reason="killed"))
    assert (failed.reason, interrupted.reason) == ("no memory", "killed")
    assert evolve(failed, ResumeRequested()).reason is None
    assert evolve(interrupted, STEP) == TrainingState(status="running", launched=True)


def test_what_is_wrong_while_a_training_runs_is_told_until_it_is_over() -> None:
    running = TrainingState(status="running", launched=True)
    troubled = evolve(running, TroubleReported(message="The disk is full."))
    assert (troubled.status, troubled.reason) == ("running", "The disk is full.")
    assert evolve(troubled, STEP) == troubled
    assert evolve(troubled, TroubleReported(message=None)) == running
    assert evolve(troubled, TrainingCompleted(step=9)).reason is None
    assert evolve(TrainingState(status="failed", reason="why"), TroubleReported(message=None)).reason == "why"
