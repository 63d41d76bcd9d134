"""A folder as a tar archive that is made while it is sent: nothing is buffered beyond a piece of one file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20


class Changed(Exception):
    """A file of the folder is not what it was when the archive was begun."""


class Archive:
    """The regular files of `folder` as they are now, below its name; links are left out. `size` in bytes.

    Raises `FileNotFoundError` where there is no such folder. Blocks.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder.")
        self._members: list[tuple[Path, int, bytes]] = []
        for path in sorted(folder.rglob("*")):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                continue
            member = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder)}")
            member.size, member.mtime, member.mode = found.st_size, int(found.st_mtime), 0o644
            self._members.append((path, found.st_size, member.tobuf(tarfile.PAX_FORMAT)))
        content = sum(len(header) + size + _padding(size) for _, size, header in self._members)
        # Two blocks of zeros end an archive, and whole records are what old readers expect.
        self._end = 2 * tarfile.BLOCKSIZE
        self._end += -(content + self._end) % tarfile.RECORDSIZE
        self.size = content + self._end

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive, `size` bytes. Raises `Changed` or `OSError` where it cannot be that any more.

        All files are open from the start, so that a checkpoint which is pruned meanwhile still comes whole.
        """
        with contextlib.ExitStack() as stack:
            files = await asyncio.to_thread(self._open, stack)
            for file, (path, size, header) in zip(files, self._members, strict=True):
                yield header
                left = size
                while left:
                    piece = await asyncio.to_thread(file.read, min(_PIECE, left))
                    if not piece:
                        raise Changed(f"{path} became shorter while it was sent.")
                    left -= len(piece)
                    yield piece
                yield bytes(_padding(size))
        yield bytes(self._end)

    def _open(self, stack: contextlib.ExitStack) -> list[BinaryIO]:
        files: list[BinaryIO] = []
        for path, size, _ in self._members:
            file = stack.enter_context(path.open("rb"))
            if os.fstat(file.fileno()).st_size != size:
                raise Changed(f"{path} has another size than a moment ago.")
            files.append(file)
        return files


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
