"""A trainer process without torch: a real lock, a real spool, a real socket; only its mathematics is made up.

`python fake_trainer.py RUN_FOLDER [--resume]`. The configuration's `data_seed` is its milliseconds per step, and its
`seed` 13 makes it fail at step 3, 14 kills it half-way in its first life.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from core import run as runs
from events.client import read_address
from events.control import CheckpointRequested, PauseRequested, StopRequested
from events.emitter import Emitter
from events.errors import SpoolLocked
from events.event import Recorded
from events.log import LogWritten
from events.spool import hold
from events.training import (
    CheckpointSaved,
    Sae,
    StepTrained,
    TrainingCompleted,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / runs.CHECKPOINTS).glob("step-*"))


def main(folder: Path, resume: bool) -> int:
    spec = runs.read(folder)
    try:
        lock = hold(folder)
    except SpoolLocked:
        return 75
    wishes: list[object] = []
    signal.signal(signal.SIGTERM, lambda *_: wishes.append(PauseRequested()))

    def on_control(recorded: Recorded) -> None:
        wishes.append(recorded.data)

    resume = resume or spec.resume
    with lock:
        emitter = Emitter(
            folder,
            spec.id,
            address=lambda: read_address(spec.data_dir),
            created=spec.created,
            created_at=spec.created_at,
            on_control=on_control,
        )
        saved = checkpoints(folder)
        step = saved[-1] if resume and saved else 0
        config = spec.config
        saes = tuple(Sae(layer=layer, hook=hook) for layer in config.training_layers for hook in config.hook_types)
        emitter.emit(
            TrainingStarted(pid=os.getpid(), host=socket.gethostname(), device="cpu", saes=saes, config=config)
        )
        if resume:
            emitter.emit(TrainingResumed(step=step))
        emitter.emit(LogWritten(level="INFO", logger="fake", message=f"training from step {step}"))
        print("the fake trainer says something on stderr", file=sys.stderr, flush=True)

        def save(reason: str) -> None:
            path = folder / runs.CHECKPOINTS / f"step-{step:08d}"
            path.mkdir(parents=True, exist_ok=True)
            (path / "state.json").write_text(json.dumps({"step": step}))
            emitter.emit(CheckpointSaved(step=step, path=str(path), size=len(str(step)) + 12, reason=reason))

        pause = threading.Event()
        ended: object = None
        while step < config.total_steps and ended is None:
            pause.wait(config.data_seed / 1000)
            step += 1
            for index in range(len(saes)):
                emitter.emit(
                    StepTrained(
                        step=step, sae=index, loss=1 / step, loss_reconstruction=1 / step, l0=4.0, l0_fraction=0.25,
                        fvu=1 / step, learning_rate=1e-3, grad_norm=0.1, tokens=step * config.batch_size,
                        tokens_per_second=1000.0,
                    )
                )  # fmt: skip
            if config.seed == 13 and step == 3:
                emitter.emit(TrainingFailed(error="Thirteen is unlucky.", traceback="…", step=step))
                emitter.close(30)
                return 1
            if config.seed == 14 and not resume and step == config.total_steps // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            while wishes:
                match wishes.pop(0):
                    case CheckpointRequested():
                        save("request")
                    case PauseRequested():
                        ended = TrainingPaused(step=step)
                    case StopRequested():
                        ended = TrainingStopped(step=step)
            if ended is None and config.checkpoint_interval and step % config.checkpoint_interval == 0:
                save("interval")
        if ended is None:
            ended = TrainingCompleted(step=step)
        save({TrainingPaused: "pause", TrainingStopped: "stop"}.get(type(ended), "end"))
        emitter.emit(ended)
        emitter.close(30)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--resume" in sys.argv))
