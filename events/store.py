"""The event log on DuckDB.

One writer thread groups the appends that wait into one durable transaction; readers have cursors of their own. The
root connection is in memory and the log's file is attached to it: should a checkpoint fail, only the attached database
falls, and detaching and attaching heals it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from .batch import (
    COLD,
    ENVELOPE,
    FIELDS,
    Batch,
    Column,
    Page,
    Table,
    batch_of,
    cold_table,
    from_cold_table,
    heads_table,
    page_of,
    sorted_by_position,
)
from .errors import DataDirectoryInUse, LogClosed, LogUnavailable, PositionBeyondHead
from .event import Recorded
from .headfile import HeadFile
from .ids import new_id
from .recent import Recent
from .streams import ANY, NO_STREAM, Append, Appended, Claim, Group, StreamHead
from .upcasters import UPCASTERS

__all__ = ["ANY", "NO_STREAM", "Append", "Appended", "Batch", "Claim", "EventStore", "Fold", "Page"]

FORMAT = "1"
"""Of the log's tables; a program refuses a file with a format that it does not know."""

Fold = Callable[[DuckDBPyConnection, Batch], None]

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_open_files: set[Path] = set()
_FOLD_AT_ONCE = 20_000
_WINDOW = 262_144


def table_of(type_: str) -> str:
    """The name of a columnar event type's table."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type_).lower()


class _Request(Generic[T]):
    """Something for the writer thread: an append or claim (`place`), which may share a commit, or a task (`run`)."""

    def __init__(
        self, *, place: Callable[[Group], T] | None = None, run: Callable[[], T] | None = None, count: int = 1
    ) -> None:
        self.place = place
        self.run = run
        self.count = count
        self.future: Future[T] = Future()


class _Gate:
    """Readers pass together; healing passes alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._cursors: set[DuckDBPyConnection] = set()
        self._shut = False

    def enter(self, cursor: Callable[[], DuckDBPyConnection], timeout: float = 30) -> DuckDBPyConnection:
        with self._condition:
            if not self._condition.wait_for(lambda: not self._shut, timeout):
                raise LogUnavailable("The log cannot be read now: it is being opened again after a failure.")
            made = cursor()
            self._cursors.add(made)
            return made

    def leave(self, cursor: DuckDBPyConnection) -> None:
        with self._condition:
            self._cursors.discard(cursor)
            self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self, patience: float = 5) -> Generator[None]:
        """Waits for the readers inside; those that stay longer than `patience` seconds are interrupted."""
        with self._condition:
            self._shut = True
            try:
                if not self._condition.wait_for(lambda: not self._cursors, patience):
                    for cursor in self._cursors:
                        cursor.interrupt()
                    if not self._condition.wait_for(lambda: not self._cursors, patience):
                        raise LogUnavailable("The log cannot be opened again: a reader does not let go of it.")
                yield
            finally:
                self._shut = False
                self._condition.notify_all()


class EventStore:
    """An event log in one DuckDB file. Made by `open`; usable from any thread."""

    def __init__(self, path: Path, root: DuckDBPyConnection, group: int, wal_limit: int, idle: float) -> None:
        self.path = path
        self.lost: tuple[int, int] | None = None
        """(head found, head acknowledged) where the log was shorter at start than it had been; else None."""
        self.log_id = ""
        self._root = root
        self._group = group
        self._wal_limit = wal_limit
        self._idle = idle
        self._writer = root.cursor()
        self._headfile = HeadFile(path.with_name(path.name + ".head"))
        self._gate = _Gate()
        self._heads: dict[str, StreamHead] = {}
        self._checkpointed: dict[str, StreamHead] = {}
        self._head = 0
        self._recent = Recent(0, None)
        self._dirty = False
        self._attached = False
        self._fold: Fold | None = None
        self._fold_failed: Callable[[Exception], None] | None = None
        self._listeners: list[Callable[[int], None]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._queue: SimpleQueue[_Request[Any] | None] = SimpleQueue()
        self._held: _Request[Any] | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="log-writer", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        memory_limit: str = "2GB",
        threads: int = 2,
        temp_directory: Path | None = None,
        temp_limit: str = "10GB",
        group: int = 4_000,
        wal_limit: int = 64 << 20,
        idle: float = 2.0,
        recent_bytes: int = 64 << 20,
    ) -> EventStore:
        """Opens the log at `path`, made where there is none.

        `group` events at most share a commit (one append is never split), a checkpoint is made when the write-ahead
        log has `wal_limit` bytes, after `idle` seconds without an append and at `close`; recent events are kept in
        about `recent_bytes` of memory. Raises `DataDirectoryInUse` where another process has the file open, and
        `LogUnavailable` where it cannot be read.
        """
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _files_lock:
            # The file lock is of the process: a second store here would pass it, and break it when it closes.
            if path in _open_files:
                raise DataDirectoryInUse(f"The log {path} is open in this process already.")
            _open_files.add(path)
        try:
            root = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": memory_limit,
                    "threads": threads,
                    "temp_directory": str(temp_directory or path.with_name(path.name + ".tmp")),
                    "max_temp_directory_size": temp_limit,
                    # Checkpoints are made by the writer: an automatic one would fail a commit that is durable.
                    "checkpoint_threshold": "1TB",
                    "autoinstall_known_extensions": False,
                },
            )
            store = cls(path, root, group, wal_limit, idle)
            try:
                store._start(recent_bytes)
            except BaseException:
                store._let_go()
                raise
            return store
        except BaseException:
            with _files_lock:
                _open_files.discard(path)
            raise

    # Writing

    def append(self, *appends: Append) -> Future[list[Appended]]:
        """Appends to one or several streams, all or nothing; resolves when it is durable.

        Fails with `WrongExpectedVersion`, `Fenced`, `LogUnavailable` (nothing was appended; try again) or `LogClosed`.
        """
        count = sum(len(append.events) for append in appends)
        return self._submit(_Request(place=lambda group: group.add(appends), count=count))

    def claim(
        self, stream: str, *, epoch: int | None = None, host: str = "", pid: int | None = None, actor: str | None = None
    ) -> Future[Claim]:
        """Gives a training's stream to one writer and records that in its control stream.

        `epoch` None asks for a new epoch; the current one goes on; a higher one was given elsewhere and is taken over.
        Fails with `Fenced` for an older one.
        """
        return self._submit(_Request(place=lambda group: group.claim(stream, epoch, host, pid, actor)))

    def transact(self, fn: Callable[[DuckDBPyConnection], T]) -> Future[T]:
        """Runs `fn` on the writer thread in a transaction of its own, between two commits; the log waits for it."""
        return self._submit(_Request(run=lambda: self._transact(fn)))

    def install(
        self,
        fold: Fold | None,
        upto: int = 0,
        *,
        failed: Callable[[Exception], None] | None = None,
    ) -> Future[bool]:
        """From now on `fold` runs inside every commit's transaction; it has seen everything up to position `upto`.

        What was appended since `upto` is folded first, between two commits; False and no change where that is more
        than 20,000 events: catch up and ask again. A fold that raises is taken out, so that events are kept all the
        same, and `failed` is called with its error from the writer thread; it is then behind from that commit on.
        """
        return self._submit(_Request(run=lambda: self._install(fold, upto, failed)))

    def checkpoint(self) -> Future[bool]:
        """Moves everything from the write-ahead log into the database file; False where that failed."""
        return self._submit(_Request(run=self._checkpoint))

    def close(self) -> None:
        """Commits what was appended before, makes a checkpoint and lets go of the file. Later calls: `LogClosed`."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed:
                self._queue.put(None)
        self._thread.join()

    # Reading

    @property
    def head(self) -> int:
        """The last committed position."""
        return self._head

    def version(self, stream: str) -> int:
        """The version of `stream`; 0 where there is no such stream."""
        return self._heads.get(stream, _NONE).version

    def epoch(self, stream: str) -> int:
        """The epoch under which `stream` is written; 0 where it was never claimed."""
        return self._heads.get(stream, _NONE).epoch

    def checkpointed(self, stream: str) -> int:
        """The version of `stream` in the checkpointed file: what not even a lost write-ahead log takes away."""
        return self._checkpointed.get(stream, _NONE).version

    def recent(
        self,
        after: int,
        *,
        limit: int = 1000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page | None:
        """As `read`, from memory without waiting; None where some of the events are no longer there."""
        end = self._end(after, upto)
        return Page(after, after, []) if end <= after else self._recent.page(after, end, limit, streams, types)

    def read(
        self,
        after: int,
        *,
        limit: int = 1000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page:
        """The first `limit` events after position `after` that match, up to `upto`. Blocks: call it in a thread.

        Raises `PositionBeyondHead`, `LogUnavailable` or `LogClosed`.
        """
        page = self.recent(after, limit=limit, upto=upto, streams=streams, types=types)
        if page is not None:
            return page
        end = self._end(after, upto)
        window = limit if streams is None and types is None else 4 * limit
        picks: list[tuple[Batch, str, int]] = []
        start = after
        while start < end:
            stop = min(end, start + window)
            batch = self._retried(lambda con, a=start, b=stop: _load(con, a, b, streams, types))
            found = page_of([batch], start, stop, limit - len(picks), streams, types)
            picks += found.picks
            if len(picks) == limit:
                return Page(after, found.position, picks)
            if len(found) < limit // 4:
                window = min(4 * window, _WINDOW)
            start = stop
        return Page(after, end, picks)

    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1000) -> list[Recorded]:
        """The events of one stream after `after_version`, in order. Blocks: call it in a thread."""
        self._end(0, None)
        head = self._heads.get(stream, _NONE)
        if after_version >= head.version:
            return []

        def load(con: DuckDBPyConnection) -> Batch:
            return _load(
                con, head.first_position - 1, head.last_position, [stream], None, (after_version, after_version + limit)
            )

        return list(self._retried(load).events())

    def read_batches(
        self, after: int, *, upto: int | None = None, size: int = 50_000, types: Collection[str] | None = None
    ) -> Iterator[Batch]:
        """Everything after position `after` up to `upto` (None: the head when called), `size` positions at a time."""
        end = self._end(after, upto)
        while after < end:
            stop = min(end, after + size)
            yield self._retried(lambda con, a=after, b=stop: _load(con, a, b, None, types))
            after = stop

    def tail_position(
        self, n: int, *, streams: Collection[str] | None = None, types: Collection[str] | None = None
    ) -> int:
        """The `after` that yields the last `n` events that match; the head where none does. Blocks."""
        head = self._end(0, None)
        if streams is None and types is None:
            return max(0, head - n)
        found: list[int] = []
        stop, window = head, max(4 * n, 1_000)
        while n and stop > 0 and len(found) < n:
            start = max(0, stop - window)
            found += self._retried(lambda con, a=start, b=stop: _positions(con, a, b, streams, types))
            stop, window = start, min(4 * window, 16 * _WINDOW)
        return found[:n][-1] - 1 if found else head

    def listen(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Calls `callback` with the new head after every commit, from the writer thread; returns how to stop that."""
        with self._lock:
            self._listeners.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    @contextlib.contextmanager
    def reading(self) -> Generator[DuckDBPyConnection]:
        """A cursor on the log's database with a snapshot of its own, taken by its first query.

        Keep it short: while the log is opened again after a failed checkpoint, new readers wait for those inside.
        """
        if self._closed:
            raise LogClosed("The log is closed.")
        cursor = self._gate.enter(self._cursor)
        try:
            yield cursor
        finally:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
            cursor.close()
            self._gate.leave(cursor)

    # The writer thread

    def _submit(self, request: _Request[T]) -> Future[T]:
        with self._lock:
            if not self._closed:
                self._queue.put(request)
                return request.future
        request.future.set_exception(LogClosed("The log is closed."))
        return request.future

    def _write_until_closed(self) -> None:
        while True:
            try:
                request = self._held or self._queue.get(timeout=self._idle if self._dirty else None)
            except Empty:
                self._checkpoint()
                continue
            self._held = None
            if request is None:
                break
            if request.place is None:
                self._run(request)
            else:
                self._write(self._waiting(request))
            if _size(self.path.with_name(self.path.name + ".wal")) >= self._wal_limit:
                self._checkpoint()
        self._shut_down()

    def _waiting(self, first: _Request[Any]) -> list[_Request[Any]]:
        """`first` and the appends that wait behind it, as many as share a commit."""
        requests, count = [first], first.count
        while count < self._group:
            try:
                request = self._queue.get_nowait()
            except Empty:
                break
            if request is None or request.place is None:
                self._held = request
                if request is None:
                    self._queue.put(None)
                break
            requests.append(request)
            count += request.count
        return [each for each in requests if each.future.set_running_or_notify_cancel()]

    def _run(self, request: _Request[Any]) -> None:
        assert request.run is not None
        if not request.future.set_running_or_notify_cancel():
            return
        try:
            answer = request.run()
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            request.future.set_exception(error)
        else:
            request.future.set_result(answer)

    def _write(self, requests: list[_Request[Any]]) -> None:
        """Commits the requests together; those that are refused do not touch the others."""
        group = Group(self._heads, self._head, self.log_id, self._position_of)
        placed: list[tuple[_Request[Any], Any]] = []
        for request in requests:
            assert request.place is not None
            try:
                placed.append((request, request.place(group)))
            except Exception as error:  # noqa: BLE001 (handed to whoever waits)
                request.future.set_exception(error)
        try:
            batch = batch_of(group.admitted) if len(group) else None
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            if len(placed) > 1:
                # One of them holds what no column can; the others must not suffer for it.
                for request, _ in placed:
                    self._write([request])
            else:
                _logger.warning("An append was refused: %s", error)
                placed[0][0].future.set_exception(error)
            return
        if batch is not None:
            try:
                failed = self._commit(batch, group.changed)
            except Exception as error:
                _logger.exception("A commit of %d events failed.", len(group))
                for request, _ in placed:
                    refusal = LogUnavailable(f"The log cannot take events now, nothing was appended: {error}")
                    refusal.__cause__ = error
                    request.future.set_exception(refusal)
                return
            self._publish(batch, group.changed)
            if failed is not None:
                self._drop_fold(failed)
        for request, answer in placed:
            request.future.set_result(answer)
        if batch is not None:
            self._tell()

    def _commit(self, batch: Batch, changed: dict[str, StreamHead]) -> Exception | None:
        """Makes the batch durable, with the fold if it can be; the fold's error where it could not.

        Raises where the batch is not in the log.
        """
        error = self._try(batch, changed, self._fold)
        if error is None:
            return None
        if self._fold is None:
            raise error
        again = self._try(batch, changed, None)
        if again is not None:
            raise again
        return error

    def _try(self, batch: Batch, changed: dict[str, StreamHead], fold: Fold | None) -> Exception | None:
        try:
            self._transact(lambda con: _insert(con, batch, changed, fold))
        except Exception as error:  # noqa: BLE001 (raised by the caller where the commit is not durable)
            # A commit can raise and be durable all the same (a failed checkpoint): the file knows.
            if self._head_in_file() == batch.last:
                _logger.warning("A commit was made though it raised: %s", error)
                return None
            return error
        return None

    def _transact(self, fn: Callable[[DuckDBPyConnection], T]) -> T:
        if not self._attached:
            self._heal()
        self._writer.begin()
        try:
            answer = fn(self._writer)
            self._writer.commit()
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._writer.rollback()
            raise
        return answer

    def _publish(self, batch: Batch, changed: dict[str, StreamHead]) -> None:
        self._recent.push(batch)
        self._heads.update(changed)
        self._head = batch.last
        self._dirty = True
        try:
            self._headfile.write(self.log_id, self._head)
        except OSError:
            _logger.exception("The record of the acknowledged head cannot be written.")

    def _tell(self) -> None:
        for callback in list(self._listeners):
            try:
                callback(self._head)
            except Exception:
                _logger.exception("A listener of the log failed.")

    def _drop_fold(self, error: Exception) -> None:
        _logger.error("A projection failed and is behind from now on; the events are kept.", exc_info=error)
        failed, self._fold, self._fold_failed = self._fold_failed, None, None
        if failed is not None:
            try:
                failed(error)
            except Exception:
                _logger.exception("Telling that a projection failed has failed.")

    def _install(self, fold: Fold | None, upto: int, failed: Callable[[Exception], None] | None) -> bool:
        if fold is not None:
            if self._head - upto > _FOLD_AT_ONCE:
                return False
            if upto < self._head:
                batch = _load(self._writer, upto, self._head, None, None)
                self._transact(lambda con: fold(con, batch))
        self._fold, self._fold_failed = fold, failed
        return True

    def _position_of(self, stream: str, version: int) -> int:
        head = self._heads[stream]
        batch = _load(self._writer, head.first_position - 1, head.last_position, [stream], None, (version - 1, version))
        return next(batch.events()).position

    # Opening, checkpoints, healing

    def _start(self, recent_bytes: int) -> None:
        self._attach()
        self.log_id = self._transact(_create)
        self._checkpointed = {}
        self._heads = _heads(self._writer)
        self._head = self._head_in_file()
        if not _size(self.path.with_name(self.path.name + ".wal")):
            self._checkpointed = dict(self._heads)
        self._compare_with_record()
        self._recent = Recent(self._head, recent_bytes)
        self._thread.start()

    def _compare_with_record(self) -> None:
        record = self._headfile.read()
        same = record is not None and record[0] == self.log_id
        if record is not None and same and record[1] > self._head:
            self.lost = (self._head, record[1])
            _logger.error(
                "The log %s ends at position %d, but %d was acknowledged: events are lost (was its .wal file removed?)."
                " It goes on under a new log id; followers start again, trainers send what their spools still hold.",
                self.path,
                *self.lost,
            )
        elif not same and self._head:
            _logger.warning(
                "The log %s has no record of its acknowledged head beside it (was it restored or copied?)."
                " It goes on under a new log id; followers start again.",
                self.path,
            )
        if self.lost or (not same and self._head):
            self.log_id = self._transact(_rename)
        self._headfile.start(self.log_id, self._head)

    def _attach(self) -> None:
        try:
            self._writer.execute(f"attach '{str(self.path).replace(chr(39), chr(39) * 2)}' as log")
            self._writer.execute("use log")
        except duckdb.Error as error:
            held = re.search(r"Conflicting lock is held in (.*?\(PID \d+\)|PID \d+)", str(error))
            if held or "lock" in str(error).lower():
                by = held.group(1) if held else "another process"
                raise DataDirectoryInUse(f"The log {self.path} is in use by another process: {by}.") from error
            raise LogUnavailable(f"The log {self.path} cannot be opened: {error}") from error
        self._attached = True

    def _cursor(self) -> DuckDBPyConnection:
        if not self._attached:
            raise LogUnavailable("The log cannot be read now: it could not be opened again after a failure.")
        cursor = self._root.cursor()
        cursor.execute("use log")
        cursor.begin()
        return cursor

    def _retried(self, read: Callable[[DuckDBPyConnection], T]) -> T:
        try:
            with self.reading() as con:
                return read(con)
        except duckdb.Error:
            # The log may just have fallen and been healed: once more, behind the gate.
            with self.reading() as con:
                return read(con)

    def _head_in_file(self) -> int:
        try:
            return _file_head(self._writer)
        except duckdb.Error:
            self._heal()
            return _file_head(self._writer)

    def _heal(self) -> None:
        """Detaches and attaches the database; raises `LogUnavailable` where that fails, to be tried again."""
        started = time.perf_counter()
        with self._gate.alone():
            self._attached = False
            try:
                with contextlib.suppress(duckdb.Error):
                    self._writer.rollback()
                self._writer.execute("use memory")
                self._writer.execute("detach database if exists log")
                self._attach()
            except duckdb.Error as error:
                raise LogUnavailable(f"The log {self.path} cannot be opened again: {error}") from error
        _logger.warning("The log was opened again after a failure, in %.0f ms.", 1e3 * (time.perf_counter() - started))

    def _checkpoint(self) -> bool:
        self._dirty = False
        heads = dict(self._heads)
        try:
            if not self._attached:
                self._heal()
            self._writer.execute("checkpoint log")
        except (duckdb.Error, LogUnavailable) as error:
            _logger.warning("A checkpoint of the log failed: %s", error)
            with contextlib.suppress(LogUnavailable, duckdb.Error):
                self._head_in_file()
            return False
        self._checkpointed = heads
        return True

    def _shut_down(self) -> None:
        self._checkpoint()
        self._tell()
        self._let_go()

    def _let_go(self) -> None:
        try:
            with self._gate.alone():
                self._attached = False
                with contextlib.suppress(duckdb.Error):
                    self._writer.execute("use memory")
                    self._writer.execute("detach database if exists log")
        except LogUnavailable as error:
            _logger.warning("%s", error)
        self._writer.close()
        self._root.close()
        self._headfile.close()
        with _files_lock:
            _open_files.discard(self.path)

    def _end(self, after: int, upto: int | None) -> int:
        if self._closed:
            raise LogClosed("The log is closed.")
        head = self._head
        if after > head:
            raise PositionBeyondHead(after, head)
        return head if upto is None else min(head, upto)


_NONE = StreamHead()
_files_lock = threading.Lock()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _columns(columns: Sequence[Column]) -> str:
    return ", ".join(f"{c.name} {c.sql}{'' if c.nullable else ' not null'}" for c in columns)


def _create(con: DuckDBPyConnection) -> str:
    """Makes what is missing of the log's tables, and returns the log id."""
    con.execute("create table if not exists log_meta (key varchar, value varchar)")
    meta: dict[str, str] = dict(con.execute("select key, value from log_meta").fetchall())
    if meta.get("format", FORMAT) != FORMAT:
        raise LogUnavailable(f"The log was written in format {meta['format']}; this program knows format {FORMAT}.")
    con.execute(f"create table if not exists log_events ({_columns(COLD)})")
    con.execute(
        "create table if not exists streams (stream varchar primary key, version uinteger, first_position ubigint,"
        " last_position ubigint, epoch uinteger, epoch_first_version uinteger)"
    )
    for type_, fields in FIELDS.items():
        con.execute(f"create table if not exists {table_of(type_)} ({_columns((*ENVELOPE, *fields))})")
        known = {row[0] for row in con.execute(f"describe {table_of(type_)}").fetchall()}
        for column in fields:
            if column.name not in known:
                con.execute(
                    f"alter table {table_of(type_)} add column {column.name} {column.sql} default {_literal(column)}"
                )
    con.execute(_events_view())
    if "log_id" not in meta:
        meta["log_id"] = new_id()
        con.execute("insert into log_meta values ('format', ?), ('log_id', ?)", [FORMAT, meta["log_id"]])
    return meta["log_id"]


def _literal(column: Column) -> str:
    return "null" if column.default is None else repr(column.default)


def _rename(con: DuckDBPyConnection) -> str:
    log_id = new_id()
    con.execute("update log_meta set value = ? where key = 'log_id'", [log_id])
    return log_id


def _events_view() -> str:
    parts = [f"select {', '.join(c.name for c in COLD)} from log_events"]
    for type_, fields in FIELDS.items():
        packed = ", ".join(
            f"{c.name} := case when isfinite({c.name}) then {c.name} end"
            if c.sql in ("FLOAT", "DOUBLE")
            else f"{c.name} := {c.name}"
            for c in fields
        )
        parts.append(
            f"select position, stream, version, '{type_}', occurred_at, recorded_at, null, null,"
            f" to_json(struct_pack(type := '{type_}', {packed})) from {table_of(type_)}"
        )
    return f"create or replace view events as {' union all '.join(parts)}"


def _insert(con: DuckDBPyConnection, batch: Batch, changed: dict[str, StreamHead], fold: Fold | None) -> None:
    if batch.cold:
        _execute(con, "insert into log_events select * from rows", cold_table(batch))
    for type_, table in batch.columnar.items():
        _execute(con, f"insert into {table_of(type_)} by name select * from rows", table)
    _execute(
        con,
        "insert into streams select * from rows on conflict (stream) do update set version = excluded.version,"
        " first_position = excluded.first_position, last_position = excluded.last_position, epoch = excluded.epoch,"
        " epoch_first_version = excluded.epoch_first_version",
        heads_table(changed),
    )
    if fold is not None:
        fold(con, batch)


def _execute(con: DuckDBPyConnection, statement: str, rows: Table) -> None:
    """Runs a statement that reads the Arrow table `rows`, which DuckDB finds by the name of this argument."""
    con.execute(statement)


def _heads(con: DuckDBPyConnection) -> dict[str, StreamHead]:
    rows = con.execute(
        "select stream, version, first_position, last_position, epoch, epoch_first_version from streams"
    ).fetchall()
    return {row[0]: StreamHead(*row[1:]) for row in rows}


def _file_head(con: DuckDBPyConnection) -> int:
    row = con.execute("select coalesce(max(last_position), 0) from streams").fetchone()
    assert row is not None
    return row[0]


def _load(
    con: DuckDBPyConnection,
    after: int,
    upto: int,
    streams: Collection[str] | None,
    types: Collection[str] | None,
    versions: tuple[int, int] | None = None,
) -> Batch:
    """The events of the positions after `after` up to `upto`, and of the versions after … up to, that match."""
    where, params = _where(after, upto, streams)
    if versions is not None:
        where += " and version > ? and version <= ?"
        params += versions
    columnar: dict[str, Any] = {}
    for type_, fields in FIELDS.items():
        if types is None or type_ in types:
            names = ", ".join(c.name for c in (*ENVELOPE, *fields))
            table = con.sql(f"select {names} from {table_of(type_)} where {where}", params=params).to_arrow_table()
            if table.num_rows:
                columnar[type_] = sorted_by_position(table)
    return Batch(after + 1, upto, *_load_cold(con, where, params, types), columnar)


def _load_cold(
    con: DuckDBPyConnection, where: str, params: list[Any], types: Collection[str] | None
) -> tuple[list[Recorded], list[bytes]]:
    if types is not None:
        # Events of retired types are stored under their old names; what they are now is known after reading.
        wanted = [*types, *UPCASTERS]
        where += f" and type in ({', '.join('?' * len(wanted)) or 'null'})"
        params = [*params, *wanted]
    names = ", ".join(c.name for c in COLD)
    table = con.sql(f"select {names} from log_events where {where}", params=params).to_arrow_table()
    cold, payloads = from_cold_table(sorted_by_position(table))
    if types is not None and UPCASTERS:
        kept = [index for index, recorded in enumerate(cold) if recorded.type in types]
        cold, payloads = [cold[index] for index in kept], [payloads[index] for index in kept]
    return cold, payloads


def _positions(
    con: DuckDBPyConnection, after: int, upto: int, streams: Collection[str] | None, types: Collection[str] | None
) -> list[int]:
    """The positions of the events that match, the last first."""
    where, params = _where(after, upto, streams)
    found = [recorded.position for recorded in _load_cold(con, where, params, types)[0]]
    for type_ in FIELDS:
        if types is None or type_ in types:
            rows = con.execute(f"select position from {table_of(type_)} where {where}", params).fetchall()
            found += [row[0] for row in rows]
    return sorted(found, reverse=True)


def _where(after: int, upto: int, streams: Collection[str] | None) -> tuple[str, list[Any]]:
    where = "position > ? and position <= ?"
    params: list[Any] = [after, upto]
    if streams is not None:
        where += f" and stream in ({', '.join('?' * len(streams)) or 'null'})"
        params += streams
    return where, params
