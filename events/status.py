"""A training's status, folded from its control and its facts in position order.

`queued → starting → running → completed | failed`; `running → pausing → paused → resuming → running`; any that is not
final `→ stopping → stopped`; one whose process is gone is `interrupted`, and `running` again should it turn out to
live.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .control import (
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingInterrupted,
    TrainingLaunched,
)
from .event import Event
from .training import (
    StepTrained,
    TrainingCompleted,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
    TroubleReported,
)

Status = Literal[
    "queued",
    "starting",
    "running",
    "pausing",
    "paused",
    "resuming",
    "stopping",
    "stopped",
    "interrupted",
    "completed",
    "failed",
]

PROCESS_EXPECTED: frozenset[Status] = frozenset({"starting", "running", "pausing", "resuming", "stopping"})
"""Statuses in which a trainer process should be alive; without one the training is interrupted."""

RESUMABLE: frozenset[Status] = frozenset({"interrupted", "failed", "stopped", "paused"})


class TrainingState(msgspec.Struct, frozen=True, kw_only=True):
    """What commands are decided against.

    `launched` is True from the moment that a process was started for the present attempt until that attempt ends:
    a training that waits for a slot to resume is `resuming` and not launched. `reason` says why it ended,
    or what is wrong while it runs.
    """

    status: Status = "queued"
    launcher: Literal["local", "external"] = "local"
    launched: bool = False
    deleted: bool = False
    reason: str | None = None


def evolve(state: TrainingState | None, event: Event) -> TrainingState:
    """The state after `event`; None before `TrainingCreated`. Events that do not matter to it change nothing."""
    if state is None:
        state = TrainingState()
    status = state.status
    match event:
        case TrainingCreated(launcher="local"):
            return TrainingState()
        case TrainingCreated():
            return TrainingState(status="starting", launcher="external", launched=True)
        case TrainingLaunched():
            return _to(state, "starting" if status == "queued" else status, launched=True)
        case TrainingStarted():
            return _to(state, "running" if status in ("queued", "starting", "interrupted") else status, launched=True)
        case StepTrained():
            if status in ("queued", "starting", "resuming", "interrupted"):
                return _to(state, "running", launched=True)
            return state
        case TrainingResumed():
            return _to(state, status if status in ("pausing", "stopping") else "running", launched=True)
        case PauseRequested():
            return _to(state, "pausing" if status == "running" else status, launched=state.launched)
        case ResumeRequested():
            return _to(state, "resuming" if status in RESUMABLE else status, launched=False)
        case StopRequested():
            if status in ("completed", "stopped"):
                return state
            alive = state.launched and status in PROCESS_EXPECTED
            return _to(state, "stopping" if alive else "stopped", launched=alive)
        case TrainingPaused():
            return _to(state, "paused", launched=False)
        case TrainingStopped():
            return _to(state, "stopped", launched=False)
        case TrainingCompleted():
            return _to(state, "completed", launched=False)
        case TrainingFailed(error=error):
            return _to(state, "failed", launched=False, reason=error)
        case TroubleReported(message=message):
            return msgspec.structs.replace(state, reason=message) if status in PROCESS_EXPECTED else state
        case TrainingInterrupted(reason=reason):
            if status not in PROCESS_EXPECTED:
                return state
            return _to(state, "interrupted", launched=False, reason=reason)
        case TrainingDeleted():
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


def _to(state: TrainingState, status: Status, *, launched: bool, reason: str | None = None) -> TrainingState:
    if status == state.status and launched == state.launched and reason is None:
        return state
    return TrainingState(
        status=status, launcher=state.launcher, launched=launched, deleted=state.deleted, reason=reason
    )
