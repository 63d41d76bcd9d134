"""The contract of `EventStore` without a file: for tests and for embedding. Nothing outlives the object."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TypeVar

from .batch import Page, batch_of
from .errors import LogClosed, PositionBeyondHead
from .event import Recorded
from .ids import new_id
from .recent import Recent
from .streams import Append, Appended, Claim, Group, StreamHead

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class MemoryStore:
    """An event log in memory. Appends are decided and kept in the caller's thread, one at a time."""

    def __init__(self) -> None:
        self.log_id = new_id()
        self._heads: dict[str, StreamHead] = {}
        self._positions: dict[str, list[int]] = {}
        self._head = 0
        self._recent = Recent(0, None)
        self._listeners: list[Callable[[int], None]] = []
        self._lock = threading.RLock()
        self._closed = False

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> int:
        """The last committed position."""
        return self._head

    def append(self, *appends: Append) -> Future[list[Appended]]:
        """As `EventStore.append`."""
        return self._commit(lambda group: group.add(appends))

    def claim(
        self, stream: str, *, epoch: int | None = None, host: str = "", pid: int | None = None, actor: str | None = None
    ) -> Future[Claim]:
        """As `EventStore.claim`."""
        return self._commit(lambda group: group.claim(stream, epoch, host, pid, actor))

    def version(self, stream: str) -> int:
        """The version of `stream`; 0 where there is no such stream."""
        return self._heads.get(stream, StreamHead()).version

    def epoch(self, stream: str) -> int:
        """The epoch under which `stream` is written; 0 where it was never claimed."""
        return self._heads.get(stream, StreamHead()).epoch

    def checkpointed(self, stream: str) -> int:
        """As `version`: there is no file that could hold less."""
        return self.version(stream)

    def recent(
        self,
        after: int,
        *,
        limit: int = 1000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page | None:
        """As `read`: everything is recent."""
        return self.read(after, limit=limit, upto=upto, streams=streams, types=types)

    def read(
        self,
        after: int,
        *,
        limit: int = 1000,
        upto: int | None = None,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> Page:
        """As `EventStore.read`."""
        head = self._open_head(after)
        end = head if upto is None else min(upto, head)
        if end <= after:
            return Page(after, after, [])
        page = self._recent.page(after, end, limit, streams, types)
        assert page is not None
        return page

    def read_stream(self, stream: str, after_version: int = 0, limit: int = 1000) -> list[Recorded]:
        """As `EventStore.read_stream`."""
        head = self._open_head(0)
        batches = self._recent.since(0, head) or []
        found = [each for batch in batches for each in batch.events() if each.stream == stream]
        return found[after_version : after_version + limit]

    def tail_position(
        self, n: int, *, streams: Collection[str] | None = None, types: Collection[str] | None = None
    ) -> int:
        """As `EventStore.tail_position`."""
        head = self._open_head(0)
        found: list[int] = []
        for batch in reversed(self._recent.since(0, head) or []):
            found += [position for position, _, _ in reversed(batch.select(0, head, streams, types))]
            if n and len(found) >= n:
                return found[n - 1] - 1
        return found[-1] - 1 if n and found else head

    def listen(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """As `EventStore.listen`; called in the appender's thread."""
        with self._lock:
            self._listeners.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    def close(self) -> None:
        """Every later call raises `LogClosed`."""
        self._closed = True
        self._tell()

    def _commit(self, place: Callable[[Group], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            with self._lock:
                self._open_head(0)
                group = Group(self._heads, self._head, self.log_id, self._position_of)
                answer = place(group)
                if len(group):
                    batch = batch_of(group.admitted)
                    self._recent.push(batch)
                    for run in group.admitted:
                        positions = self._positions.setdefault(run.append.stream, [])
                        positions.extend(range(run.position, run.position + len(run.events)))
                    self._heads.update(group.changed)
                    self._head = group.head
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            future.set_exception(error)
            return future
        self._tell()
        future.set_result(answer)
        return future

    def _tell(self) -> None:
        for callback in list(self._listeners):
            try:
                callback(self._head)
            except Exception:
                _logger.exception("A listener of the log failed.")

    def _position_of(self, stream: str, version: int) -> int:
        return self._positions[stream][version - 1]

    def _open_head(self, after: int) -> int:
        if self._closed:
            raise LogClosed("The log is closed.")
        if after > self._head:
            raise PositionBeyondHead(after, self._head)
        return self._head
