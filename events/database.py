"""The log's DuckDB file: attached to a root in memory, one connection that writes, cursors that read, healing.

A checkpoint that fails (disk full, out of memory) invalidates the database that it was made of. The root being in
memory, that is the attached file only, and detaching and attaching it heals it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from .errors import DataDirectoryInUse, LogClosed, LogDamaged, LogUnavailable
from .tables import quoted

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_NOT_DAMAGED = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES))
"""Why a whole file may not be opened."""

_open_here: set[Path] = set()
_open_lock = threading.Lock()


def transacted(con: DuckDBPyConnection, fn: Callable[[DuckDBPyConnection], T]) -> T:
    """What `fn` gives in a transaction of its own, which is rolled back where it raises."""
    con.begin()
    try:
        answer = fn(con)
        con.commit()
    except BaseException:
        # Nothing is left to be rolled back where the commit failed or the database has fallen.
        with contextlib.suppress(duckdb.Error):
            con.rollback()
        raise
    return answer


class Database:
    """The file at `path`, made where there is none, as the catalogue `log`.

    `transact`, `ask`, `trust`, `checkpoint`, `heal` and `close` belong to one thread, the writer; `reading` to all.
    Raises `DataDirectoryInUse` where somebody else has the file open, and `LogUnavailable` where it cannot be opened.
    """

    def __init__(
        self, path: Path, *, memory_limit: str, threads: int, temp_directory: Path | None, temp_limit: str
    ) -> None:
        self.path = path
        self.wal = path.with_name(path.name + ".wal")
        self.attached = False
        if temp_directory is None:
            temp_directory = path.with_name(path.name + ".tmp")
        self._config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": str(temp_directory),
            "max_temp_directory_size": temp_limit,
            # Checkpoints are made by the writer: an automatic one would fail a commit that is durable.
            "checkpoint_threshold": "1TB",
            "autoinstall_known_extensions": False,
        }
        self._condition = threading.Condition()
        self._cursors: set[DuckDBPyConnection] = set()
        self._shut = False
        self._closed = False
        self._doubtful = False
        self._generation = 0
        with _open_lock:
            # The lock on the file is the process's: a second opening here would pass it, and its closing break it.
            if path in _open_here:
                raise DataDirectoryInUse(f"The log {path} is open in this process already.")
            _open_here.add(path)
        try:
            self._root = duckdb.connect(":memory:", config=self._config)
            try:
                self._attach()
            except BaseException:
                self._root.close()
                raise
        except BaseException:
            self._forget()
            raise

    @property
    def wal_size(self) -> int:
        """Bytes in the write-ahead log."""
        try:
            return self.wal.stat().st_size
        except FileNotFoundError:
            return 0

    # For the writer

    def transact(self, fn: Callable[[DuckDBPyConnection], T]) -> T:
        """Runs `fn` in a transaction of its own. Where the commit raises, it may be durable even so.

        After that memory is not believed until the file has been opened again, or `trust` was called: DuckDB takes the
        rows back, but its statistics, from which it answers `max`, may go on counting them.
        """
        if self._doubtful:
            self.heal()
        committing = False

        def work(con: DuckDBPyConnection) -> T:
            nonlocal committing
            answer = fn(con)
            committing = True
            return answer

        try:
            return transacted(self._writer, work)
        except BaseException:
            self._doubtful = committing
            raise

    def ask(self, query: Callable[[DuckDBPyConnection], T], *, doubtful: bool = False) -> T:
        """Runs a query on the writing connection, healing the database first where it has fallen.

        After a commit that raised, the file is opened again before; `doubtful` asks memory as it is.
        """
        if self.attached and (doubtful or not self._doubtful):
            try:
                return query(self._writer)
            except duckdb.Error as error:
                _logger.warning("The log has to be opened again: %s", error)
        self.heal()
        return query(self._writer)

    def trust(self) -> None:
        """Memory shows what the file holds, although a commit raised."""
        self._doubtful = False

    def checkpoint(self, patience: float) -> None:
        """Moves the write-ahead log into the file.

        An update that was committed while somebody read an older snapshot keeps checkpoints off until that reader has
        ended; then readers are shut out and those inside waited for, `patience` seconds at most. Raises
        `LogUnavailable` where they stay, and `duckdb.Error` where the checkpoint fails: the database may have fallen.
        """
        try:
            self._writer.execute("checkpoint log")
        except duckdb.TransactionException:
            with self._alone(patience, interrupt=False):
                self._writer.execute("checkpoint log")

    def heal(self) -> None:
        """Detaches and attaches the database, without readers; raises `LogUnavailable` where that fails."""
        started = time.perf_counter()
        with self._alone():
            self.attached = False
            try:
                self._detach()
            except duckdb.Error as error:
                _logger.warning("The log cannot be detached, its root is made anew: %s", error)
                self._root.close()
                self._root = duckdb.connect(":memory:", config=self._config)
            self._attach()
            self._doubtful = False
            self._generation += 1
        _logger.warning("The log was opened again after a failure, in %.0f ms.", 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """Lets go of the file. Readers that stay inside for more than some seconds are interrupted."""
        self._closed = True
        try:
            with self._alone():
                self.attached = False
                self._detach()
        except (LogUnavailable, duckdb.Error) as error:
            _logger.warning("The log was not closed in order: %s", error)
        self._root.close()
        self._forget()

    # For readers

    @contextlib.contextmanager
    def reading(self, timeout: float = 30) -> Generator[DuckDBPyConnection]:
        """A cursor on the log with a snapshot of its own, taken by its first query.

        Waits while the database is healed, for `timeout` seconds at most. Raises `LogUnavailable` or `LogClosed`.
        """
        with self._condition:
            cursor = self._enter(timeout)
            self._cursors.add(cursor)
        try:
            yield cursor
        finally:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
            cursor.close()
            with self._condition:
                self._cursors.discard(cursor)
                self._condition.notify_all()

    def read(self, query: Callable[[DuckDBPyConnection], T], timeout: float = 30) -> T:
        """Runs `query` on a cursor, and again where the database fell under it and was healed."""
        deadline = time.monotonic() + timeout
        while True:
            with self.reading(deadline - time.monotonic()) as cursor:
                generation = self._generation
                try:
                    return query(cursor)
                except duckdb.Error as error:
                    if not isinstance(error, duckdb.InterruptException) and "invalidated" not in str(error):
                        raise
            with self._condition:
                healed = self._condition.wait_for(
                    lambda before=generation: self._generation != before, deadline - time.monotonic()
                )
            if not healed:
                raise LogUnavailable(f"The log {self.path} cannot be read now: it has to be opened again.")

    def _enter(self, timeout: float) -> DuckDBPyConnection:
        deadline = time.monotonic() + timeout
        while True:
            open_again = self._condition.wait_for(lambda: not self._shut, deadline - time.monotonic())
            if self._closed:
                raise LogClosed("The log is closed.")
            if not open_again or not self.attached:
                raise LogUnavailable(f"The log {self.path} cannot be read now: it has to be opened again.")
            generation = self._generation
            try:
                return self._cursor()
            except duckdb.Error as error:
                # It has just fallen, and the writer will notice and heal it.
                healed = self._condition.wait_for(
                    lambda before=generation: self._generation != before, deadline - time.monotonic()
                )
                if not healed:
                    raise LogUnavailable(f"The log {self.path} cannot be read now: {error}") from error

    def _cursor(self) -> DuckDBPyConnection:
        cursor = self._root.cursor()
        try:
            cursor.execute("use log")
            cursor.execute("begin transaction read only")
        except duckdb.Error:
            cursor.close()
            raise
        return cursor

    @contextlib.contextmanager
    def _alone(self, patience: float = 5, *, interrupt: bool = True) -> Generator[None]:
        """Shuts readers out and waits for those inside; what runs after `patience` seconds is interrupted, or stays."""
        with self._condition:
            self._shut = True
            try:
                ended = self._condition.wait_for(lambda: not self._cursors, patience)
                if not ended and interrupt:
                    for cursor in self._cursors:
                        cursor.interrupt()
                    ended = self._condition.wait_for(lambda: not self._cursors, patience)
                if not ended:
                    raise LogUnavailable(f"{len(self._cursors)} readers of the log {self.path} do not end.")
                yield
            finally:
                self._shut = False
                self._condition.notify_all()

    def _attach(self) -> None:
        try:
            self._root.execute(f"attach {quoted(self.path)} as log")
        except duckdb.Error as error:
            if "Conflicting lock" in str(error):
                holder = re.search(r"held in (.*? \(PID \d+\)|PID \d+)", str(error))
                by = holder.group(1) if holder else "another process"
                raise DataDirectoryInUse(f"The log {self.path} is in use by {by}.") from error
            reason = str(error).partition("\n")[0]
            if isinstance(error, duckdb.OutOfMemoryException) or any(sign in reason for sign in _NOT_DAMAGED):
                raise LogUnavailable(f"The log {self.path} cannot be opened: {reason}") from error
            raise LogDamaged(f"The log {self.path} is damaged: {reason}") from error
        self._writer = self._root.cursor()
        self._writer.execute("use log")
        self.attached = True

    def _detach(self) -> None:
        self._writer.close()
        # By the root, whose default database is another: with a default that has fallen every statement fails, even
        # one that would leave it.
        self._root.execute("detach database if exists log")

    def _forget(self) -> None:
        with _open_lock:
            _open_here.discard(self.path)
