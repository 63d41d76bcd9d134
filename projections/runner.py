"""Keeps projections in step with the log: catching up, folding inside every commit, rebuilding, verifying.

A projection's checkpoint is the position up to which its tables are true; both change in one transaction. It is either
*joined*, which means folded inside the commit that appends the events, or it is catching up in pages. It joins between
two commits, on the log's writer thread, so that nothing lies between the last page and the first commit. A rebuild is a
second copy of a projection that catches up from position 0 under other names, joins, and then takes the names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import msgspec
from duckdb import DuckDBPyConnection

from events import integrity
from events.batch import Batch
from events.control import TrainingPurged
from events.errors import LogClosed
from events.event import event_type

from .catalog import Catalog
from .checkpoints import Checkpoints
from .evaluations import Evaluations
from .logs import Logs
from .metrics import Metrics
from .projection import Projection, training_of
from .table import first
from .templates import Templates
from .trainings import Trainings

__all__ = ["FoldFailed", "Log", "NotInStep", "Projections", "Standing", "Verified", "every_projection", "position"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

PAGE = 10_000
"""Positions that are folded at once while catching up; the log's writer waits for one page at a time."""
REBUILD = "__rebuild"
_PATIENCE = 3
_PURGED = event_type(TrainingPurged)

Progress = Callable[[int, int], None]
"""Told the position reached and the log's head."""


class Log(Protocol):
    """What a runner needs of a log whose events lie on a DuckDB database; `EventStore` is one."""

    @property
    def head(self) -> int: ...
    def transact(self, fn: Callable[[DuckDBPyConnection], T]) -> Future[T]: ...
    def install(
        self,
        fold: Callable[[DuckDBPyConnection, Batch], None] | None,
        upto: int = 0,
        *,
        failed: Callable[[Exception], None] | None = None,
    ) -> Future[bool]: ...
    def reading(self) -> AbstractContextManager[DuckDBPyConnection]: ...
    def read_batches(
        self, after: int, *, upto: int | None = None, size: int = 50_000, types: Collection[str] | None = None
    ) -> Iterator[Batch]: ...


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a projection stands: true up to `position`, in its `version`.

    `skipped` counts what it could not take in, `fault` is the last of that; `error` says why it is not folded any more
    (None: it is).
    """

    position: int
    version: int
    skipped: int = 0
    fault: str | None = None
    error: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """How a projection's table compares with what the log adds up to; `rows` and `expected` are counts.

    Of the log itself there is one row, `events`, whose `difference` says in words where it is not whole.
    """

    projection: str
    table: str
    matches: bool
    rows: int
    expected: int
    difference: str | None = None


class FoldFailed(Exception):
    """A projection could not fold a batch, in a way that is no single event's fault."""

    def __init__(self, projection: Projection, batch: Batch, error: Exception) -> None:
        self.projection = projection
        super().__init__(f"{projection.key} at positions {batch.first}-{batch.last}: {error}")


class NotInStep(Exception):
    """A batch does not follow the checkpoint of a joined projection."""


def every_projection() -> list[Projection]:
    """One of each."""
    return [Metrics(), Trainings(), Logs(), Checkpoints(), Evaluations(), Templates(), Catalog()]


def position(con: DuckDBPyConnection, *names: str) -> int:
    """The position up to which the named projections (none named: all) are true, in this connection's snapshot."""
    chosen = f"name IN ({', '.join('?' * len(names))})" if names else f"NOT ends_with(name, '{REBUILD}')"
    found = first(con, f"SELECT coalesce(min(position), 0) FROM projections WHERE {chosen}", names)
    assert found is not None
    return found[0]


class Projections:
    """The projections of one log. `start` before use; usable from any thread."""

    def __init__(self, log: Log, projections: Sequence[Projection] | None = None) -> None:
        self._log = log
        self._projections = {each.name: each for each in projections or every_projection()}
        # Changed on the log's writer thread only.
        self._joined: list[Projection] = []
        self._broken: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._maintenance = threading.Lock()

    def start(self, progress: Progress | None = None) -> None:
        """Makes what is missing, builds anew what has another version, catches up, and joins every commit."""
        self._log.transact(self._prepare).result()
        self._install()
        self._follow(list(self._projections.values()), progress)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        """Folds a batch into the joined projections, inside the caller's transaction. Raises `FoldFailed`."""
        self._fold(con, self._joined, batch)

    def positions(self) -> dict[str, Standing]:
        """How every projection stands, by name."""
        with self._log.reading() as con:
            found = con.execute("SELECT name, version, position, skipped, fault FROM projections").fetchall()
        return {
            name: Standing(
                position=position, version=version, skipped=skipped, fault=fault, error=self._broken.get(name)
            )
            for name, version, position, skipped, fault in sorted(found)
            if name in self._projections
        }

    def checksums(self) -> dict[str, str]:
        """Table → rows and a checksum over them that does not depend on their order, of one moment."""
        with self._log.reading() as con:
            tables = [table.name for each in self._projections.values() for table in each.tables]
            return {table: "{}-{:x}".format(*_checksum(con, table)) for table in tables}

    def rebuild(self, names: Sequence[str] | None = None, progress: Progress | None = None) -> None:
        """Builds the named projections (None: all) anew from the log beside the old tables, then swaps them at once.

        Commits go on meanwhile, and readers see the old tables until the swap. Raises `FoldFailed` and leaves
        everything as it was where that cannot be done, and `KeyError` for a name that is not known.
        """
        chosen = [self._projections[name] for name in names or self._projections]
        with self._maintenance:
            beside = self._build(chosen, progress)
            try:
                while not self._log.transact(lambda con: self._swap(con, beside)).result():
                    self._follow(beside, progress)
            except BaseException:
                self._discard(beside)
                raise

    def verify(self, names: Sequence[str] | None = None, progress: Progress | None = None) -> list[Verified]:
        """Compares the named projections' tables with what the log adds up to; None: all, and the log with itself.

        Commits go on meanwhile.
        """
        of_the_log = [] if names else [self._verify_log()]
        chosen = [self._projections[name] for name in names or self._projections]
        with self._maintenance:
            beside = self._build(chosen, progress)
            try:
                pairs = zip(chosen, beside, strict=True)
                return of_the_log + [result for pair in pairs for result in self._compare(*pair)]
            finally:
                self._discard(beside)

    # Catching up

    def _prepare(self, con: DuckDBPyConnection) -> None:
        con.execute(
            "CREATE TABLE IF NOT EXISTS projections"
            " (name VARCHAR, version UINTEGER, position UBIGINT, skipped UINTEGER, fault VARCHAR)"
        )
        head = self._log.head
        here = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
        tables = {row[0] for row in con.execute(here).fetchall()}
        for table in tables:
            if table.endswith(REBUILD):
                con.execute(f"DROP TABLE {table}")
        con.execute("DELETE FROM projections WHERE ends_with(name, ?)", [REBUILD])
        known = {row[0]: row[1:] for row in con.execute("FROM projections").fetchall()}
        for each in self._projections.values():
            version, position, *_ = known.get(each.name, (None, 0))
            if version == each.version and position <= head and all(table.name in tables for table in each.tables):
                each.create_views(con)
                continue
            if version is not None:
                _logger.info("The projection %s is built anew (version %s → %d).", each.name, version, each.version)
            _create(con, each)

    def _install(self) -> None:
        while not self._log.install(self.fold, self._log.head, failed=self._fold_dropped).result():
            pass

    def _follow(self, projections: Sequence[Projection], progress: Progress | None) -> None:
        """Folds what the projections have missed, page by page, and joins them to the commits.

        One that cannot fold is left behind, with its error among the standings; a copy's failure is raised.
        """
        while projections := [each for each in projections if each.key not in self._broken]:
            try:
                if self._step(projections, progress):
                    return
            except FoldFailed as failure:
                if failure.projection.suffix:
                    raise
                _logger.exception("The projection %s stops: it cannot fold the log.", failure.projection.key)
                self._broken[failure.projection.key] = str(failure)

    def _step(self, projections: Sequence[Projection], progress: Progress | None) -> bool:
        """Brings those that are farthest behind level with the next; True once all have joined."""
        with self._log.reading() as con:
            found = con.execute("SELECT name, position FROM projections").fetchall()
        at: dict[str, int] = dict(found)
        lowest = min(at[each.key] for each in projections)
        group = [each for each in projections if at[each.key] == lowest]
        level = min((at[each.key] for each in projections if each not in group), default=None)
        if level is None and self._log.head - lowest <= PAGE:
            self._log.transact(lambda con: self._join(con, group, lowest)).result()
            if progress is not None:
                progress(self._log.head, self._log.head)
            return True
        for batch in self._log.read_batches(lowest, upto=level, size=PAGE, types=_types(group)):
            self._log.transact(lambda con, batch=batch: self._fold(con, group, batch)).result()
            if progress is not None:
                progress(batch.last, self._log.head)
        return False

    def _join(self, con: DuckDBPyConnection, group: Sequence[Projection], after: int) -> None:
        # The writer thread is here, so that the head cannot move before the group has joined.
        for batch in self._log.read_batches(after, size=PAGE, types=_types(group)):
            self._fold(con, group, batch)
        self._joined = [*self._joined, *group]

    def _fold(self, con: DuckDBPyConnection, projections: Sequence[Projection], batch: Batch) -> None:
        if not projections:
            return
        types = batch.types
        purged = [training_of(recorded.stream) for recorded in batch.cold if recorded.type == _PURGED]
        for each in projections:
            if types.isdisjoint(each.types) and not purged:
                continue
            each.faults.clear()
            try:
                each.fold(con, batch)
                if purged:
                    each.purge(con, purged)
            except Exception as error:
                raise FoldFailed(each, batch, error) from error
            if each.faults:
                last = each.faults[-1]
                con.execute(
                    "UPDATE projections SET skipped = skipped + ?, fault = ? WHERE name = ?",
                    [len(each.faults), f"Position {last.position}: {last.reason}", each.key],
                )
        keys = [each.key for each in projections]
        # Names of ours as literals: a list parameter would make this a join, at twice the cost in every commit.
        named = ", ".join(f"'{key}'" for key in keys)
        moved = first(
            con,
            f"UPDATE projections SET position = ? WHERE position = ? AND name IN ({named})",
            [batch.last, batch.first - 1],
        )
        if moved != (len(keys),):
            raise NotInStep(f"Not all of {', '.join(keys)} are true up to position {batch.first - 1}.")

    # After a failure

    def _fold_dropped(self, error: Exception) -> None:
        """The log goes on without its fold: everything is behind from here on and has to catch up."""
        # Copies are brought back by the rebuild that made them.
        behind, self._joined = [each for each in self._joined if not each.suffix], []
        if isinstance(error, FoldFailed):
            key = error.projection.key
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] > _PATIENCE:
                self._broken[key] = str(error)
        threading.Thread(target=self._recover, args=[behind], name="projections-recovery", daemon=True).start()

    def _recover(self, behind: Sequence[Projection]) -> None:
        wait = threading.Event()
        delay = 0.5
        while True:
            try:
                self._install()
                self._follow(behind, None)
                _logger.info("The projections have caught up again.")
                return
            except LogClosed:
                return
            except Exception:
                _logger.exception("The projections cannot catch up yet; trying again in %.1f s.", delay)
                wait.wait(delay)
                delay = min(2 * delay, 30)

    # Rebuilding

    def _build(self, chosen: Sequence[Projection], progress: Progress | None) -> list[Projection]:
        """Second copies of the projections, joined."""
        beside = [type(each)(REBUILD) for each in chosen]
        self._log.transact(lambda con: [_create(con, each) for each in beside]).result()
        try:
            self._follow(beside, progress)
        except BaseException:
            self._discard(beside)
            raise
        return beside

    def _swap(self, con: DuckDBPyConnection, beside: Sequence[Projection]) -> bool:
        if any(each not in self._joined for each in beside):
            # A failure has taken everything out of the commits meanwhile.
            return False
        names = {each.name for each in beside}
        for copy in beside:
            old, fresh = self._projections[copy.name], type(copy)()
            old.drop(con)
            for made, table in zip(copy.tables, fresh.tables, strict=True):
                con.execute(f"ALTER TABLE {made.name} RENAME TO {table.name}")
            con.execute("DELETE FROM projections WHERE name = ?", [old.key])
            con.execute("UPDATE projections SET name = ? WHERE name = ?", [fresh.key, copy.key])
            self._projections[copy.name] = fresh
            self._broken.pop(copy.name, None)
        others = [each for each in self._joined if each.name not in names]
        self._joined = [*others, *(self._projections[name] for name in self._projections if name in names)]
        return True

    def _discard(self, beside: Sequence[Projection]) -> None:
        def discard(con: DuckDBPyConnection) -> None:
            self._joined = [each for each in self._joined if each not in beside]
            for each in beside:
                each.drop(con)
                con.execute("DELETE FROM projections WHERE name = ?", [each.key])

        self._log.transact(discard).result()

    def _verify_log(self) -> Verified:
        with self._log.reading() as con:
            head = first(con, "SELECT coalesce(max(position), 0), count(*) FROM events")
            wrong = integrity.difference(con)
        assert head is not None
        return Verified(
            projection="log", table="events", matches=wrong is None, rows=head[1], expected=head[0], difference=wrong
        )

    def _compare(self, kept: Projection, rebuilt: Projection) -> Iterator[Verified]:
        with self._log.reading() as con:
            at = position(con, kept.key)
            expected_at = position(con, rebuilt.key)
            for table, expected in zip(kept.tables, rebuilt.tables, strict=True):
                found, wanted = _checksum(con, table.name), _checksum(con, expected.name)
                yield Verified(
                    projection=kept.name,
                    table=table.name,
                    matches=found == wanted and at == expected_at,
                    rows=found[0],
                    expected=wanted[0],
                )


def _types(projections: Sequence[Projection]) -> frozenset[str]:
    return frozenset([_PURGED]).union(*(each.types for each in projections))


def _create(con: DuckDBPyConnection, projection: Projection) -> None:
    projection.create(con)
    con.execute("DELETE FROM projections WHERE name = ?", [projection.key])
    con.execute("INSERT INTO projections VALUES (?, ?, 0, 0, NULL)", [projection.key, projection.version])


def _checksum(con: DuckDBPyConnection, table: str) -> tuple[int, int]:
    found = first(con, f"SELECT count(*), coalesce(sum(hash(each)), 0) FROM {table} AS each")
    assert found is not None
    return found[0], int(found[1])
