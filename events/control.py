"""What the server decides about a training: wishes and verdicts, in the stream `control-ID`."""

from __future__ import annotations

from typing import Literal

from .event import Event
from .training import TrainingConfig


class TrainingCreated(Event, frozen=True, kw_only=True):
    """A training exists.

    `launcher` says who starts its process: `local`, this server; `external`, somebody else (a headless or foreign
    trainer). `config` is None for a trainer that is not ours.
    """

    name: str
    config: TrainingConfig | None = None
    kind: Literal["sae", "external"] = "sae"
    launcher: Literal["local", "external"] = "local"
    template_id: str | None = None
    retry_of: str | None = None


class TrainingLaunched(Event, frozen=True, kw_only=True):
    """The launcher has given the training a slot and started a process for it."""

    launcher: str
    pid: int | None = None
    host: str = ""
    device: str = ""


class WriterClaimed(Event, frozen=True, kw_only=True):
    """A process may write the training's stream under this epoch; writers of older epochs are fenced."""

    epoch: int
    first_version: int
    host: str = ""
    pid: int | None = None


class PauseRequested(Event, frozen=True, kw_only=True):
    """Save a checkpoint and end, to be resumed later."""


class ResumeRequested(Event, frozen=True, kw_only=True):
    """Go on from the newest checkpoint, in a new process."""


class StopRequested(Event, frozen=True, kw_only=True):
    """Save a checkpoint and end; without a live trainer the training is stopped at once."""


class CheckpointRequested(Event, frozen=True, kw_only=True):
    """Save a checkpoint now and go on."""


class TrainingInterrupted(Event, frozen=True, kw_only=True):
    """The trainer's process is gone though it had not finished; `stderr_tail` is the last that it printed."""

    reason: str
    stderr_tail: str = ""


class TrainingRenamed(Event, frozen=True, kw_only=True):
    """The training has a new name."""

    name: str


class TrainingTagged(Event, frozen=True, kw_only=True):
    """The training's tags are these now."""

    tags: tuple[str, ...]


class TrainingNoted(Event, frozen=True, kw_only=True):
    """The training's note (Markdown) is this now."""

    note: str


class TrainingDeleted(Event, frozen=True, kw_only=True):
    """The training is hidden and its checkpoint files are removed; its events stay.

    `removed` lists the removed paths and `bytes_freed` their size.
    """

    removed: tuple[str, ...] = ()
    bytes_freed: int = 0


class TrainingPurged(Event, frozen=True, kw_only=True):
    """The deleted training's events and files were removed for good: an `EventPurged` stands in place of each event.

    Nothing can be appended to its stream any more. `events` counts what was removed, `bytes_freed` is the size of its
    files.
    """

    events: int
    bytes_freed: int = 0
