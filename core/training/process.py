"""The trainer as a process: its lock, its events, its log, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TextIO

from core import run as runs
from events.client import ServerAddress, read_address
from events.emitter import Emitter
from events.errors import SpoolLocked
from events.event import Event
from events.spool import hold
from events.training import TrainingFailed

from .control import Wishes
from .reporting import Emit, Progress, Reporting, Troubles

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_HELD = 75

FLUSH_SECONDS = 30.0
LOCK_SECONDS = 2.0

log = logging.getLogger("core.training")


def run(folder: Path, *, resume: bool, progress: TextIO | None) -> int:
    """Train what `folder` describes. Returns the exit code; never raises for what goes wrong in the training."""
    try:
        spec = runs.read(folder)
        # The server takes the lock for a moment to see whether a trainer lives.
        lock = hold(folder, wait=LOCK_SECONDS)
    except SpoolLocked as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_HELD
    except runs.RunSpecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    with lock:
        wishes = Wishes()
        wishes.listen_to_signals()
        troubles = Troubles(lambda event, occurred_at: emit(event, occurred_at))
        emitter = Emitter(
            folder,
            spec.id,
            address=lambda: _address(spec.data_dir),
            created=spec.created,
            created_at=spec.created_at,
            on_control=wishes.on_control,
            on_disk=lambda sentence: troubles.tell("spool", sentence),
        )

        def emit(event: Event, occurred_at: int | None) -> None:
            emitter.emit(event, occurred_at=occurred_at)

        lines = Progress(progress)
        with Reporting(emit):
            # What an earlier process of this training did must not be done twice, whoever started this one.
            again = resume or spec.resume or emitter.version > 0 or (folder / runs.CHECKPOINTS).is_dir()
            code = _train(folder, spec, emit, wishes, lines, troubles, resume=again)
        # Without a server in sight there is nobody to wait for: the spool is taken in later.
        emitter.close(FLUSH_SECONDS if emitter.connected or _address(spec.data_dir) is not None else 0.0)
    return code


def _train(
    folder: Path,
    spec: runs.RunSpec,
    emit: Emit,
    wishes: Wishes,
    lines: Progress,
    troubles: Troubles,
    *,
    resume: bool,
) -> int:
    trainer = None
    try:
        # Imported here, so that an error in loading torch is told like any other.
        from .trainer import Trainer

        trainer = Trainer(spec, folder, emit, wishes, lines, troubles, resume=resume)
        outcome = trainer.run()
    except Exception as error:
        sentence = describe(error)
        log.exception("The training failed: %s", sentence)
        step = trainer.step if trainer is not None else None
        emit(TrainingFailed(error=sentence, traceback=traceback.format_exc(), step=step), None)
        lines.say({"ended": "failed", "error": sentence})
        return EXIT_FAILED
    lines.say({"ended": outcome, "step": trainer.step})
    return EXIT_DONE


def describe(error: BaseException) -> str:
    """An exception as one sentence: its own words where it was raised for people, else with its type."""
    words = " ".join(str(error).split())
    if not words:
        return f"{type(error).__name__}."
    words = words if words.endswith((".", "!", "?")) else f"{words}."
    if type(error).__name__ == "OutOfMemoryError":
        return f"The device's memory does not suffice; a smaller batch_size or latent_dim needs less. ({words})"
    module = type(error).__module__
    if module.startswith(("core.", "events.")) or type(error) is ValueError:
        return words
    return f"{type(error).__name__}: {words}"


def _address(data_dir: Path) -> ServerAddress | None:
    """The server to send to: the environment's, else the data directory's, looked up again at every connection."""
    url, token = os.environ.get("SAESTUDIO_SERVER"), os.environ.get("SAESTUDIO_TOKEN")
    if url:
        return ServerAddress(url=url, token=token)
    return read_address(data_dir)
