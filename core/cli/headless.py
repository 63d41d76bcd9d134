"""A trainer as this terminal's child: its progress bar, and Ctrl-C that saves a checkpoint first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, Self

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from core.run import STDERR

from . import output

_SECONDS_BETWEEN_LINES = 10.0


LOCK_HELD = 75
"""The trainer's exit status where another process holds the run folder."""


class ProgressLine(msgspec.Struct, kw_only=True):
    """What a trainer says about itself, one JSON object a line; figures are the mean over its SAEs.

    `phase` names a preparation of which `done` of `total` is done. `ended` comes with the last line only: `completed`,
    `paused`, `stopped`, or `failed` with the `error`.
    """

    phase: str | None = None
    done: float | None = None
    total: float | None = None
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    l0: float | None = None
    fvu: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    ended: str | None = None
    error: str | None = None


class Ended(msgspec.Struct, kw_only=True):
    """How a trainer's process ended: its exit status, its last line, and how often it was asked to end."""

    code: int
    last: ProgressLine
    interrupts: int
    seconds: float


def run(folder: Path, title: str, *, resume: bool, environment: dict[str, str], quiet: bool) -> Ended:
    """Run the trainer of a run folder until it ends, showing how it goes under a title.

    The first Ctrl-C (or SIGTERM, or a closed terminal) asks it for a checkpoint and its end, the second kills it.
    """
    begun = time.monotonic()
    command = [sys.executable, "-P", "-m", "core.training", str(folder), "--progress"]
    if resume:
        command.append("--resume")
    # A session of its own: the terminal's Ctrl-C must come through here, not to the trainer as well.
    with (folder / STDERR).open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    child = Child(process)
    with process, _signals(child.on_signal):
        assert process.stdout is not None
        with display(quiet) as shown:
            shown.say(f"{title}, process {process.pid}")
            for line in process.stdout:
                child.last = _merged(child.last, line)
                shown.show(child.last)
                if child.last.ended:
                    break
            child.spoken()
        seconds = time.monotonic() - begun
        code = _last_words(process, quiet=quiet)
    return Ended(code=code, last=child.last, interrupts=child.interrupts, seconds=seconds)


class Child:
    """A running trainer: its newest line, and what this terminal has told it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.last = ProgressLine()
        self.interrupts = 0
        self._process = process
        # A signal may interrupt a print, and a print within a print raises: what it has to say is printed by a thread,
        # which is told over a queue that no signal can find locked.
        self._said: SimpleQueue[str | None] = SimpleQueue()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._speaker.start()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks the trainer to end, a later one kills it."""
        self.interrupts += 1
        if self._process.poll() is not None:
            return
        if self.last.ended is None and self.interrupts == 1:
            self._process.send_signal(signal.SIGINT)
            self._said.put("Saving a checkpoint; press Ctrl-C once more to end without it.")
        else:
            # All that it had to say is in its spool, from which the next server takes it in.
            self._process.kill()

    def spoken(self) -> None:
        """Wait until what a signal had to say has been printed; nothing is said from then on."""
        self._said.put(None)
        self._speaker.join()

    def _speak(self) -> None:
        while (sentence := self._said.get()) is not None:
            output.err().print(sentence)


def _last_words(process: subprocess.Popen[bytes], *, quiet: bool) -> int:
    """The exit status of a trainer that has nothing more to do than to hand its last events to a server."""
    try:
        return process.wait(1.0)
    except subprocess.TimeoutExpired:
        pass
    if quiet:
        return process.wait()
    with output.err().status("Waiting for a server to take the last events (Ctrl-C: the next one will)"):
        return process.wait()


def _merged(before: ProgressLine, line: bytes) -> ProgressLine:
    """The newest figures; a line that says nothing about one keeps what an earlier line said."""
    try:
        now = msgspec.json.decode(line, type=dict[str, Any])
        known = {name: value for name, value in now.items() if name in ProgressLine.__struct_fields__}
        return msgspec.convert({**msgspec.structs.asdict(before), **known}, ProgressLine)
    except (msgspec.DecodeError, msgspec.ValidationError):
        # A library that prints to standard output is not worth a training.
        return before


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the block, Ctrl-C, SIGTERM and a closed terminal go to `handler`."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def display(quiet: bool = False) -> Iterator[Lines | Bar]:
    """Shows progress on standard error: a bar in a terminal, a line now and then elsewhere, nothing if `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield Lines(quiet)
        return
    with Bar() as bar:
        yield bar


class Bar:
    """A progress bar with the newest figures."""

    def __init__(self, description: str = "Preparing model and text") -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=output.err(),
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task(description, total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._progress.console.print(sentence, markup=False)

    def show(self, line: ProgressLine) -> None:
        """Draw the figures of `line`."""
        if line.step and line.total_steps:
            # The last step is followed by a checkpoint and an evaluation on held-out text.
            now = "Evaluating" if line.step == line.total_steps else ""
            self._progress.update(
                self._task, description=now, total=line.total_steps, completed=line.step, figures=figures(line)
            )
        elif line.phase:
            self._progress.update(self._task, description=line.phase, total=line.total, completed=line.done or 0)


class Lines:
    """A line of figures every few seconds, for files and pipes."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._told = float("-inf")
        self._step = 0

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        if not self._quiet:
            output.err().print(sentence, markup=False)

    def show(self, line: ProgressLine) -> None:
        """Print the figures of `line` where it is time to, or where they are the last."""
        now = time.monotonic()
        due = now - self._told >= _SECONDS_BETWEEN_LINES or line.step == line.total_steps
        if line.step != self._step and due:
            self._told, self._step = now, line.step
            self.say(f"step {line.step:,} of {line.total_steps:,}  {figures(line)}")


def figures(line: ProgressLine) -> str:
    """`loss 0.312  L0 16.0  FVU 0.301  8,120 tokens/s  1 min 10 s left`."""
    parts = [f"loss {output.number(line.loss)}", f"L0 {output.number(line.l0)}", f"FVU {output.number(line.fvu)}"]
    if line.tokens_per_second is not None:
        parts.append(f"{line.tokens_per_second:,.0f} tokens/s")
    if line.eta_seconds is not None and line.step < line.total_steps:
        parts.append(f"{output.duration(line.eta_seconds)} left")
    return "  ".join(parts)


def summary(line: ProgressLine) -> str:
    """`FVU 0.213, L0 16.0`."""
    return f"FVU {output.number(line.fvu)}, L0 {output.number(line.l0)}"
