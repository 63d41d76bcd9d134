"""A supervised child process on a unix socket of its own: started again when it ends, ended with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

_logger = logging.getLogger(__name__)

# A unix socket's path may have about 104 bytes on macOS, 108 on Linux.
_LONGEST_SOCKET_PATH = 100


def runtime_folder(data_dir: Path) -> Path:
    """A private folder for sockets with a short path, the same for every server on this data directory."""
    name = f"saestudio-{os.getuid()}-{zlib.crc32(os.fsencode(data_dir)):08x}"
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if not base or len(os.fsencode(Path(base) / name / "ui.sock")) > _LONGEST_SOCKET_PATH:
            continue
        folder = Path(base) / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        # Somebody else could have made it first in a folder that all may write to.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="saestudio-", dir="/tmp"))


class Child:
    """Keeps one process running: `command`, with `environment` added to ours, listening on `socket`.

    Its standard input is a pipe that only closes when this process ends or lets it go, which is how it notices. What
    it prints goes to `log`. A process that ends is started again, after 0.5 s at first and up to 30 s where it ends
    again soon.
    """

    SOON = 30.0
    """Seconds after which an end no longer counts as soon."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], socket: Path, log: Path
    ) -> None:
        self.name = name
        self.socket = socket
        self.log = log
        self.pid: int | None = None
        self.restarts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._supervise(), name=f"child {self.name}")

    async def stop(self) -> None:
        """End the process, kindly at first."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the process at once; another one takes its place."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _supervise(self) -> None:
        delay = 0.5
        while True:
            began = time.monotonic()
            try:
                code = await self._run()
            except OSError as error:
                _logger.error("The %s could not be started: %s.", self.name, error)
            else:
                _logger.warning("The %s ended (exit status %s); %s says more.", self.name, code, self.log)
            if time.monotonic() - began > self.SOON:
                delay = 0.5
            await asyncio.sleep(delay)
            delay = min(2 * delay, 30.0)
            self.restarts += 1

    async def _run(self) -> int:
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self.pid = process.pid
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            self.pid = None


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    for end in (process.terminate, process.kill):
        try:
            await asyncio.wait_for(process.wait(), 2.0)
            return
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                end()
    await process.wait()
