"""The lock on a data directory: one process at a time may open the log in it."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Self

import msgspec

from events.errors import DataDirectoryInUse

from .settings import Settings


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says about the process that holds the lock."""

    pid: int
    url: str | None = None


class DataDirLock:
    """Held from `hold` until it is released; the operating system releases it when the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, url: str | None) -> None:
        """Name this process, and where it can be reached, in the lock file."""
        content = msgspec.json.encode(Holder(pid=os.getpid(), url=url))
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def hold(settings: Settings) -> DataDirLock:
    """Take the data directory's lock, making the directory where there is none.

    Raises `DataDirectoryInUse`, naming the holder, where another process has it.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(settings.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        by = f"process {holder.pid}" if holder else "another process"
        at = f" ({holder.url})" if holder and holder.url else ""
        raise DataDirectoryInUse(f"The data directory {settings.data_dir} is in use by {by}{at}.") from None
    lock = DataDirLock(descriptor)
    lock.tell(None)
    return lock


def _holder(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 4_096, 0), type=Holder)
    except msgspec.DecodeError:
        # Read between another process's lock and its name.
        return None
