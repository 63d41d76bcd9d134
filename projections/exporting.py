"""What a replica holds as Parquet files: a file for each training's metrics, one for each of the other views.

All files are true at one position, which the manifest names. Another export into the same folder writes only what has
changed since; whatever ends it before its end, the next one sees to it, for the manifest is written last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from events import tables
from events.disk import sync_folder
from events.ids import is_id
from events.tables import quoted

from .projection import training_of
from .replica import Replica
from .table import first

MANIFEST = "manifest.json"
METRICS = "metrics"
WHOLE = ("trainings", "templates", "logs", "logged_metrics", "checkpoints", "evaluations", "activity")
"""The views that are one file each."""

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its path in the folder, the rows in it, its size in bytes."""

    path: str
    rows: int
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export holds: everything up to `position` of the log `log_id`.

    `views` are the files of whole views by name, `metrics` those of trainings by id.
    """

    format: Literal["saestudio-data"] = "saestudio-data"
    version: Literal[1] = 1
    log_id: str
    position: int
    views: dict[str, Exported]
    metrics: dict[str, Exported]


class ExportRefused(ValueError):
    """The folder cannot be exported to; the sentence says why."""


def export(replica: Replica, folder: Path, progress: Progress = lambda done, total: None) -> tuple[Manifest, int]:
    """Brings the files in `folder` up to the replica's position; the manifest, and how many files were written.

    Raises `ExportRefused` and `OSError`.
    """
    before = _read(folder / MANIFEST)
    (folder / METRICS).mkdir(parents=True, exist_ok=True)
    with replica.snapshot() as (con, position):
        log_id = replica.standing.log_id
        if before is not None and (before.log_id != log_id or before.position > position):
            # Of a log that is gone: its files are replaced, and those of its trainings removed.
            _remove(folder, before.metrics.values())
            before = None
        kept = {} if before is None else dict(before.metrics)
        changed = {each for each in _changed(con, 0 if before is None else before.position) if is_id(each)}
        changed |= {id for id, file in kept.items() if not _is_there(folder, file)}
        same = before is not None and before.position == position and not changed
        if before is not None and same and all(_is_there(folder, file) for file in before.views.values()):
            return before, 0
        views: dict[str, Exported] = {}
        total = len(WHOLE) + len(changed)
        for done, name in enumerate(WHOLE):
            progress(done, total)
            views[name] = _write(con, f"SELECT * FROM {name} ORDER BY position", folder, f"{name}.parquet")
        gone: list[Exported] = []
        for done, training in enumerate(sorted(changed), len(WHOLE)):
            progress(done, total)
            question = f"SELECT * FROM metrics WHERE training = '{training}' ORDER BY step, sae"
            file = _write(con, question, folder, f"{METRICS}/{training}.parquet")
            if file.rows:
                kept[training] = file
            else:
                gone.append(file)
                kept.pop(training, None)
        manifest = Manifest(log_id=log_id, position=position, views=views, metrics=kept)
    _put(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    _remove(folder, gone)
    progress(total, total)
    return manifest, total - len(gone)


def _read(path: Path) -> Manifest | None:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ExportRefused(f"{path} is no manifest of an export: {error}.") from error
    for id, file in manifest.metrics.items():
        # What it names is asked for and deleted by that name.
        if not is_id(id) or file.path != f"{METRICS}/{id}.parquet":
            raise ExportRefused(f"{path} is no manifest of an export: it has {file.path!r} for the training {id!r}.")
    return manifest


def _is_there(folder: Path, file: Exported) -> bool:
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size


def _changed(con: DuckDBPyConnection, after: int) -> set[str]:
    """The trainings that have events after a position."""
    streams = " UNION ".join(
        f"SELECT DISTINCT stream FROM raw.{table} WHERE position > {after}" for table in tables.all_tables()
    )
    found = con.execute(f"SELECT stream FROM ({streams}) WHERE stream LIKE 'training-%' OR stream LIKE 'control-%'")
    return {training_of(row[0]) for row in found.fetchall()}


def _write(con: DuckDBPyConnection, question: str, folder: Path, path: str) -> Exported:
    file = folder / path
    part = file.with_name(file.name + ".part")
    try:
        written = first(con, f"COPY ({question}) TO {quoted(part)} (FORMAT parquet, COMPRESSION zstd)")
    except duckdb.Error as error:
        raise ExportRefused(f"{file} cannot be written: {str(error).partition(chr(10))[0]}.") from error
    assert written is not None
    part.replace(file)
    return Exported(path=path, rows=written[0], size=file.stat().st_size)


def _put(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def _remove(folder: Path, files: Iterable[Exported]) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            (folder / file.path).unlink()
