"""What the server answers when somebody wants something of a training: events, or a refusal with its reason. Pure."""

from __future__ import annotations

from typing import Literal

from events.control import CheckpointRequested, PauseRequested, ResumeRequested, StopRequested, TrainingDeleted
from events.event import Event
from events.status import PROCESS_EXPECTED, RESUMABLE, TrainingState

Action = Literal["pause", "resume", "stop", "checkpoint", "delete"]


class Refused(Exception):
    """The command does not fit the training's status; `reason` is one sentence."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def decide(state: TrainingState | None, action: Action) -> tuple[Event, ...]:
    """The events that carry out `action` on a training in `state` (None: there is none).

    Raises `Refused`. The caller fills in what a `TrainingDeleted` removed.
    """
    if state is None:
        raise Refused("There is no such training.")
    if state.deleted:
        raise Refused("This training was deleted.")
    match action:
        case "pause":
            return _pause(state)
        case "resume":
            return _resume(state)
        case "stop":
            return _stop(state)
        case "checkpoint":
            if state.status != "running":
                raise Refused(f"Only a running training can save a checkpoint; this one is {state.status}.")
            return (CheckpointRequested(),)
        case "delete":
            if is_live(state):
                raise Refused(f"This training is {state.status}; stop it before deleting it.")
            return (TrainingDeleted(),)


def is_live(state: TrainingState) -> bool:
    """Whether a process should be at work for it now."""
    return state.launched and state.status in PROCESS_EXPECTED


def awaits_slot(state: TrainingState) -> bool:
    """Whether the launcher should start a process for it as soon as a slot is free."""
    if state.deleted or state.launched:
        return False
    return state.status == "resuming" or (state.status == "queued" and state.launcher == "local")


def _pause(state: TrainingState) -> tuple[Event, ...]:
    match state.status:
        case "running":
            return (PauseRequested(),)
        case "queued" | "starting" | "resuming":
            raise Refused(f"This training is {state.status}; it can be paused once it is running.")
        case "pausing" | "paused":
            raise Refused(f"This training is {state.status} already.")
        case status:
            raise Refused(f"Only a running training can be paused; this one is {status}.")


def _resume(state: TrainingState) -> tuple[Event, ...]:
    if state.status in RESUMABLE:
        return (ResumeRequested(),)
    match state.status:
        case "completed":
            raise Refused("This training is completed: it has no steps left to resume.")
        case "pausing" | "stopping":
            raise Refused(f"This training is {state.status}; it can be resumed once that is done.")
        case status:
            raise Refused(f"This training is {status}; there is nothing to resume.")


def _stop(state: TrainingState) -> tuple[Event, ...]:
    match state.status:
        case "completed" | "failed" | "stopped":
            raise Refused(f"This training is {state.status}; there is nothing to stop.")
        case "stopping":
            raise Refused("This training is stopping already.")
        case _:
            return (StopRequested(),)
