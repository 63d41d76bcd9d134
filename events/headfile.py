"""A small fsynced record of the last acknowledged position, beside the log's file.

DuckDB opens a database whose write-ahead log was lost, emptied or damaged in its header without a word, as it was at
the last checkpoint. Comparing this record with the head that is found tells.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from .disk import sync_folder

_SLOT = 128


class HeadFile:
    """Two slots that are written in turn, so that a torn write leaves the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._turn = 0

    def read(self) -> tuple[str, int] | None:
        """(log id, acknowledged head); None where there is no record or none that is whole."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        found = [_parse(data[start : start + _SLOT]) for start in (0, _SLOT)]
        return max((each for each in found if each), key=lambda each: each[1], default=None)

    def start(self, log_id: str, head: int) -> None:
        """Begins the record anew, durably."""
        self.close()
        new = self._path.with_name(self._path.name + ".new")
        with new.open("wb") as file:
            file.write(_slot(log_id, head) * 2)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self._path.parent)
        self._file = os.open(self._path, os.O_WRONLY)

    def write(self, log_id: str, head: int) -> None:
        """Records `head`, durably. In place, so that it costs no metadata and works on a full disk."""
        assert self._file is not None
        self._turn = _SLOT - self._turn
        os.pwrite(self._file, _slot(log_id, head), self._turn)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _slot(log_id: str, head: int) -> bytes:
    text = f"{log_id} {head}"
    return f"{text} {zlib.crc32(text.encode()):08x}".ljust(_SLOT - 1).encode() + b"\n"


def _parse(slot: bytes) -> tuple[str, int] | None:
    words = slot.decode("ascii", "replace").split()
    if len(words) != 3 or f"{zlib.crc32(f'{words[0]} {words[1]}'.encode()):08x}" != words[2]:
        return None
    return words[0], int(words[1])
