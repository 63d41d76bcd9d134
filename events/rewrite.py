"""Writing a log's file anew: in this program's format, and without the events of trainings that are purged.

The new file is written beside the old one, compared with it, and takes its place in one renaming: whatever ends the
process before leaves the old log as it was. Nobody else may have the log open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from . import integrity, tables
from .batch import batch_of
from .control import TrainingPurged
from .disk import sync_folder
from .errors import LogDamaged, LogUnavailable
from .event import EventPurged, event_type, now_us
from .streams import CONTROL, TRAINING, Admitted, Append, StreamHead

Progress = Callable[[int, int], None]
"""Called with the positions that are done and how many there are."""

_AT_ONCE = 500_000


class Purge(msgspec.Struct, frozen=True):
    """A training whose events go; `bytes_freed` is the size of its files, which go with them."""

    training: str
    bytes_freed: int
    actor: str


def format_of(database: Path) -> int:
    """The format that a log says it is in. Raises `LogDamaged` or `LogUnavailable` where that cannot be read."""
    try:
        with duckdb.connect(str(database)) as con:
            found = con.execute("SELECT value FROM log_meta WHERE key = 'format'").fetchone()
    except duckdb.Error as error:
        raise LogDamaged(f"The log {database} cannot be read: {_sentence(error)}") from error
    if found is None or not found[0].isdigit():
        raise LogUnavailable(f"The log {database} does not say what format it is in.")
    return int(found[0])


def rewrite(database: Path, progress: Progress, *, purges: Sequence[Purge] = ()) -> int:
    """Writes the log anew and returns how many events were purged. Blocks.

    Projections are left out: they are built anew from the log. Each purged training's control stream ends with a
    `TrainingPurged`, so that followers, who go on as before, hear of it. Raises `LogUnavailable`, and the log is as it
    was, where there is no space or the new file is not what the old one was.
    """
    new = database.with_name(database.name + ".new")
    new.unlink(missing_ok=True)
    try:
        with duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 2}) as con:
            con.execute(f"ATTACH {tables.quoted(database)} AS old")
            # The old file alone has to hold everything once it is detached.
            con.execute("CHECKPOINT old")
            con.execute(f"ATTACH {tables.quoted(new)} AS log")
            purged = _Rewriting(con, purges, progress).run()
            con.execute("CHECKPOINT log")
            con.execute("USE memory")
            con.execute("DETACH log")
            con.execute("DETACH old")
        new.replace(database)
        sync_folder(database.parent)
    except (duckdb.Error, OSError) as error:
        raise LogUnavailable(f"The log {database} cannot be written anew: {_sentence(error)}") from error
    finally:
        new.unlink(missing_ok=True)
    return purged


class _Rewriting:
    """From the attached database `old` into the attached, empty `log`."""

    def __init__(self, con: DuckDBPyConnection, purges: Sequence[Purge], progress: Progress) -> None:
        self._con = con
        self._purges = purges
        self._progress = progress
        self._gone = [prefix + purge.training for purge in purges for prefix in (TRAINING, CONTROL)]
        self._tables = [name for name in tables.all_tables() if tables.columns_of(con, "old", name)]
        self._head = max(self._number(f"SELECT coalesce(max(position), 0) FROM old.{name}") for name in self._tables)

    def run(self) -> int:
        con = self._con
        con.execute("USE log")
        tables.create(con)
        con.execute("DELETE FROM log_meta")
        con.execute("INSERT INTO log_meta SELECT * FROM old.log_meta WHERE key <> 'format'")
        con.execute("INSERT INTO log_meta VALUES ('format', ?)", [tables.FORMAT])
        con.execute("INSERT INTO streams SELECT * FROM old.streams")
        for done in range(0, self._head, _AT_ONCE):
            self._progress(done, self._head)
            for name in self._tables:
                self._copy(name, f"position > {done} AND position <= {done + _AT_ONCE}")
        purged = self._bury()
        self._compare()
        self._progress(self._head, self._head)
        return purged

    def _copy(self, name: str, where: str) -> None:
        columns = tables.selection(self._con, "old", name)
        source = f"FROM old.{name} WHERE {where}"
        self._con.execute(f"INSERT INTO {name} BY NAME SELECT {columns} {source} AND {self._kept}", self._gone)
        if self._gone:
            grave = tables.table_of(event_type(EventPurged))
            envelope = "position, stream, version, {0} AS occurred_at, {0} AS recorded_at".format(now_us())
            gone = f"SELECT {envelope} {source} AND NOT {self._kept}"
            self._con.execute(f"INSERT INTO {grave} BY NAME {gone}", self._gone)

    def _bury(self) -> int:
        """Ends every purged training's streams; the number of events that are gone."""
        if not self._purges:
            return 0
        con = self._con
        con.execute("USE old")
        heads = tables.stream_heads(con)
        con.execute("USE log")
        head, total = self._head, 0
        for purge in self._purges:
            stream, control = TRAINING + purge.training, CONTROL + purge.training
            count = sum(heads.get(each, StreamHead()).version for each in (stream, control))
            head, total = head + 1, total + count
            event = TrainingPurged(events=count, bytes_freed=purge.bytes_freed)
            version = heads.get(control, StreamHead()).version + 1
            append = Append(control, [event], actor=purge.actor)
            tables.insert(con, batch_of([Admitted(append, append.events, [now_us()], head, version)]))
            heads[control] = heads.get(control, StreamHead()).extended(version, head, head)
            heads[stream] = heads.get(stream, StreamHead()).purged()
        tables.save_stream_heads(con, heads, head)
        return total

    def _compare(self) -> None:
        """Raises `LogUnavailable` unless the new log is whole and holds what was to be kept."""
        if wrong := integrity.difference(self._con):
            raise LogUnavailable(f"The log that was written anew is not whole: {wrong}.")
        for name in self._tables:
            there = tables.columns_of(self._con, "log", name)
            columns = ", ".join(column for column in tables.columns_of(self._con, "old", name) if column in there)
            sums = [
                self._con.execute(
                    f"SELECT count(*), sum(hash({columns})) FROM {place}.{name}"
                    f" WHERE position <= {self._head} AND {self._kept}",
                    self._gone,
                ).fetchone()
                for place in ("old", "log")
            ]
            if sums[0] != sums[1]:
                raise LogUnavailable(f"The table {name} that was written anew is not what it was.")

    @property
    def _kept(self) -> str:
        return f"stream NOT IN ({', '.join('?' * len(self._gone))})" if self._gone else "true"

    def _number(self, query: str) -> int:
        found = self._con.execute(query).fetchone()
        assert found is not None
        return found[0]


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0]
