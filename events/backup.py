"""A backup of the log: a copy of its file that is whole, with hashes, and its way back.

While the file is copied the log goes on: what is appended meanwhile lies in the write-ahead log, and no checkpoint is
made. The copying is done by another process, because the lock that DuckDB holds on the file is this process's, and
would end when a second opening of the file ends. Run as a program, this module is that process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import duckdb
import msgspec

from . import integrity
from .disk import sync_folder
from .errors import EventLogError
from .event import now_us

DATABASE = "log.duckdb"
MANIFEST = "backup.json"

_PIECE = 4 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and how many there are."""


class BackupError(EventLogError):
    """A backup could not be made, or is not what its manifest says; the sentence names the file."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds: the log `log_id` up to `position`, in a database of `size` bytes with this SHA-256.

    `made_at` is in µs since 1970.
    """

    log_id: str
    position: int
    made_at: int
    size: int
    sha256: str


class Log(Protocol):
    """What a backup needs of the log."""

    path: Path
    log_id: str

    def frozen(self) -> AbstractContextManager[int]: ...


def make(log: Log, folder: Path, progress: Progress) -> Manifest:
    """Back the log up into a new folder. Blocks. Raises `BackupError`, after which the folder is gone again."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupError(f"{folder} is there already; a backup wants a new folder.") from None
    except OSError as error:
        raise BackupError(f"{folder} cannot be made: {error.strerror}.") from error
    target = folder / DATABASE
    try:
        with log.frozen() as position:
            log_id = log.log_id
            digest = _copied_by_child(log.path, target, progress)
        _check(target, position)
        manifest = Manifest(
            log_id=log_id, position=position, made_at=now_us(), size=target.stat().st_size, sha256=digest
        )
        _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def read(folder: Path) -> Manifest:
    """A backup's manifest. Raises `BackupError`."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise BackupError(f"{folder} is no backup: {MANIFEST} cannot be read ({error.strerror}).") from error
    except msgspec.DecodeError as error:
        raise BackupError(f"{folder / MANIFEST} is damaged: {error}.") from error


def restore(folder: Path, database: Path, progress: Progress) -> Manifest:
    """Put a backup where there is no log yet; opened there, it is a new incarnation, and followers start again.

    Raises `BackupError` where a log is there already, or where the backup is not what its manifest says; then nothing
    has changed.
    """
    manifest = read(folder)
    for file in (database, database.with_name(database.name + ".wal")):
        if file.exists():
            raise BackupError(f"{file} is there already; restore into a data directory without a log.")
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = database.with_name(database.name + ".restored")
    try:
        digest = _copy(folder / DATABASE, new, progress)
        if digest != manifest.sha256:
            raise BackupError(f"{folder / DATABASE} is damaged: its SHA-256 is not the one in {MANIFEST}.")
        _check(new, manifest.position)
        # A record of another log's head would make this one look shortened.
        database.with_name(database.name + ".head").unlink(missing_ok=True)
        new.replace(database)
        sync_folder(database.parent)
    except OSError as error:
        raise BackupError(f"The backup could not be copied: {error}.") from error
    finally:
        new.unlink(missing_ok=True)
    return manifest


def _copied_by_child(source: Path, target: Path, progress: Progress) -> str:
    command = [sys.executable, "-P", "-m", "events.backup", str(source), str(target)]
    last: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                last = line.split()
                if len(last) == 2:
                    progress(int(last[0]), int(last[1]))
            _, said = child.communicate()
        finally:
            child.kill()
    if child.returncode != 0 or len(last) != 1:
        reason = said.strip().rpartition("\n")[2]
        raise BackupError(f"{source} could not be copied to {target}: {reason or 'the copying process ended'}")
    return last[0]


def _copy(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file durably; its SHA-256."""
    digest, done, told = hashlib.sha256(), 0, 0.0
    with source.open("rb") as there, target.open("xb") as here:
        size = os.fstat(there.fileno()).st_size
        while piece := there.read(_PIECE):
            digest.update(piece)
            here.write(piece)
            done += len(piece)
            if time.monotonic() - told > 0.2:
                told = time.monotonic()
                progress(done, size)
        here.flush()
        os.fsync(here.fileno())
    return digest.hexdigest()


def _check(database: Path, position: int) -> None:
    """Raises `BackupError` unless the copy is a whole log that ends at `position`."""
    try:
        with duckdb.connect(str(database), read_only=True) as con:
            wrong = integrity.difference(con)
            found = con.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
    except duckdb.Error as error:
        raise BackupError(f"{database} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if wrong is not None:
        raise BackupError(f"{database} is not a whole log: {wrong}.")
    if found is None or found[0] != position:
        raise BackupError(f"{database} ends at position {found and found[0]}, not at {position}.")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _tell(done: int, size: int) -> None:
    sys.stdout.write(f"{done} {size}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.stdout.write(_copy(Path(sys.argv[1]), Path(sys.argv[2]), _tell) + "\n")
