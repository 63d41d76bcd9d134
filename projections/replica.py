"""A replica: a DuckDB database of one's own that holds a server's log and what it adds up to, and stays up to date.

It is a follower like any other. What lies far back comes as Arrow, in ranges of positions; from there on it follows.
Every range and every page is one transaction with its checkpoint, so that the database is true at one position always,
whatever ends the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import httpx
import msgspec
from duckdb import DuckDBPyConnection

from events import tables
from events.batch import Batch, batch_of_recorded
from events.client import Follower, FollowRefused, ServerAddress
from events.database import transacted
from events.errors import LogClosed
from events.wire import Subscribed

from . import replica_tables, views
from .remote import OtherLog, Remote, RemoteRefused
from .replica_tables import ReplicaFailed
from .runner import Projections
from .table import first

__all__ = ["Replica", "ReplicaFailed", "Standing", "connect"]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

RANGE = 250_000
"""Positions that are fetched, written and folded at once while filling."""

NEAR = 20_000
"""So close to the head the replica follows; from farther back it fills."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica stands: true at `position` of the log `log_id`, whose end was last seen at `head`.

    Not `ready`: it is being filled, and what is asked of it now would be an answer about the past. `error` says why it
    does not go on (None: it does); `away`, what it waits for at present: a server that does not answer, or memory.
    """

    position: int
    head: int
    log_id: str
    ready: bool
    error: str | None = None
    away: str | None = None

    @property
    def share(self) -> float:
        """How much of the log is there, 0-1."""
        return min(1.0, self.position / self.head) if self.head else float(self.ready)


class Replica:
    """Brings a DuckDB database up to the head of a server's log, and keeps it there until `close`.

    `database` is a file that holds a replica or is made, or `:memory:`; `config` is DuckDB's. `sealed`: no statement
    reaches a file, a network or a setting through it. The views in its schema `main` are for people,
    `projections.views` describes them. Raises `ReplicaFailed` where the database cannot be used. May be used from any
    thread.
    """

    def __init__(
        self,
        address: ServerAddress,
        database: Path | str = ":memory:",
        *,
        config: Mapping[str, Any] | None = None,
        sealed: bool = False,
    ) -> None:
        self._remote = Remote(address)
        self._changed = threading.Condition()
        self._lock = threading.RLock()
        self._cursors: set[DuckDBPyConnection] = set()
        self._fold: Callable[[DuckDBPyConnection, Batch], None] | None = None
        self._fold_failed: Callable[[Exception], None] | None = None
        self._follower: Follower | None = None
        self._closed = threading.Event()
        self._standing = Standing(position=0, head=0, log_id="", ready=False)
        self._root = replica_tables.opened(database, config or {})
        try:
            self._writer = self._root.cursor()
            if sealed:
                self._root.execute("SET enable_external_access = false")
                self._root.execute("SET lock_configuration = true")
                self._writer = cast(DuckDBPyConnection, tables.Sealed(self._writer))
            log_id, at = self._prepare(address.url)
            self._standing = msgspec.structs.replace(self._standing, log_id=log_id, position=at, head=at)
            self._project()
        except BaseException as error:
            self._root.close()
            self._remote.close()
            if isinstance(error, duckdb.Error):
                reason = str(error).partition("\n")[0]
                raise ReplicaFailed(f"{database} cannot be used: {reason}") from error
            raise
        self._thread = threading.Thread(target=self._work, name="replica", daemon=True)

    def start(self) -> Replica:
        """Begin to fill and to follow."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following and let go of the database. Cursors end with it."""
        self._closed.set()
        if (follower := self._follower) is not None:
            follower.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._remote.close()
        with self._lock:
            for cursor in (*self._cursors, self._writer):
                cursor.close()
            self._cursors.clear()
            self._root.close()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Replica:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # For those who ask

    @property
    def standing(self) -> Standing:
        """How it stands at this moment."""
        return self._standing

    @property
    def position(self) -> int:
        """The position that the database is true at now."""
        return self._standing.position

    def wait(self, position: int | None = None, timeout: float | None = None) -> bool:
        """Until the database is true at `position` or later (None: has been filled); False where `timeout` ends that.

        Raises `ReplicaFailed` where it cannot go on, and `LogClosed`.
        """

        def reached() -> bool:
            standing = self._standing
            if self._closed.is_set():
                raise LogClosed("The replica is closed.")
            if standing.error is not None:
                raise ReplicaFailed(standing.error)
            return standing.ready and (position is None or standing.position >= position)

        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def cursor(self) -> DuckDBPyConnection:
        """A connection of its own to the database, for one thread; it sees every change as it is made."""
        with self._lock:
            if self._closed.is_set():
                raise LogClosed("The replica is closed.")
            cursor = self._root.cursor()
            self._cursors.add(cursor)
            return cursor

    @contextlib.contextmanager
    def snapshot(self) -> Generator[tuple[DuckDBPyConnection, int]]:
        """A connection in a transaction that only reads, and the position that all it sees is true at."""
        cursor = self.cursor()
        try:
            cursor.execute("begin transaction read only")
            found = first(cursor, "SELECT position FROM replica")
            assert found is not None
            yield cursor, found[0]
        finally:
            with self._lock:
                if cursor in self._cursors:
                    self._cursors.discard(cursor)
                    with contextlib.suppress(duckdb.Error):
                        cursor.rollback()
                    cursor.close()

    # What the projections' runner needs of a log

    @property
    def head(self) -> int:
        """The last position that the database holds."""
        return self._standing.position

    def transact(self, fn: Callable[[DuckDBPyConnection], T]) -> Future[T]:
        """Runs `fn` on the raw tables in a transaction of its own, at once."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed.is_set():
                raise LogClosed("The replica is closed.")
            answer = transacted(self._writer, fn)
        future.set_result(answer)
        return future

    def install(
        self,
        fold: Callable[[DuckDBPyConnection, Batch], None] | None,
        upto: int = 0,
        *,
        failed: Callable[[Exception], None] | None = None,
    ) -> Future[bool]:
        """From now on `fold` runs with every batch; it has seen everything up to position `upto`. False: it has not."""
        future: Future[bool] = Future()
        with self._lock:
            current = fold is None or upto == self.head
            if current:
                self._fold, self._fold_failed = fold, failed
        future.set_result(current)
        return future

    @contextlib.contextmanager
    def reading(self) -> Generator[DuckDBPyConnection]:
        """A cursor on the raw tables with a snapshot of its own."""
        cursor = self.cursor()
        try:
            cursor.execute("use raw")
            cursor.execute("begin transaction read only")
            yield cursor
        finally:
            with self._lock:
                self._cursors.discard(cursor)
                with contextlib.suppress(duckdb.Error):
                    cursor.rollback()
                cursor.close()

    def read_batches(
        self, after: int, *, upto: int | None = None, size: int = 50_000, types: Collection[str] | None = None
    ) -> Iterator[Batch]:
        """Everything after position `after` up to `upto` (None: the head when called), `size` positions at a time."""
        end = self.head if upto is None else min(upto, self.head)
        while after < end:
            stop = min(end, after + size)
            with self.reading() as con:
                batch = tables.load(con, after, stop, types=types)
            yield batch
            after = stop

    # The database

    def _prepare(self, url: str) -> tuple[str, int]:
        """Makes what is missing; the log's id and the position that the database is true at."""
        con = self._writer
        kept = dict(
            con.execute(
                "SELECT schema_name || '.' || table_name, true FROM duckdb_tables()"
                " WHERE database_name = current_database() AND NOT internal"
            ).fetchall()
        )
        found = None
        if "raw.replica" in kept:
            found = first(con, "SELECT log_id, position FROM raw.replica WHERE format = ?", [replica_tables.FORMAT])
        elif kept:
            raise ReplicaFailed("The database holds tables of something else; give the replica a file of its own.")
        if found is None:
            self.transact(lambda con: replica_tables.make(con, "", url))
            return "", 0
        con.execute("use raw")
        return found[0], found[1]

    def _start_over(self, log_id: str) -> None:
        """Another log: nothing that is here counts."""
        with self._lock:
            self._fold = self._fold_failed = None
            self.transact(lambda con: replica_tables.make(con, log_id, self._remote.address.url))
            self._stand(log_id=log_id, position=0, ready=False)
            self._project()

    def _project(self) -> None:
        Projections(self).start()
        # On the tables of the projections, which are there now.
        self.transact(views.create)

    def _apply(self, batch: Batch) -> None:
        """Writes and folds a batch, in one transaction."""
        with self._lock:
            fold, failed = self._fold, self._fold_failed
            try:
                self.transact(lambda con: replica_tables.write(con, batch, fold))
            except (LogClosed, duckdb.FatalException, duckdb.IOException):
                # No projection's fault, and what a commit that met a full disk has left is known only to the file.
                raise
            except Exception as error:
                if (lacking := _lack_of_memory(error)) is not None:
                    # Others who ask this database may have all of it: that is no fault of a projection.
                    raise MemoryError(str(lacking).partition("\n")[0]) from error
                if fold is None or failed is None:
                    raise
                _logger.exception("A projection failed and is behind from now on; the events are kept.")
                self.transact(lambda con: replica_tables.write(con, batch, None))
                self._fold = self._fold_failed = None
                self._stand(position=batch.last)
                failed(error)
                return
            self._stand(position=batch.last)

    def _stand(self, **changes: Any) -> None:
        with self._changed:
            standing = msgspec.structs.replace(self._standing, **changes)
            self._standing = msgspec.structs.replace(standing, head=max(standing.head, standing.position))
            self._changed.notify_all()

    # Filling and following

    def _work(self) -> None:
        delay = 0.1
        while not self._closed.is_set():
            try:
                self._fill()
                self._stand(ready=True, away=None)
                delay = 0.1
                self._follow()
            except (httpx.TransportError, OSError) as error:
                self._stand(away=f"The server does not answer: {error or type(error).__name__}")
            except MemoryError as error:
                _logger.warning("The replica waits for memory: %s", error)
                self._stand(away=f"There is not enough memory at present: {error}")
            except OtherLog as error:
                _logger.info("The replica starts over: %s", error)
            except LogClosed:
                return
            except (RemoteRefused, FollowRefused) as error:
                self._stand(error=str(error))
                return
            except Exception as error:
                _logger.exception("The replica ends.")
                self._stand(error=f"The replica cannot go on: {str(error).partition(chr(10))[0]}")
                return
            self._closed.wait(delay)
            delay = min(2 * delay, 2.0)

    def _fill(self) -> None:
        """Everything up to a position near the head, as Arrow."""
        while not self._closed.is_set():
            log_id, head = self._remote.health()
            if log_id != self._standing.log_id or head < self.position:
                self._start_over(log_id)
            self._stand(head=head, away=None)
            if head - self.position <= NEAR and (self.position or not head):
                return
            with ThreadPoolExecutor(1, "replica-fetch") as fetching:
                starts = range(self.position, head, RANGE)
                # One range is on its way while the one before it is written.
                coming = fetching.submit(self._remote.batch, log_id, starts[0], min(head, starts[0] + RANGE))
                for start in starts:
                    batch = coming.result()
                    if batch.last < head:
                        after = start + RANGE
                        coming = fetching.submit(self._remote.batch, log_id, after, min(head, after + RANGE))
                    self._apply(batch)
                    if self._closed.is_set():
                        return

    def _follow(self) -> None:
        """Live, until the replica is closed or has fallen far behind."""
        address, log_id = self._remote.address, self._standing.log_id
        self._follower = Follower(address.url, token=address.token, after=self.position, log_id=log_id)
        with contextlib.closing(self._follower.sync_messages()) as messages:
            if self._closed.is_set():
                return
            for message in messages:
                match message:
                    case Subscribed():
                        if message.log_id != log_id:
                            raise OtherLog(f"The log is {message.log_id} now.")
                        self._stand(head=message.head, away=None)
                        if message.head - self.position > NEAR:
                            return
                    case list():
                        self._apply(batch_of_recorded(self.position, message))
                    case _:
                        pass


def _lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The lack of memory that an error tells of, itself or as its cause; None where it is another one."""
    while error is not None and not isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        error = error.__cause__
    return error


@contextlib.contextmanager
def connect(
    url: str,
    *,
    database: Path | str = ":memory:",
    token: str | None = None,
    config: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Generator[DuckDBPyConnection]:
    """A live DuckDB connection to what a server's log holds, in this process, for a notebook.

        with connect("http://gpu-box:8420") as con:
            con.sql("SELECT training, max(step) FROM metrics GROUP BY training").df()

    Returns when everything that the log holds is there; from then on the views change under the connection as events
    come in, and `FROM replica` says the position that they are true at. `database` keeps it in a file, so that the next
    time only the rest is fetched. `token` is the server's where it asks for one. Raises `ReplicaFailed`, and
    `TimeoutError` where that takes more than `timeout` seconds.
    """
    began = time.monotonic()
    with Replica(ServerAddress(url.rstrip("/"), token), database, config=config) as replica:
        while not replica.wait(timeout=0.5):
            standing = replica.standing
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(standing.away or f"The replica is being filled, {standing.share:.0%}.")
        yield replica.cursor()
