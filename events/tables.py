"""The log's tables, in SQL: making them, inserting a batch, loading events.

    log_events   the cold events, their payload as JSON
    step_trained one table for every columnar event type, a typed column for each of its fields
    events       the view over all of them
    streams      where every stream ended when it was last written down, and its epoch: saves reading all of the log
                 at every start
    log_meta     the log id, the format of these tables, the position up to which `streams` is true

Times are µs since 1970 (UTC).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .batch import (
    COLD,
    ENVELOPE,
    FIELDS,
    Batch,
    Column,
    Table,
    cold_table,
    from_cold_table,
    heads_table,
    sorted_by_position,
)
from .control import TrainingPurged, WriterClaimed
from .errors import LogUnavailable
from .event import Recorded
from .ids import new_id
from .streams import CONTROL, StreamHead, claimed_stream
from .upcasters import UPCASTERS

FORMAT = "2"
"""Of these tables; a program refuses a file in a format that it does not know."""


class Connection(Protocol):
    """What is used here of a DuckDB connection."""

    def execute(self, query: str, parameters: Any = ..., /) -> Any: ...

    def sql(self, query: str, *, params: Any = ...) -> Any: ...


def table_of(type_: str) -> str:
    """The name of a columnar event type's table."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type_).lower()


def all_tables() -> list[str]:
    """The tables that hold the events."""
    return ["log_events", *map(table_of, FIELDS)]


def present(con: Connection) -> list[str]:
    """Those of them that the log has: one in an older format has fewer."""
    found = con.execute("select table_name from duckdb_tables() where database_name = current_database()").fetchall()
    return [table for table in all_tables() if (table,) in found]


def create(con: Connection) -> str:
    """Makes what is missing of the tables and returns the log id. Raises `LogUnavailable` for an unknown format."""
    con.execute("create table if not exists log_meta (key varchar, value varchar)")
    meta: dict[str, str] = dict(con.execute("select key, value from log_meta").fetchall())
    if meta.get("format", FORMAT) != FORMAT:
        raise LogUnavailable(f"It is in format {meta['format']}; this program works with format {FORMAT}.")
    con.execute(f"create table if not exists log_events ({_definitions(COLD)})")
    con.execute(
        "create table if not exists streams (stream varchar, version uinteger, first_position ubigint,"
        " last_position ubigint, epoch uinteger, epoch_first_version uinteger)"
    )
    for type_, fields in FIELDS.items():
        table = table_of(type_)
        con.execute(f"create table if not exists {table} ({_definitions((*ENVELOPE, *fields))})")
        there = {row[0] for row in con.execute(f"describe {table}").fetchall()}
        for column in fields:
            if column.name not in there:
                con.execute(f"alter table {table} add column {column.name} {column.sql} default {_default(column)}")
    con.execute(f"create or replace view events as {_events()}")
    if "log_id" not in meta:
        con.execute(
            "insert into log_meta values ('format', ?), ('log_id', ?), ('streams_position', '0')", [FORMAT, new_id()]
        )
    return con.execute("select value from log_meta where key = 'log_id'").fetchone()[0]


def selection(con: Connection, database: str, table: str) -> str:
    """What to select of a table of an attached log, which may be older: a column that it lacks has its default."""
    found = columns_of(con, database, table)
    columns = next(((*ENVELOPE, *fields) for type_, fields in FIELDS.items() if table_of(type_) == table), COLD)
    return ", ".join(c.name if c.name in found else f"{_default(c)} as {c.name}" for c in columns)


def columns_of(con: Connection, database: str, table: str) -> list[str]:
    """The columns of a table of an attached database; none where there is no such table."""
    found = con.execute(
        "select column_name from duckdb_columns() where database_name = ? and table_name = ? order by column_index",
        [database, table],
    )
    return [row[0] for row in found.fetchall()]


def quoted(path: Path) -> str:
    """A path as SQL text."""
    return "'" + str(path).replace("'", "''") + "'"


def rename(con: Connection) -> str:
    """Gives the log a new id, and returns it."""
    log_id = new_id()
    con.execute("update log_meta set value = ? where key = 'log_id'", [log_id])
    return log_id


def insert(con: Connection, batch: Batch) -> None:
    """Adds a batch."""
    if batch.cold:
        execute_with(con, "insert into log_events select * from rows", cold_table(batch))
    for type_, table in batch.columnar.items():
        execute_with(con, f"insert into {table_of(type_)} by name select * from rows", table)


def head(con: Connection) -> int:
    """The last position of the log."""
    found = [con.execute(f"select max(position) from {table}").fetchone()[0] for table in all_tables()]
    return max((position for position in found if position is not None), default=0)


def save_stream_heads(con: Connection, heads: Mapping[str, StreamHead], position: int) -> None:
    """Writes down where every stream ends at `position`."""
    con.execute("delete from streams")
    if heads:
        execute_with(con, "insert into streams select * from rows", heads_table(heads))
    # Not an update: that would keep the checkpoint that follows from being made beside readers.
    con.execute("delete from log_meta where key = 'streams_position'")
    con.execute("insert into log_meta values ('streams_position', ?)", [str(position)])


def stream_heads(con: Connection) -> dict[str, StreamHead]:
    """Where every stream ends: what was written down, and what was appended since."""
    saved = int(con.execute("select value from log_meta where key = 'streams_position'").fetchone()[0])
    columns = ", ".join(("stream", *StreamHead.__struct_fields__))
    heads = {row[0]: StreamHead(*row[1:]) for row in con.execute(f"select {columns} from streams").fetchall()}
    for table in all_tables():
        ends = "select stream, max(version), min(position), max(position)"
        rows = con.execute(f"{ends} from {table} where position > ? group by stream", [saved]).fetchall()
        for stream, version, first, last in rows:
            heads[stream] = heads.get(stream, StreamHead()).extended(version, first, last)
    for recorded in _load_cold(con, "position > ?", [saved], [WriterClaimed.__name__, TrainingPurged.__name__])[0]:
        stream = claimed_stream(recorded.stream)
        match recorded.data:
            case WriterClaimed() if recorded.stream.startswith(CONTROL):
                heads[stream] = heads.get(stream, StreamHead()).claimed(recorded.data)
            case TrainingPurged() if recorded.stream.startswith(CONTROL):
                heads[stream] = heads.get(stream, StreamHead()).purged()
            case _:
                pass
    return heads


def load(
    con: Connection,
    after: int,
    upto: int,
    *,
    streams: Collection[str] | None = None,
    types: Collection[str] | None = None,
    versions: tuple[int, int] | None = None,
    columnar: bool = True,
) -> Batch:
    """The matching events at positions after `after` up to `upto` (and versions after … up to).

    Not `columnar`: without those of columnar types.
    """
    where, params = _where(after, upto, streams)
    if versions is not None:
        where += " and version > ? and version <= ?"
        params += versions
    found: dict[str, Table] = {}
    for type_, fields in _columnar(types if columnar else ()).items():
        table = _select(con, table_of(type_), (*ENVELOPE, *fields), where, params)
        if table.num_rows:
            found[type_] = table
    cold, payloads = _load_cold(con, where, params, types)
    return Batch(after + 1, upto, cold, payloads, found)


def positions(
    con: Connection, after: int, upto: int, streams: Collection[str] | None, types: Collection[str] | None
) -> list[int]:
    """The positions of the matching events, the last first."""
    where, params = _where(after, upto, streams)
    cold, _ = _load_cold(con, where, params, types)
    found = [recorded.position for recorded in cold]
    for type_ in _columnar(types):
        rows = con.execute(f"select position from {table_of(type_)} where {where}", params).fetchall()
        found += [row[0] for row in rows]
    return sorted(found, reverse=True)


def _default(column: Column) -> str:
    return "null" if column.default is None else repr(column.default)


def _definitions(columns: Sequence[Column]) -> str:
    return ", ".join(f"{c.name} {c.sql}{'' if c.nullable else ' not null'}" for c in columns)


def _events() -> str:
    parts = [f"select {', '.join(c.name for c in COLD)} from log_events"]
    for type_, fields in FIELDS.items():
        values = ", ".join(f"{c.name} := {_finite(c)}" for c in fields)
        parts.append(
            f"select position, stream, version, '{type_}', occurred_at, recorded_at, null, null,"
            f" to_json(struct_pack(type := '{type_}', {values})) from {table_of(type_)}"
        )
    return " union all ".join(parts)


def _finite(column: Column) -> str:
    # As in JSON from the codec: what is not a finite number is null.
    if column.sql in ("FLOAT", "DOUBLE"):
        return f"case when isfinite({column.name}) then {column.name} end"
    return column.name


def _columnar(types: Collection[str] | None) -> dict[str, tuple[Column, ...]]:
    return {type_: fields for type_, fields in FIELDS.items() if types is None or type_ in types}


def _where(after: int, upto: int, streams: Collection[str] | None) -> tuple[str, list[Any]]:
    where = "position > ? and position <= ?"
    params: list[Any] = [after, upto]
    if streams is not None:
        where += f" and stream in ({', '.join('?' * len(streams)) or 'null'})"
        params += streams
    return where, params


def _select(con: Connection, table: str, columns: Sequence[Column], where: str, params: list[Any]) -> Table:
    names = ", ".join(c.name for c in columns)
    found = con.sql(f"select {names} from {table} where {where}", params=params).to_arrow_table()
    return sorted_by_position(found)


def _load_cold(
    con: Connection, where: str, params: list[Any], types: Collection[str] | None
) -> tuple[list[Recorded], list[bytes]]:
    if types is not None:
        # Events of retired types lie under their old names; what they are now is known after reading.
        wanted = [*types, *UPCASTERS]
        where += f" and type in ({', '.join('?' * len(wanted)) or 'null'})"
        params = [*params, *wanted]
    cold, payloads = from_cold_table(_select(con, "log_events", COLD, where, params))
    if types is not None and UPCASTERS:
        kept = [index for index, recorded in enumerate(cold) if recorded.type in types]
        cold, payloads = [cold[index] for index in kept], [payloads[index] for index in kept]
    return cold, payloads


def execute_with(con: Connection, statement: str, rows: Table) -> list[tuple[Any, ...]]:
    """What comes of a statement that reads the Arrow table `rows`, which DuckDB finds by the name of this argument."""
    if isinstance(con, Sealed):
        return con.execute_with(statement, rows)
    return con.execute(statement).fetchall()


class Sealed:
    """A connection to a database that reaches nothing outside itself, and so finds no Arrow table by its name.

    `execute_with` registers the table for the statement, at twice the cost.
    """

    def __init__(self, con: Any) -> None:
        self._con = con

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute_with(self, statement: str, rows: Table) -> list[tuple[Any, ...]]:
        self._con.register("rows", rows)
        try:
            return self._con.execute(statement).fetchall()
        finally:
            self._con.unregister("rows")
