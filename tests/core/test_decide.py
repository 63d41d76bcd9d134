"""Commands against states: what they become, and why they are refused."""

from __future__ import annotations

from typing import get_args

import pytest

from core.decide import Action, Refused, awaits_slot, decide, is_live
from events.control import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingLaunched,
)
from events.status import PROCESS_EXPECTED, Status, TrainingState, evolve

ALLOWED = {
    "pause": {"running"},
    "resume": {"interrupted", "failed", "stopped", "paused"},
    "stop": {"queued", "starting", "running", "pausing", "paused", "resuming", "interrupted"},
    "checkpoint": {"running"},
    "delete": {"queued", "paused", "stopped", "interrupted", "completed", "failed"},
}
EVENTS = {
    "pause": PauseRequested(),
    "resume": ResumeRequested(),
    "stop": StopRequested(),
    "checkpoint": CheckpointRequested(),
    "delete": TrainingDeleted(),
}


def state(status: Status, **fields: bool) -> TrainingState:
    return TrainingState(status=status, **{"launched": status in PROCESS_EXPECTED, **fields})


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("status", get_args(Status))
def test_an_action_is_carried_out_where_the_status_table_allows_it_and_refused_elsewhere(
    action: Action, status: Status
) -> None:
    if status in ALLOWED[action]:
        assert decide(state(status), action) == (EVENTS[action],)
        return
    with pytest.raises(Refused) as refused:
        decide(state(status), action)
    assert status in refused.value.reason
    assert refused.value.reason.endswith(".")


@pytest.mark.parametrize("action", get_args(Action))
def test_nothing_can_be_done_with_what_is_not_there(action: Action) -> None:
    for missing in (None, state("completed", deleted=True), state("running", deleted=True)):
        with pytest.raises(Refused):
            decide(missing, action)


def test_what_is_asked_for_comes_true_in_the_state() -> None:
    running = state("running")
    assert evolve(running, *decide(running, "pause")).status == "pausing"
    assert evolve(running, *decide(running, "stop")).status == "stopping"
    queued = state("queued")
    assert evolve(queued, *decide(queued, "stop")).status == "stopped"
    waiting = state("resuming", launched=False)
    assert evolve(waiting, *decide(waiting, "stop")).status == "stopped"
    paused = state("paused")
    assert evolve(paused, *decide(paused, "resume")).status == "resuming"


def test_one_that_waits_to_resume_can_be_deleted_and_one_that_resumes_cannot() -> None:
    assert decide(state("resuming", launched=False), "delete") == (TrainingDeleted(),)
    with pytest.raises(Refused):
        decide(state("resuming"), "delete")


def test_a_slot_is_awaited_until_a_process_was_started() -> None:
    created = evolve(None, TrainingCreated(name="x"))
    assert awaits_slot(created)
    assert not is_live(created)
    launched = evolve(created, TrainingLaunched(launcher="local"))
    assert not awaits_slot(launched)
    assert is_live(launched)
    headless = evolve(None, TrainingCreated(name="x", launcher="external"))
    assert not awaits_slot(headless)
    assert awaits_slot(evolve(state("interrupted"), ResumeRequested()))
    assert not awaits_slot(evolve(created, TrainingDeleted()))
