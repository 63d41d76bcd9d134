"""A folder as a tar archive that is made while it is sent: nothing is buffered beyond a piece of one file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tarfile
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20


class Changed(Exception):
    """A file of the folder is not what it was when the archive was begun."""


class Archive:
    """The regular files of `folder` as they are now, below its name; links are left out. `size` in bytes.

    All files are open from the start and until the archive is sent or dropped, so that a checkpoint which is pruned
    meanwhile still comes whole. Raises `FileNotFoundError` where there is no such folder, or no longer. Blocks.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder.")
        self._members: list[tuple[BinaryIO, int, bytes]] = []
        with contextlib.ExitStack() as files:
            for path in sorted(folder.rglob("*")):
                if not stat.S_ISREG(path.lstat().st_mode):
                    continue
                file = files.enter_context(path.open("rb"))
                found = os.fstat(file.fileno())
                member = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder)}")
                member.size, member.mtime, member.mode = found.st_size, int(found.st_mtime), 0o644
                self._members.append((file, found.st_size, member.tobuf(tarfile.PAX_FORMAT)))
            # Whoever asked may have left before the first byte, and then nothing of `stream` runs.
            self._close = weakref.finalize(self, files.pop_all().close)
        content = sum(len(header) + size + _padding(size) for _, size, header in self._members)
        # Two blocks of zeros end an archive, and whole records are what old readers expect.
        self._end = 2 * tarfile.BLOCKSIZE
        self._end += -(content + self._end) % tarfile.RECORDSIZE
        self.size = content + self._end

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive, `size` bytes, once. Raises `Changed` or `OSError` where it cannot be that any more."""
        try:
            for file, size, header in self._members:
                yield header
                left = size
                while left:
                    piece = await asyncio.to_thread(file.read, min(_PIECE, left))
                    if not piece:
                        raise Changed(f"{file.name} became shorter while it was sent.")
                    left -= len(piece)
                    yield piece
                yield bytes(_padding(size))
        finally:
            self._close()
        yield bytes(self._end)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
