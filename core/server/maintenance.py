"""Long work on the whole log, one job at a time, asked of the running server.

A job's progress can be asked for, and is told as log lines in the stream `maintenance`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from core.decide import Refused
from events import backup
from events.errors import EventLogError
from events.event import now_us
from events.ids import new_id
from events.log import Level, LogWritten
from events.streams import Append
from projections.runner import Verified

if TYPE_CHECKING:
    from .studio import Studio

STREAM = "maintenance"

Name = Literal["rebuild", "verify", "backup"]

_KEPT = 20
_SECONDS_BETWEEN_LINES = 1.0


class Job(msgspec.Struct, kw_only=True):
    """A job. `progress` is 0-1; `detail` says in a sentence how it stands or how it ended.

    Times are in µs since 1970 (UTC). `verified` is what `verify` found, a row for each table; `folder` is where
    `backup` puts the log, `manifest` what it holds then.
    """

    id: str
    name: Name
    status: Literal["running", "completed", "failed"] = "running"
    progress: float = 0.0
    detail: str = ""
    actor: str | None = None
    started_at: int
    ended_at: int | None = None
    verified: list[Verified] | None = None
    folder: str | None = None
    manifest: backup.Manifest | None = None


class Maintenance:
    """The jobs of this server's life, the newest last."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self.jobs: list[Job] = []

    def start(self, name: Name, actor: str, *, folder: str | None = None) -> Job:
        """Begin a job; a `backup` goes into the new `folder`. Raises `Refused` while another one runs."""
        if running := next((job for job in self.jobs if job.status == "running"), None):
            raise Refused(f"{running.name} is running ({running.progress:.0%}); one job runs at a time.")
        job = Job(id=new_id(), name=name, actor=actor, started_at=now_us(), folder=folder)
        self.jobs = [*self.jobs[-_KEPT + 1 :], job]
        task = asyncio.create_task(self._run(job), name=f"maintenance {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def stop(self) -> None:
        """Give up what runs; nothing has been changed by it."""
        self._stopping.set()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, job: Job) -> None:
        began = time.monotonic()
        await self._say(job, "INFO", f"{job.name} began.")
        try:
            detail = await asyncio.to_thread(self._work, job)
        except _Stopped:
            job.status, job.detail = "failed", "The server ended before the job did; nothing was changed."
        except Exception as error:
            self._studio.log.exception("%s failed", job.name)
            job.status, job.detail = "failed", f"{job.name} failed and changed nothing: {error}"
        else:
            job.status, job.progress = "completed", 1.0
            job.detail = f"{detail} ({time.monotonic() - began:.1f} s)"
        job.ended_at = now_us()
        await self._say(job, "INFO" if job.status == "completed" else "ERROR", job.detail)

    def _work(self, job: Job) -> str:
        """In a thread. Returns how it ended, in a sentence without its full stop."""
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if self._stopping.is_set():
                raise _Stopped
            job.progress = done / total if total else 1.0
            job.detail = f"{done:,} of {total:,} {'bytes' if job.name == 'backup' else 'events'}"
            if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self._append(job, "INFO", f"{job.name}: {job.detail} ({job.progress:.0%})")

        if job.name == "backup":
            assert job.folder is not None
            manifest = job.manifest = backup.make(self._studio.store, Path(job.folder), progress)
            return f"{job.folder} holds the log up to position {manifest.position:,}, {manifest.size / 1e6:,.1f} MB"
        if job.name == "rebuild":
            self._studio.projections.rebuild(progress=progress)
            return "Every projection was made anew from the log"
        job.verified = self._studio.projections.verify(progress=progress)
        if broken := next((one.difference for one in job.verified if one.difference), None):
            return f"The log itself is not whole: {broken}"
        wrong = [one.table for one in job.verified if not one.matches]
        if wrong:
            return f"{len(wrong)} of {len(job.verified)} tables differ from the log: {', '.join(wrong)}; rebuild them"
        return f"All {len(job.verified)} tables are what the log adds up to"

    def _append(self, job: Job, level: Level, message: str) -> None:
        event = LogWritten(level=level, logger=f"{STREAM}.{job.name}", message=message)
        self._studio.store.append(Append(STREAM, [event], actor=job.actor))

    async def _say(self, job: Job, level: Level, message: str) -> None:
        event = LogWritten(level=level, logger=f"{STREAM}.{job.name}", message=message)
        try:
            await self._studio.append(Append(STREAM, [event], actor=job.actor))
        except EventLogError as error:
            self._studio.log.warning("%s (which could not be logged: %s)", message, error)


class _Stopped(Exception):
    """The server ends; a job gives up at its next page."""
