"""The tables of a replica's database: opening it, making them, writing a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from events import tables
from events.batch import ENVELOPE, Batch
from events.control import TrainingPurged
from events.errors import EventLogError
from events.event import EventPurged, event_type
from events.streams import CONTROL, TRAINING

from . import views
from .projection import training_of

FORMAT = f"{tables.FORMAT}.1"
"""Of the tables in `raw`; a database in another format is filled anew."""


class ReplicaFailed(EventLogError):
    """The replica cannot go on, or its database cannot be used; the sentence says why."""


def opened(database: Path | str, config: Mapping[str, Any]) -> DuckDBPyConnection:
    """A connection to the database, made where there is none. Raises `ReplicaFailed`."""
    try:
        return duckdb.connect(str(database), config=dict(config))
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        if "Conflicting lock" in reason:
            raise ReplicaFailed(
                f"{database} is open in another program: DuckDB lets one at a time write it."
            ) from error
        raise ReplicaFailed(f"{database} cannot be opened: {reason}") from error


def make(con: DuckDBPyConnection, log_id: str, url: str) -> None:
    """Tables as of position 0, and nothing else."""
    views.drop(con)
    con.execute("drop schema if exists raw cascade")
    con.execute("create schema raw")
    con.execute("use raw")
    tables.create(con)
    con.execute("UPDATE log_meta SET value = ? WHERE key = 'log_id'", [log_id])
    con.execute("CREATE TABLE replica (log_id VARCHAR, position UBIGINT, server VARCHAR, format VARCHAR)")
    con.execute("INSERT INTO replica VALUES (?, 0, ?, ?)", [log_id, url, FORMAT])


def write(con: DuckDBPyConnection, batch: Batch, fold: Callable[[DuckDBPyConnection, Batch], None] | None) -> None:
    """Adds the batch, folded by `fold`, and moves the checkpoint, in the caller's transaction."""
    tables.insert(con, batch)
    for recorded in batch.cold:
        if isinstance(recorded.data, TrainingPurged):
            _bury(con, training_of(recorded.stream), recorded.position, recorded.recorded_at)
    if fold is not None:
        fold(con, batch)
    con.execute("UPDATE replica SET position = ?", [batch.last])


def _bury(con: DuckDBPyConnection, training: str, before: int, at: int) -> None:
    """Puts a tombstone in the place of every event of a purged training, as the log has done."""
    grave = tables.table_of(event_type(EventPurged))
    names = ", ".join(column.name for column in ENVELOPE)
    streams = [TRAINING + training, CONTROL + training]
    for table in tables.all_tables():
        if table != grave:
            where = "WHERE stream IN (?, ?) AND position < ?"
            con.execute(
                f"INSERT INTO {grave} ({names}) SELECT position, stream, version, {at}, {at} FROM {table} {where}",
                [*streams, before],
            )
            con.execute(f"DELETE FROM {table} {where}", [*streams, before])
