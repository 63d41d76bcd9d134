"""Tables of projections, derived from the struct that is one row, and what a batch changes in them.

Values are made into Arrow before any SQL runs: an error inside a statement would abort the transaction that commits
the events themselves, so that one odd value must be found out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import msgspec
import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]
from duckdb import DuckDBPyConnection
from msgspec import Meta

from events.tables import execute_with

pa: Any = _pyarrow

Json = Annotated[str, Meta(extra={"column": "JSON"})]
"""A value kept as encoded JSON."""

R = TypeVar("R", bound=msgspec.Struct)

_SQL: dict[Any, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_ARROW: dict[str, Any] = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "BIGINT": pa.int64(),
    "UBIGINT": pa.uint64(),
    "UINTEGER": pa.uint32(),
    "USMALLINT": pa.uint16(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "VARCHAR[]": pa.list_(pa.string()),
    "BIGINT[]": pa.list_(pa.int64()),
}

_ONE_BY_ONE = 4

Skip = Callable[[int, str], None]
"""Told the position and the reason of what could not be kept."""


class Table(msgspec.Struct, Generic[R], frozen=True):
    """A table whose columns are the fields of `row`, in their order; `key` names those that identify a row.

    Every row struct has a `position`: that of the event which last changed the row.
    """

    name: str
    row: type[R]
    key: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Column name → DuckDB type."""
        return _columns(self.row)

    def beside(self, suffix: str) -> Table[R]:
        """The same table under another name."""
        return Table(self.name + suffix, self.row, self.key)

    def create(self, con: DuckDBPyConnection) -> None:
        """Creates the table, empty; one of that name is dropped."""
        columns = ", ".join(f'"{name}" {sql}' for name, sql in self.columns.items())
        con.execute(f"CREATE OR REPLACE TABLE {self.name} ({columns})")

    def select(self, con: DuckDBPyConnection, rest: str = "", parameters: Sequence[object] = ()) -> list[R]:
        """The rows that `rest` (WHERE, ORDER BY, LIMIT) leaves."""
        names = ", ".join(f'"{name}"' for name in self.columns)
        found = con.execute(f"SELECT {names} FROM {self.name} {rest}", list(parameters)).fetchall()
        return [self.row(*values) for values in found]

    def insert(self, con: DuckDBPyConnection, rows: Sequence[R], skip: Skip) -> None:
        """Adds rows. A value that its column cannot hold becomes NULL, a row whose key is lost by that is left out."""
        if rows:
            _insert(con, self.name, self.arrow(rows, skip))

    def update(self, con: DuckDBPyConnection, rows: Sequence[R], skip: Skip) -> None:
        """Changes rows in place, and adds those whose key is not there.

        Unlike deleting and inserting, this leaves nothing behind that slows down reading until the next checkpoint.
        """
        if not rows:
            return
        new = self.arrow(rows, skip)
        names = [name for name in self.columns if name not in self.key]
        if new.num_rows <= _ONE_BY_ONE:
            # A statement with plain values costs a third of one that scans an Arrow table.
            missing = [index for index, row in enumerate(new.to_pylist()) if not self._change(con, row, names)]
            new = new.take(pa.array(missing, pa.int64()))
        elif _update(con, self.name, self.key, names, new) == new.num_rows:
            return
        if new.num_rows:
            _insert_missing(con, self.name, self.key, new)

    def _change(self, con: DuckDBPyConnection, row: dict[str, Any], names: Sequence[str]) -> bool:
        """Sets the named columns of one row; False where there is no such row."""
        values = ", ".join(f'"{name}" = ?' for name in names)
        matches = " AND ".join(f"{name} = ?" for name in self.key)
        changed = first(
            con,
            f"UPDATE {self.name} SET {values} WHERE {matches}",
            [*(row[name] for name in names), *(row[name] for name in self.key)],
        )
        return changed != (0,)

    def change(self, con: DuckDBPyConnection, old: R, new: R, skip: Skip) -> None:
        """Makes the row `old` into `new`, which has the same key, in place."""
        names = [name for name in self.columns if getattr(old, name) != getattr(new, name)]
        if names:
            self._change(con, self.arrow([new], skip).to_pylist()[0], names)

    def arrow(self, rows: Sequence[R], skip: Skip) -> Any:
        """The rows as a `pyarrow.Table`; see `insert` for what does not fit."""
        types = {name: _ARROW[sql] for name, sql in self.columns.items()}
        values = [msgspec.structs.astuple(row) for row in rows]
        try:
            return _table(types, values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            kept = [fitting for row in values if (fitting := self._fitting(types, row, skip)) is not None]
            return _table(types, kept)

    def _fitting(self, types: dict[str, Any], row: tuple[Any, ...], skip: Skip) -> tuple[Any, ...] | None:
        fitting = list(row)
        position = int(row[list(types).index("position")])
        for index, (name, kind) in enumerate(types.items()):
            try:
                pa.array([row[index]], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
                skip(position, f"{self.name}.{name}: {error}")
                if name in self.key:
                    return None
                fitting[index] = None
        return tuple(fitting)


class Changes(Generic[R]):
    """What a batch does to a table with a key, gathered in order and applied in at most three statements."""

    def __init__(self, table: Table[R]) -> None:
        self.table = table
        self._rows: dict[tuple[Any, ...], R] = {}
        self._gone: set[tuple[Any, ...]] = set()
        self._cuts: dict[str, int] = {}

    def put(self, row: R) -> None:
        """The row with this key is `row` now."""
        key = tuple(getattr(row, name) for name in self.table.key)
        self._rows[key] = row
        self._gone.add(key)

    def remove(self, *key: object) -> None:
        """There is no row with this key now."""
        self._rows.pop(key, None)
        self._gone.add(key)

    def cut(self, training: str, step: int) -> None:
        """The training has no rows beyond `step` now; the table's first key column is its id, the second the step."""
        self._rows = {key: row for key, row in self._rows.items() if key[0] != training or key[1] <= step}
        self._cuts[training] = min(step, self._cuts.get(training, step))

    def apply(self, con: DuckDBPyConnection, skip: Skip) -> None:
        """Writes the changes."""
        name, key = self.table.name, self.table.key
        for training, step in self._cuts.items():
            con.execute(f"DELETE FROM {name} WHERE {key[0]} = ? AND {key[1]} > ?", [training, step])
        if self._gone:
            types = {column: _ARROW[self.table.columns[column]] for column in key}
            keys = [each for each in self._gone if _fits(types, each)]
            if keys:
                _delete(con, name, key, _table(types, keys))
        self.table.insert(con, list(self._rows.values()), skip)


def first(con: DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
    """The first row of the result, read to its end: an unfinished result would block the connection's next query."""
    return next(iter(con.execute(sql, list(parameters)).fetchall()), None)


def _insert(con: DuckDBPyConnection, name: str, rows: Any) -> None:
    execute_with(con, f"INSERT INTO {name} BY NAME SELECT * FROM rows", rows)


def _insert_missing(con: DuckDBPyConnection, name: str, key: Iterable[str], rows: Any) -> None:
    anti = f"ANTI JOIN {name} USING ({', '.join(key)})"
    execute_with(con, f"INSERT INTO {name} BY NAME SELECT rows.* FROM rows {anti}", rows)


def _update(con: DuckDBPyConnection, name: str, key: Iterable[str], columns: Iterable[str], rows: Any) -> int:
    values = ", ".join(f'"{column}" = rows."{column}"' for column in columns)
    statement = f"UPDATE {name} SET {values} FROM rows WHERE {_matches(name, key)}"
    changed = execute_with(con, statement, rows)
    return changed[0][0] if changed else 0


def _delete(con: DuckDBPyConnection, name: str, key: Iterable[str], keys: Any) -> None:
    execute_with(con, f"DELETE FROM {name} USING rows WHERE {_matches(name, key)}", keys)


def _matches(name: str, key: Iterable[str]) -> str:
    return " AND ".join(f"{name}.{column} = rows.{column}" for column in key)


def _table(types: dict[str, Any], rows: Sequence[tuple[Any, ...]]) -> Any:
    arrays = [pa.array([row[index] for row in rows], kind) for index, kind in enumerate(types.values())]
    return pa.table(arrays, names=list(types))


def _fits(types: dict[str, Any], key: tuple[Any, ...]) -> bool:
    try:
        _table(types, [key])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return False
    return True


@cache
def _columns(row: type[msgspec.Struct]) -> dict[str, str]:
    return {field.name: _sql_type(field.type) for field in msgspec.structs.fields(row)}


def _sql_type(annotation: Any) -> str:
    """The DuckDB type of a field: what its `Meta` says, else that of its Python type; `| None` changes nothing."""
    if get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        extras = [meta.extra or {} for meta in rest if isinstance(meta, Meta)]
        return next((extra["column"] for extra in extras if "column" in extra), None) or _sql_type(inner)
    if get_origin(annotation) in (tuple, list):
        return _sql_type(get_args(annotation)[0]) + "[]"
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if len(arguments) == 1:
        return _sql_type(arguments[0])
    return _SQL[annotation]
