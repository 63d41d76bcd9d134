"""The reactor that starts trainers, and notices when one is gone.

It acts on what the log says and on the run folders' locks, never on what it remembers of an earlier life: a crash
between starting a process and recording that starts nothing twice, and trainers outlive the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from core import run as runs
from core.decide import awaits_slot, is_live
from core.run import RunSpec, RunSpecError
from events.control import ResumeRequested, TrainingCreated, TrainingInterrupted, TrainingLaunched
from events.errors import EventLogError
from events.ids import is_id
from events.spool import is_held
from events.status import PROCESS_EXPECTED, TrainingState
from events.streams import CONTROL
from projections import trainings

from .adoption import adopt_folder
from .studio import LAUNCHER, Studio

HELD = 75
"""Exit code of a trainer that found its run folder held by another."""

TICK = 2.0
"""Seconds after which locks are looked at again though nothing has happened."""

_TAIL = 4_000


class Launch(Protocol):
    """A way to start trainers: on this machine, on a cluster, elsewhere."""

    name: str

    def start(self, folder: Path, spec: RunSpec, *, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the training in `folder`; returns at once. Raises `OSError`."""
        ...


class LocalProcess:
    """Starts trainers as processes of this machine, in sessions of their own, so that they outlive the server."""

    name = "local"

    def __init__(self, module: str = "core.training") -> None:
        self._module = module

    def start(self, folder: Path, spec: RunSpec, *, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", self._module, str(folder)]
        if spec.resume:
            command.append("--resume")
        # A trainer finds its server by the data directory, whatever this process was told by its environment.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAESTUDIO_")}
        with (folder / runs.STDERR).open("ab") as errors:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**inherited, **environment},
                start_new_session=True,
            )


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    device: str
    stderr_from: int
    ended: bool = False


class Launcher:
    """Starts what waits for a slot, oldest wish first, and interrupts what has lost its process."""

    def __init__(self, studio: Studio, launch: Launch | None = None) -> None:
        self._studio = studio
        self._launch = launch or LocalProcess()
        self._processes: dict[str, _Process] = {}
        self._watched: set[str] = set()
        self._folders: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def slots(self) -> int:
        """How many trainings may run at once."""
        if self._studio.settings.slots is not None:
            return self._studio.settings.slots
        return max(1, len(self._gpus()))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="launcher")

    async def stop(self) -> None:
        """Launch nothing any more. Trainers that run go on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """Something may have to be started or ended."""
        self._wake.set()

    def watch(self, training_id: str) -> None:
        """A process writes the training, whatever its status says: once it is gone, its spool is taken in."""
        self._watched.add(training_id)

    async def reconcile(self) -> None:
        """Interrupt every training that should have a process and has none, and take in what writers have left that
        ended before the log heard anything of them."""
        self._watched |= await asyncio.to_thread(self._new_folders)
        for row in await self._rows(*PROCESS_EXPECTED):
            await self._judge(row.id)
        for training_id in sorted(self._watched):
            # Before it is looked at: a writer that comes meanwhile is watched again.
            self._watched.discard(training_id)
            if not await self._take_in(training_id):
                self._watched.add(training_id)

    async def resume_interrupted(self) -> None:
        """Resume the interrupted trainings that ask for it (`auto_resume`)."""
        for row in await self._rows("interrupted"):
            if row.config is not None and row.config.auto_resume and self.has_run(row.id):
                async with self._studio.deciding:
                    if (await self._studio.state(row.id)).status == "interrupted":
                        await self._studio.record(row.id, [ResumeRequested()], actor=LAUNCHER)

    def has_run(self, training_id: str) -> bool:
        """Whether the training can be started here: its run folder says how."""
        return (self._studio.settings.run_folder(training_id) / runs.RUN_FILE).is_file()

    async def waiting(self) -> list[trainings.TrainingRow]:
        """The trainings that wait for a slot, in the order in which they get one."""
        rows = [row for row in await self._rows("queued", "resuming") if not row.launched and self._starts(row)]
        wishes = [await asyncio.to_thread(self._wished_at, row.id) for row in rows]
        return [row for _, row in sorted(zip(wishes, rows, strict=True), key=lambda pair: pair[0])]

    async def occupying(self) -> list[trainings.TrainingRow]:
        """The trainings that hold a slot: those that this server has started, until their process has ended."""
        ours = {id for id, process in self._processes.items() if not process.ended}
        rows = [row for row in await self._rows(*PROCESS_EXPECTED) if row.launched and row.launcher == "local"]
        ending = ours - {row.id for row in rows}
        more = [await self._studio.query(lambda con, id=id: trainings.get(con, id)) for id in sorted(ending)]
        return [*rows, *(row for row in more if row is not None)]

    async def _run(self) -> None:
        while True:
            try:
                await self.reconcile()
                await self._fill()
            except EventLogError as error:
                self._studio.log.warning("Trainings cannot be looked after now: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK)
            self._wake.clear()

    async def _fill(self) -> None:
        for row in await self.waiting():
            if len(await self.occupying()) >= self.slots:
                return
            async with self._studio.deciding:
                state = await self._studio.query(lambda con, id=row.id: trainings.state(con, id))
                if state is not None and awaits_slot(state):
                    await self._start(row.id, state)

    async def _start(self, training_id: str, state: TrainingState) -> None:
        folder = self._studio.settings.run_folder(training_id)
        launched = TrainingLaunched(launcher=self._launch.name, host=socket.gethostname())
        ours = self._processes.get(training_id)
        if (ours is not None and not ours.ended) or await asyncio.to_thread(is_held, folder):
            # The process of the last attempt is about to end; or somebody else, or the server before a crash, has
            # started one: then its own events will say so.
            return
        try:
            spec = runs.read(folder)
            if state.status == "resuming" and not spec.resume:
                spec = msgspec.structs.replace(spec, resume=True)
                runs.write(folder, spec)
            device, environment = await self._device(spec)
            errors = folder / runs.STDERR
            offset = errors.stat().st_size if errors.exists() else 0
            process = self._launch.start(folder, spec, environment=environment)
        except (RunSpecError, OSError) as error:
            reason = f"Its trainer could not be started: {error}"
            events = [launched, TrainingInterrupted(reason=reason)]
            await self._studio.record(training_id, events, actor=LAUNCHER)
            return
        self._processes[training_id] = _Process(process, device, offset)
        threading.Thread(
            target=self._await_end, args=(training_id, process), name=f"trainer-{training_id}", daemon=True
        ).start()
        launched = TrainingLaunched(
            launcher=self._launch.name, pid=process.pid, host=socket.gethostname(), device=device
        )
        await self._studio.record(training_id, [launched], actor=LAUNCHER)

    def _await_end(self, training_id: str, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        # The server may have ended meanwhile, and its loop with it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended, training_id)

    def _ended(self, training_id: str) -> None:
        if (ours := self._processes.get(training_id)) is not None:
            ours.ended = True
        self.wake()

    async def _judge(self, training_id: str) -> None:
        """Interrupt the training if its process is gone, after everything that it spooled was taken in."""
        ours = self._processes.get(training_id)
        if ours is not None and not ours.ended:
            return
        folder = self._studio.settings.run_folder(training_id)
        if not folder.is_dir() or not await self._take_in(training_id):
            return
        async with self._studio.deciding:
            state = await self._studio.query(lambda con: trainings.state(con, training_id))
            if state is not None and is_live(state):
                interrupted = TrainingInterrupted(
                    reason=_reason(ours), stderr_tail=_tail(folder / runs.STDERR, ours.stderr_from if ours else None)
                )
                await self._studio.record(training_id, [interrupted], actor=LAUNCHER)
        self._processes.pop(training_id, None)

    async def _take_in(self, training_id: str) -> bool:
        """Take in what a writer has left, unless it lives; whether it is gone."""
        folder = self._studio.settings.run_folder(training_id)
        await asyncio.to_thread(adopt_folder, self._studio.store, folder)
        return not await asyncio.to_thread(is_held, folder)

    def _new_folders(self) -> set[str]:
        """The trainings that have a run folder which was not there when this was last asked."""
        place = self._studio.settings.trainings
        found = {folder.name for folder in place.iterdir() if is_id(folder.name)} if place.is_dir() else set()
        new, self._folders = found - self._folders, found
        return new

    async def _device(self, spec: RunSpec) -> tuple[str, dict[str, str]]:
        """The device that a training gets, and the environment that gives it: of several GPUs, the emptiest one."""
        wanted = spec.config.device
        gpus = self._gpus()
        if wanted not in ("auto", "cuda") or len(gpus) < 2:
            return wanted, {}
        busy = [ours.device for id, ours in self._processes.items() if not ours.ended and id != spec.id]
        chosen = min(gpus, key=lambda gpu: (busy.count(gpu), gpus.index(gpu)))
        outer = os.environ.get("CUDA_VISIBLE_DEVICES")
        index = int(chosen.removeprefix("cuda:"))
        name = [part.strip() for part in outer.split(",")][index] if outer else str(index)
        return chosen, {"CUDA_VISIBLE_DEVICES": name}

    def _gpus(self) -> list[str]:
        return [device.id for device in self._studio.devices if device.kind == "cuda"]

    def _starts(self, row: trainings.TrainingRow) -> bool:
        return row.launcher == "local" or (row.status == "resuming" and self.has_run(row.id))

    def _wished_at(self, training_id: str) -> int:
        """The position of the wish that the training waits with."""
        wishes = (TrainingCreated, ResumeRequested)
        recorded = self._studio.store.read_stream(CONTROL + training_id, limit=100_000)
        return max((one.position for one in recorded if isinstance(one.data, wishes)), default=0)

    async def _rows(self, *statuses: str) -> list[trainings.TrainingRow]:
        rows, _ = await self._studio.query(
            lambda con: trainings.list_(con, status=",".join(statuses), sort="created", limit=1_000_000)
        )
        return rows


def _reason(ours: _Process | None) -> str:
    code = ours.process.returncode if ours is not None else None
    if code is None:
        return "Its process is gone."
    if code == HELD:
        return "Its run folder was held by another process, which is gone."
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return f"Its process was ended by {name}{hint}."
    return f"Its process ended with exit status {code} before the training did."


def _tail(path: Path, start: int | None) -> str:
    """The last that the process printed; `start` is where this attempt began in the file, None where not known."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start or 0, size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
