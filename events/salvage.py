"""What can still be read of a damaged log, written into a new one.

The damaged files are set aside first, and only a copy of them is ever opened: nothing here can make it worse. Events
that cannot be read leave no hole: those behind them move up, in positions and versions, and the new log is another
incarnation, so that followers start again and trainers compare what they still hold.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from . import integrity, tables
from .disk import sync_folder
from .errors import LogUnavailable
from .ids import new_id

Progress = Callable[[int, int], None]
"""Called with the positions that were looked at and how many there are."""

REPORT = "salvaged.json"

_AT_ONCE = 1 << 17
_LEAST = 2_048


class Salvaged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a damaged log: `read` events are in the new log, of `reached` that there were at least.

    `damage` is what was found wrong with it, and `aside` the folder that keeps its files.
    """

    aside: str
    damage: str
    read: int
    reached: int


def damage(database: Path) -> str | None:
    """What is wrong with a log, in a sentence; None where it is whole. Looks at a copy beside it.

    Raises `LogUnavailable` where there is no space for that.
    """
    work = database.with_name(database.name + ".look")
    try:
        with duckdb.connect(":memory:") as con:
            _attach_copy(con, database, work, wal=True)
            con.execute("USE old")
            return integrity.difference(con)
    except duckdb.Error as error:
        return _sentence(error)
    except OSError as error:
        raise LogUnavailable(f"The log {database} cannot be copied, to be looked at: {_sentence(error)}") from error
    finally:
        _remove(work)


def salvage(database: Path, aside: Path, progress: Progress) -> Salvaged:
    """Sets the files of a log aside and puts a new log with what can be read of them in their place. Blocks.

    The caller has made sure that nobody has the log open. Raises `LogUnavailable` where the log is whole, where there
    is no space, or where nothing at all can be read: then there is no log, and the files are in `aside` all the same.
    """
    wrong = damage(database)
    if wrong is None:
        raise LogUnavailable(f"The log {database} is whole: there is nothing to salvage.")
    try:
        aside.mkdir(mode=0o700, parents=True)
        for suffix in ("", ".wal", ".head"):
            file = database.with_name(database.name + suffix)
            if file.exists():
                file.replace(aside / file.name)
        sync_folder(database.parent)
        new, work = database.with_name(database.name + ".salvaged"), aside / "work"
        try:
            read, reached = _Reading(aside / database.name, work, new, progress).run()
            new.replace(database)
        finally:
            _remove(new)
            _remove(work)
            _remove(work.with_name(work.name + ".stage"))
        salvaged = Salvaged(aside=str(aside), damage=wrong, read=read, reached=reached)
        (aside / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(salvaged)))
        sync_folder(database.parent)
    except (OSError, duckdb.Error) as error:
        raise LogUnavailable(f"{wrong} The log lies in {aside}; salvaging it failed: {_sentence(error)}") from error
    return salvaged


class _Reading:
    """From a copy of the damaged log through a staging database into a new log."""

    def __init__(self, damaged: Path, work: Path, new: Path, progress: Progress) -> None:
        self._damaged = damaged
        self._work = work
        self._stage = work.with_name(work.name + ".stage")
        self._new = new
        self._progress = progress
        self._con: DuckDBPyConnection
        self._wal = True

    def run(self) -> tuple[int, int]:
        try:
            self._open()
        except duckdb.Error:
            # A damaged write-ahead log keeps the whole database from opening; trainers and the server's journal hold
            # what was in it.
            self._con.close()
            self._wal = False
            self._open()
        try:
            names = [name for name in tables.all_tables() if tables.columns_of(self._con, "old", name)]
            highest = {name: self._reach(name) for name in names}
            reached, done = max(highest.values(), default=0), 0
            for name in names:
                for after in range(0, highest[name], _AT_ONCE):
                    self._read(name, after, min(after + _AT_ONCE, highest[name]))
                    self._progress(done + after, sum(highest.values()))
                done += highest[name]
            read = self._write(names)
        finally:
            self._con.close()
        if not read:
            raise LogUnavailable(f"Nothing can be read of the log that lies in {self._damaged.parent} now.")
        return read, reached

    def _open(self) -> None:
        self._con = duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 2})
        _attach_copy(self._con, self._damaged, self._work, wal=self._wal)
        self._con.execute(f"ATTACH {tables.quoted(self._stage)} AS stage")
        self._con.execute("USE stage")
        tables.create(self._con)

    def _recover(self) -> None:
        """Opens everything again where what was found damaged has taken a database down."""
        try:
            self._con.execute("SELECT 1 FROM old.log_meta, stage.log_meta")
        except duckdb.Error:
            self._con.close()
            self._open()

    def _reach(self, name: str) -> int:
        """The last position of a table, or what its row count makes likely where that cannot be read."""
        try:
            found = self._con.execute(f"SELECT coalesce(max(position), 0) FROM old.{name}").fetchone()
        except duckdb.Error:
            self._recover()
            found = self._con.execute(
                "SELECT max(estimated_size) * 2 FROM duckdb_tables() WHERE database_name = 'old'"
            ).fetchone()
        return int(found[0] or 0) if found else 0

    def _read(self, name: str, after: int, upto: int) -> None:
        """Copies the rows of a range of positions; halves it where that fails, down to what cannot be read."""
        columns = tables.selection(self._con, "old", name)
        try:
            self._con.execute(
                f"INSERT INTO stage.{name} BY NAME SELECT {columns} FROM old.{name}"
                f" WHERE position > {after} AND position <= {upto}"
            )
        except duckdb.Error:
            self._recover()
            if upto - after > _LEAST:
                middle = (after + upto) // 2
                self._read(name, after, middle)
                self._read(name, middle, upto)

    def _write(self, names: list[str]) -> int:
        """The new log, from what was staged; the number of its events."""
        con = self._con
        con.execute(f"ATTACH {tables.quoted(self._new)} AS log")
        con.execute("USE log")
        tables.create(con)
        con.execute("UPDATE log_meta SET value = ? WHERE key = 'log_id'", [new_id()])
        places = " UNION ALL ".join(f"SELECT position, stream FROM stage.{name}" for name in names)
        con.execute(
            "CREATE TEMP TABLE places AS SELECT position AS old, row_number() OVER (ORDER BY position) AS position,"
            f" row_number() OVER (PARTITION BY stream ORDER BY position) AS version FROM ({places})"
        )
        for name in names:
            rest = ", ".join(
                f"staged.{column}"
                for column in tables.columns_of(self._con, "stage", name)
                if column not in ("position", "version")
            )
            con.execute(
                f"INSERT INTO log.{name} BY NAME SELECT places.position, places.version, {rest} FROM stage.{name} AS"
                " staged JOIN places ON places.old = staged.position ORDER BY places.position"
            )
        head = tables.head(con)
        tables.save_stream_heads(con, tables.stream_heads(con), head)
        if wrong := integrity.difference(con):
            raise LogUnavailable(f"What was salvaged is not a whole log: {wrong}.")
        con.execute("CHECKPOINT log")
        con.execute("USE memory")
        con.execute("DETACH log")
        return head


def _attach_copy(con: DuckDBPyConnection, database: Path, copy: Path, *, wal: bool) -> None:
    _remove(copy)
    for suffix in ("", ".wal") if wal else ("",):
        source = database.with_name(database.name + suffix)
        if source.exists():
            shutil.copy(source, copy.with_name(copy.name + suffix))
    con.execute(f"ATTACH {tables.quoted(copy)} AS old")


def _remove(file: Path) -> None:
    for suffix in ("", ".wal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") + "."
