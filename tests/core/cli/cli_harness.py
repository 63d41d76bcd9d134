"""Commands on a real server process, and a writer of training events that needs no torch."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import core.cli
from core.api import find_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.errors import SpoolLocked
from events.event import Event
from events.ids import new_id
from events.log import LogWritten
from events.spool import hold
from events.training import StepTrained, TrainingCompleted, TrainingStarted

PROGRAM = [sys.executable, "-P", "-m", "core.cli"]


def environment(**more: str) -> dict[str, str]:
    """The environment without what would lead a command elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SAESTUDIO_", "SSH_"))} | more


@dataclass
class Result:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """`saestudio` on one data directory."""

    data_dir: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def close(self) -> None:
        """End what a failed test has left behind: commands, and the trainers of run folders that are held."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for lock in self.data_dir.glob("trainings/*/lock"):
            try:
                hold(lock.parent).release()
            except SpoolLocked:
                os.kill(int(lock.read_text()), signal.SIGKILL)

    def __call__(self, *arguments: str, **more: str) -> Result:
        """A command from its beginning to its end, in this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        surroundings = mock.patch.dict(os.environ, environment(**more), clear=True)
        with surroundings, redirect_stdout(out), redirect_stderr(err):
            status = core.cli.main([*arguments, "--data-dir", str(self.data_dir)])
            out.flush()
            err.flush()
        return Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """A command that goes on, in a process of its own."""
        process = subprocess.Popen(
            [*PROGRAM, *arguments, "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**more),
        )
        self.started.append(process)
        return process

    @contextmanager
    def up(self, *arguments: str, **more: str) -> Iterator[dict[str, Any]]:
        """A server on a free port; what it says when it answers."""
        process = self.start("up", "--json", "--no-browser", "--no-dashboard", "--port=0", *arguments, **more)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield json.loads(line)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said

    @contextmanager
    def training(self, name: str = "a training") -> Iterator[Writer]:
        """Somebody else's training that runs, on the server of the data directory."""
        training_id = new_id()
        folder = self.data_dir / "trainings" / training_id
        created = TrainingCreated(name=name, kind="external", launcher="external")
        with hold(folder):
            emitter = Emitter(folder, training_id, address=lambda: find_address(self.data_dir), created=created)
            try:
                writer = Writer(training_id, emitter)
                writer.emit(TrainingStarted(pid=os.getpid(), host="here", device="cpu"))
                yield writer
            finally:
                emitter.close(5)


@dataclass(frozen=True)
class Writer:
    """Writes a training's events."""

    id: str
    emitter: Emitter

    def emit(self, *events: Event) -> None:
        """Emit, and wait until the log has it."""
        for event in events:
            self.emitter.emit(event)
        assert self.emitter.flush(60)

    def log(self, *messages: str, level: Any = "INFO") -> None:
        self.emit(*(LogWritten(level=level, logger="test", message=message) for message in messages))

    def step(self, number: int, *, fvu: float = 0.25) -> None:
        self.emit(
            StepTrained(
                step=number,
                loss=0.5,
                loss_reconstruction=fvu,
                l0=16.0,
                l0_fraction=0.01,
                fvu=fvu,
                dead_latents=7,
                learning_rate=1e-3,
                grad_norm=1.0,
                tokens=2_048 * number,
                tokens_per_second=1_000.0,
            )
        )

    def complete(self, step: int) -> None:
        self.emit(TrainingCompleted(step=step))


def write_corpus(path: Path) -> Path:
    """A few hundred kilobytes of text that is on every machine."""
    sources = (Path(argparse.__file__).parent / name for name in ("argparse.py", "typing.py", "inspect.py", "ast.py"))
    path.write_text("\n".join(source.read_text("utf-8") for source in sources), "utf-8")
    return path


def small(corpus: Path, **settings: Any) -> list[str]:
    """Arguments of `train` for a training of the demo model that takes seconds."""
    chosen = {
        "datasets": [str(corpus)],
        "training_layers": [1],
        "latent_dim": 64,
        "k": 4,
        "batch_size": 64,
        "checkpoint_interval": 0,
        "eval_interval": 0,
        **settings,
    }
    return ["--demo", *(f"--set={name}={json.dumps(value)}" for name, value in chosen.items())]
