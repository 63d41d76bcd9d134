"""The event log on DuckDB.

One writer thread groups the appends that wait into one durable transaction and gives them their positions; whoever
reads has the recent events in memory and a cursor on the file for the rest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from . import tables
from .batch import Batch, Page, batch_of, page_of
from .database import Database
from .disk import refusal
from .errors import LogClosed, LogFull, LogUnavailable, PositionBeyondHead
from .event import Recorded
from .headfile import HeadFile
from .recent import Blocks, Recent
from .streams import ANY, NO_STREAM, Append, Appended, Claim, Group, StreamHead

__all__ = ["ANY", "NO_STREAM", "Append", "Appended", "Batch", "Claim", "EventStore", "Fold", "Page"]

Fold = Callable[[DuckDBPyConnection, Batch], None]
"""Folds a batch into tables of the log's database; it must not begin or end a transaction."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_FOLDED_AT_ONCE = 20_000
_WINDOW = 262_144
_NONE = StreamHead()
_NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""How DuckDB's sentence ends where the disk, the user's share of it or the file's is used up."""


class _Request(Generic[T]):
    """Work for the writer: an append or a claim (`place`), which may share its commit, or a task (`run`).

    `patient`: nobody stands still until it is durable, so that it may wait for others to share its commit.
    """

    def __init__(
        self,
        *,
        place: Callable[[Group], T] | None = None,
        run: Callable[[], T] | None = None,
        count: int = 1,
        patient: bool = False,
    ) -> None:
        self.place = place
        self.run = run
        self.count = count
        self.patient = patient
        self.future: Future[T] = Future()


class EventStore:
    """An event log in one DuckDB file. Made by `open`; every method may be called from any thread."""

    def __init__(
        self,
        database: Database,
        *,
        group: int,
        rest: float,
        rest_limit: float,
        wal_limit: int,
        idle: float,
        recent_bytes: int,
    ) -> None:
        self.path = database.path
        self.lost: tuple[int, int] | None = None
        """(head found, head acknowledged) where the log was found shorter than it had been; else None."""
        self._database = database
        self._group = group
        self._rest = rest
        self._rest_limit = rest_limit
        self._rested_at = 0.0
        self._wal_limit = wal_limit
        self._idle = idle
        self._recent_bytes = recent_bytes
        self._headfile = HeadFile(self.path.with_name(self.path.name + ".head"))
        self._listeners: list[Callable[[int], None]] = []
        self._fold: Fold | None = None
        self._fold_failed: Callable[[Exception], None] | None = None
        self._dirty = database.wal_size > 0
        self._in_doubt = False
        self._failures = 0
        self._frozen = False
        self._checkpoint_after = 0.0
        self._lock = threading.Lock()
        self._closed = False
        self._queue: SimpleQueue[_Request[Any] | None] = SimpleQueue()
        self._held: _Request[Any] | None = None
        self.log_id = database.transact(tables.create)
        self._heads = database.ask(tables.stream_heads)
        self._checkpointed = {} if self._dirty else dict(self._heads)
        self._head = database.ask(tables.head)
        self._compare_with_record()
        self._recent = Recent(self._head, recent_bytes)
        self._blocks = Blocks(self._load)
        self._thread = threading.Thread(target=self._work, name="log-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        memory_limit: str = "2GB",
        threads: int = 2,
        temp_directory: Path | None = None,
        temp_limit: str = "10GB",
        group: int = 8_000,
        rest: float = 2.0,
        rest_limit: float = 0.02,
        wal_limit: int = 64 << 20,
        idle: float = 2.0,
        recent_bytes: int = 64 << 20,
    ) -> EventStore:
        """Opens the log at `path`, made where there is none.

        About `group` events at most share a commit (an append is never split). After a commit, a writer's events wait
        for `rest` times what it took, `rest_limit` seconds at most, so that those that come one by one share the next
        one and commits leave most of the processor to others; commands do not wait, nor does a quarter of a group. A
        checkpoint is made when the write-ahead log has `wal_limit` bytes, after `idle` seconds without an append, and
        at `close`. Recent events are kept in about `recent_bytes` of memory; `memory_limit`, `threads`,
        `temp_directory` and `temp_limit` are DuckDB's.

        Raises `DataDirectoryInUse` where somebody else has the file open, `LogUnavailable` where it cannot
        be opened or would lie on a network's file system.
        """
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        if reason := refusal(path.parent, "the log"):
            raise LogUnavailable(reason)
        database = Database(
            path, memory_limit=memory_limit, threads=threads, temp_directory=temp_directory, temp_limit=temp_limit
        )
        try:
            return cls(
                database,
                group=group,
                rest=rest,
                rest_limit=rest_limit,
                wal_limit=wal_limit,
                idle=idle,
                recent_bytes=recent_bytes,
            )
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    def append(self, *appends: Append) -> Future[list[Appended]]:
        """Appends to one or several streams, all or nothing; resolves when it is durable.

        Fails with `WrongExpectedVersion`, `Fenced`, `LogUnavailable` (`LogFull` where the disk is full) or `LogClosed`.
        """
        count = sum(len(append.events) for append in appends)
        patient = all(append.epoch is not None for append in appends)
        return self._submit(_Request(place=lambda group: group.add(appends), count=count, patient=patient))

    def claim(
        self, stream: str, *, epoch: int | None = None, host: str = "", pid: int | None = None, actor: str | None = None
    ) -> Future[Claim]:
        """Gives a training's stream to one writer and records that in its control stream.

        `epoch` None asks for a new epoch; the current one goes on; a higher one was given elsewhere and is taken over.
        Fails with `Fenced` for an older one.
        """
        return self._submit(_Request(place=lambda group: group.claim(stream, epoch, host, pid, actor)))

    def transact(self, fn: Callable[[DuckDBPyConnection], T]) -> Future[T]:
        """Runs `fn` on the writer thread in a transaction of its own, between two commits; appends wait for it."""
        return self._submit(_Request(run=lambda: self._database.transact(fn)))

    def install(
        self, fold: Fold | None, upto: int = 0, *, failed: Callable[[Exception], None] | None = None
    ) -> Future[bool]:
        """From now on `fold` runs inside every commit's transaction; it has seen everything up to position `upto`.

        What was appended since is folded first, between two commits; False, and nothing changed, where that is more
        than 20,000 events: catch up and ask again. A fold that raises is taken out again and the commit made without
        it; then `failed` is called with its error from the writer thread. None takes the present fold out.
        """
        return self._submit(_Request(run=lambda: self._install(fold, upto, failed)))

    def checkpoint(self) -> Future[bool]:
        """Moves everything from the write-ahead log into the file; False where that failed or the file is `frozen`."""
        return self._submit(_Request(run=self._checkpoint))

    @contextlib.contextmanager
    def frozen(self) -> Generator[int]:
        """While this is entered the database file does not change; yields the position up to which it holds the log.

        Commits go on and lie in the write-ahead log. Only another process may open the file meanwhile: this process's
        lock on it would end when a second opening here ends. Raises `LogUnavailable` where no checkpoint can be made.
        """
        position = self._submit(_Request(run=self._freeze)).result()
        try:
            yield position
        finally:
            with contextlib.suppress(LogClosed):
                self._submit(_Request(run=self._thaw)).result()

    def close(self) -> None:
        """Commits what was appended before, makes a checkpoint and lets go of the file. Later calls: `LogClosed`."""
        with self._lock:
            if not self._closed:
                self._closed = True
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
        """The version of `stream` that lies in the database file itself: no loss of the write-ahead log takes it."""
        return self._checkpointed.get(stream, _NONE).version

    def recent(
        self,
        after: int,
        *,
        limit: int = 1_000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page | None:
        """As `read`, from memory and without waiting; None where that does not reach back so far."""
        end = self._bound(after, upto)
        return Page(after, after, []) if end <= after else self._recent.page(after, end, limit, streams, types)

    def read(
        self,
        after: int,
        *,
        limit: int = 1_000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page:
        """The first `limit` matching events after position `after`, up to `upto`. Blocks: call it in a thread.

        Raises `PositionBeyondHead`, `LogUnavailable` or `LogClosed`.
        """
        page = self.recent(after, limit=limit, upto=upto, streams=streams, types=types)
        if page is not None:
            return page
        end = self._bound(after, upto)
        picks: list[tuple[Batch, str, int]] = []
        start, window = after, limit
        while start < end and len(picks) < limit:
            if streams is None and types is None:
                batches, stop = self._blocks.holding(start, self._head)
                stop = min(stop, end)
            else:
                stop = min(end, start + window)
                batches = [self._load(start, stop, streams=streams, types=types)]
            found = page_of(batches, start, stop, limit - len(picks), streams, types)
            picks += found.picks
            start = found.position
            if 4 * len(found) < limit:
                # A filter that lets little through: look at more at once.
                window = min(4 * window, _WINDOW)
        return Page(after, start, picks)

    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1_000) -> list[Recorded]:
        """The first `limit` events of `stream` after `after_version`, in order. Blocks: call it in a thread."""
        self._bound(0, None)
        head = self._heads.get(stream, _NONE)
        if after_version >= head.version:
            return []
        versions = (after_version, after_version + limit)
        return list(
            self._load(head.first_position - 1, head.last_position, streams=[stream], versions=versions).events()
        )

    def read_batches(
        self,
        after: int,
        *,
        upto: int | None = None,
        size: int = 50_000,
        types: Collection[str] | None = None,
        **matching: Any,
    ) -> Iterator[Batch]:
        """Everything after position `after` up to `upto` (None: the head when called), `size` positions at a time.

        `matching` is what else `tables.load` can tell events by.
        """
        end = self._bound(after, upto)
        while after < end:
            stop = min(end, after + size)
            yield self._load(after, stop, types=types, **matching)
            after = stop

    def tail_position(
        self, n: int, *, streams: Collection[str] | None = None, types: Collection[str] | None = None
    ) -> int:
        """The `after` that yields the last `n` matching events; the head where none matches. Blocks."""
        head = self._bound(0, None)
        if streams is None and types is None:
            return max(0, head - n)
        found: list[int] = []
        stop, window = head, max(4 * n, 1_000)
        while stop and len(found) < n:
            start = max(0, stop - window)
            found += self._database.read(lambda con, a=start, b=stop: tables.positions(con, a, b, streams, types))
            stop, window = start, min(4 * window, _WINDOW)
        return found[:n][-1] - 1 if found and n else head

    def listen(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Calls `callback` with the head after every commit and at `close`, from the writer thread, until the
        returned function is called."""
        with self._lock:
            self._listeners.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    def reading(self) -> contextlib.AbstractContextManager[DuckDBPyConnection]:
        """A cursor on the log's database with a snapshot of its own, taken by its first query.

        Keep it short: should the file have to be opened again, that waits for those who read. Raises `LogUnavailable`
        or `LogClosed`.
        """
        return self._database.reading()

    def _bound(self, after: int, upto: int | None) -> int:
        if self._closed:
            raise LogClosed("The log is closed.")
        head = self._head
        if after > head:
            raise PositionBeyondHead(after, head)
        return head if upto is None else min(head, upto)

    def _load(self, after: int, upto: int, **matching: Any) -> Batch:
        return self._database.read(lambda con: tables.load(con, after, upto, **matching))

    # The writer thread

    def _submit(self, request: _Request[T]) -> Future[T]:
        with self._lock:
            if not self._closed:
                self._queue.put(request)
                return request.future
        request.future.set_exception(LogClosed("The log is closed."))
        return request.future

    def _work(self) -> None:
        while True:
            due = max(self._idle, self._checkpoint_after - time.monotonic()) if self._dirty else None
            try:
                request = self._held or self._queue.get(timeout=due)
            except Empty:
                self._checkpoint()
                continue
            self._held = None
            if request is None:
                break
            requests = self._with_those_waiting(request)
            try:
                self._recover()
                self._serve(requests)
            except Exception as error:
                _logger.exception("The log cannot take events now.")
                for each in requests:
                    if not each.future.done():
                        each.future.set_exception(_unavailable(error))
            if self._database.wal_size >= self._wal_limit and time.monotonic() >= self._checkpoint_after:
                self._checkpoint()
        self._checkpoint()
        self._database.close()
        self._headfile.close()
        self._tell()

    def _with_those_waiting(self, first: _Request[Any]) -> list[_Request[Any]]:
        """`first` and, where it is an append, those that wait behind it, as many as may share a commit."""
        requests, count, patient = [first], first.count, first.patient
        while first.place is not None and count < self._group:
            pause = self._rested_at - time.monotonic() if patient and count < self._group // 4 else 0.0
            try:
                request = self._queue.get(timeout=pause) if pause > 0 else self._queue.get_nowait()
            except Empty:
                break
            if request is None or request.place is None:
                self._held = request
                if request is None:
                    self._queue.put(None)
                break
            requests.append(request)
            count += request.count
            patient = patient and request.patient
        return [each for each in requests if each.future.set_running_or_notify_cancel()]

    def _serve(self, requests: list[_Request[Any]]) -> None:
        group = Group(self._heads, self._head, self.log_id, self._position_of)
        placed: list[tuple[_Request[Any], Any]] = []
        for request in requests:
            try:
                if request.place is not None:
                    placed.append((request, request.place(group)))
                elif request.run is not None:
                    request.future.set_result(request.run())
            except Exception as error:  # noqa: BLE001 (handed to whoever waits; the others go on)
                request.future.set_exception(error)
        if not len(group):
            for request, answer in placed:
                request.future.set_result(answer)
            return
        try:
            batch = batch_of(group.admitted)
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            if len(placed) == 1:
                placed[0][0].future.set_exception(error)
            else:
                # One of them holds what cannot be stored; the others must not suffer for it.
                for request, _ in placed:
                    self._serve([request])
            return
        began = time.monotonic()
        failed = self._commit(batch)
        self._publish(batch, group.changed)
        ended = time.monotonic()
        self._rested_at = ended + min(self._rest * (ended - began), self._rest_limit)
        if failed is not None:
            self._drop_fold(failed)
        for request, answer in placed:
            request.future.set_result(answer)
        self._tell()

    def _commit(self, batch: Batch) -> Exception | None:
        """Makes the batch durable, with the fold if that can be; the fold's error where it could not.

        Raises where the batch is not in the log.
        """
        error = self._try_to_commit(batch, self._fold)
        if error is not None and self._fold is not None:
            without = self._try_to_commit(batch, None)
            if without is None:
                return error
            error = without
        if error is not None:
            raise error
        return None

    def _try_to_commit(self, batch: Batch, fold: Fold | None) -> Exception | None:
        def write(con: DuckDBPyConnection) -> None:
            tables.insert(con, batch)
            if fold is not None:
                fold(con, batch)

        before = self._database.wal_size
        try:
            self._database.transact(write)
        except Exception as error:
            # A commit that raises can be durable all the same: the file knows. Memory does not: where a write-ahead
            # log could not be begun on a full disk, statistics, which answer what the last position is, keep what
            # further commits have failed to add; and what is written of a failed commit cannot always be cut off.
            self._in_doubt = True
            head = self._database.ask(tables.head, doubtful=True)
            if head == batch.first - 1 and self._database.wal_size == before:
                self._database.trust()
            else:
                head = self._database.ask(tables.head)
            if head == batch.last:
                _logger.warning("A commit raised, but its %d events are in the log: %s", len(batch), error)
            elif head != batch.first - 1:
                raise
            self._in_doubt = False
            return None if head == batch.last else error
        return None

    def _publish(self, batch: Batch, heads: dict[str, StreamHead]) -> None:
        self._recent.push(batch)
        self._heads.update(heads)
        self._head = batch.last
        self._dirty = True
        self._record()

    def _record(self) -> None:
        try:
            self._headfile.write(self.log_id, self._head)
        except OSError:
            _logger.exception("The record of the acknowledged head cannot be written.")

    def _tell(self) -> None:
        for callback in tuple(self._listeners):
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
        if fold is not None and upto != self._head:
            if upto > self._head:
                raise PositionBeyondHead(upto, self._head)
            if self._head - upto > _FOLDED_AT_ONCE:
                return False
            batch = self._database.ask(lambda con: tables.load(con, upto, self._head))
            self._database.transact(lambda con: fold(con, batch))
        self._fold, self._fold_failed = fold, failed
        return True

    def _position_of(self, stream: str, version: int) -> int:
        head = self._heads[stream]
        batch = self._database.ask(
            lambda con: tables.load(
                con, head.first_position - 1, head.last_position, streams=[stream], versions=(version - 1, version)
            )
        )
        return next(batch.events()).position

    # Checkpoints, and what goes wrong

    def _freeze(self) -> int:
        if self._frozen:
            raise LogUnavailable("The log's file is being copied already.")
        if not self._checkpoint():
            raise LogUnavailable("The log's file cannot be brought up to date now.")
        self._frozen = True
        return self._head

    def _thaw(self) -> None:
        self._frozen = False
        self._checkpoint_after = 0.0

    def _checkpoint(self) -> bool:
        if self._frozen:
            self._checkpoint_after = time.monotonic() + self._idle
            return False
        heads = dict(self._heads)
        try:
            self._recover()
            # It only spares reading at the next start; on a full disk the checkpoint may succeed without it.
            with contextlib.suppress(duckdb.Error):
                self._database.transact(lambda con: tables.save_stream_heads(con, heads, self._head))
            self._database.checkpoint(min(5.0, 0.25 * 2**self._failures))
        except Exception as error:  # noqa: BLE001 (the writer goes on)
            _logger.warning("A checkpoint of the log failed, all events are kept: %s", _sentence(error))
            self._failures += 1
            self._checkpoint_after = time.monotonic() + min(60.0, self._idle * 2**self._failures)
            self._in_doubt = True
            try:
                self._recover()
            except Exception as again:  # noqa: BLE001 (tried again before the next commit)
                _logger.warning("The log is not available: %s", _sentence(again))
            return False
        self._checkpointed = heads
        self._dirty = False
        self._failures, self._checkpoint_after = 0, 0.0
        return True

    def _recover(self) -> None:
        """After a failure: heals the database where it has fallen, and takes over the head that it turns out to have.

        Raises `LogUnavailable` where it cannot be healed; then this is tried again before the next commit.
        """
        if not self._in_doubt:
            return
        head = self._database.ask(tables.head)
        if head != self._head:
            heads = self._database.ask(tables.stream_heads)
            self._recent = Recent(head, self._recent_bytes)
            self._heads, acknowledged, self._head = heads, self._head, head
            if head < acknowledged:
                self._begin_new_incarnation(acknowledged)
            else:
                # The outcome of a commit could not be learned at once; it was made.
                self._record()
            self._tell()
        self._in_doubt = False

    def _compare_with_record(self) -> None:
        record = self._headfile.read()
        if record is not None and record[0] == self.log_id:
            if record[1] > self._head:
                self._begin_new_incarnation(record[1])
                return
        elif self._head:
            _logger.warning(
                "The log %s has no record of its acknowledged head beside it (was it restored or copied?). It goes on"
                " under a new id: followers start again.",
                self.path,
            )
            self.log_id = self._database.transact(tables.rename)
        self._headfile.start(self.log_id, self._head)

    def _begin_new_incarnation(self, acknowledged: int) -> None:
        self.lost = (self._head, acknowledged)
        _logger.error(
            "The log %s ends at position %d though %d was acknowledged: events are lost (was its .wal file removed?)."
            " It goes on under a new id: followers start again, trainers send what they still hold.",
            self.path,
            *self.lost,
        )
        self.log_id = self._database.transact(tables.rename)
        self._headfile.start(self.log_id, self._head)


def _unavailable(error: Exception) -> LogUnavailable:
    full = any(reason in str(error) for reason in _NO_SPACE)
    kind = LogFull if full else LogUnavailable
    unavailable = kind(
        f"{'The disk of the log is full' if full else 'The log cannot take events now'}: {_sentence(error)}"
    )
    unavailable.__cause__ = error
    return unavailable


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0]
