"""What is kept in memory of a log for those who follow it: its recent events, and old ones that were just read."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection
from operator import attrgetter

from .batch import Batch, Page, page_of


class Recent:
    """The last batches, as many as fit in `size` bytes (None: all of them); one writer, many readers."""

    def __init__(self, head: int, size: int | None) -> None:
        self._batches: list[Batch] = []
        self._sizes: list[int] = []
        self._held = 0
        self._size = size
        self._after = head
        self._lock = threading.Lock()

    def push(self, batch: Batch) -> None:
        """Adds the batch that follows those before; the oldest are let go for it."""
        with self._lock:
            self._batches.append(batch)
            self._sizes.append(batch.size)
            self._held += self._sizes[-1]
            if self._size is None or self._held <= self._size:
                return
            dropped = 0
            # Down to three quarters at once: cutting a list's front costs its whole length.
            while self._held > self._size * 3 // 4 and dropped < len(self._batches):
                self._held -= self._sizes[dropped]
                dropped += 1
            self._after = self._batches[dropped - 1].last
            del self._batches[:dropped]
            del self._sizes[:dropped]

    def since(self, after: int, upto: int) -> list[Batch] | None:
        """The batches that hold `after + 1` … `upto`; None where some of them were let go."""
        with self._lock:
            if after < self._after:
                return None
            start = bisect_right(self._batches, after, key=attrgetter("last"))
            end = bisect_right(self._batches, upto, key=attrgetter("first"))
            return self._batches[start:end]

    def page(
        self, after: int, upto: int, limit: int, streams: Collection[str] | None, types: Collection[str] | None
    ) -> Page | None:
        """As `page_of`; None where not all of it is recent."""
        filtered = streams is not None or types is not None
        batches = self.since(after, upto if filtered else min(upto, after + limit))
        return None if batches is None else page_of(batches, after, upto, limit, streams, types)


class Blocks:
    """Old events, read from the file in blocks of positions: a page costs a query whatever its size.

    The blocks that were read last are kept, for the next page of the same reader and for others that replay the same.
    """

    SIZE = 8_192
    PART = 1_024
    KEPT = 4

    def __init__(self, load: Callable[[int, int], Batch]) -> None:
        self._load = load
        self._kept: OrderedDict[int, list[Batch]] = OrderedDict()
        self._lock = threading.Lock()

    def holding(self, after: int, head: int) -> tuple[list[Batch], int]:
        """Batches with all events from `after + 1` on, and the position up to which they reach."""
        start = after - after % self.SIZE
        stop = start + self.SIZE
        if stop > head:
            # Not a whole block yet: what is kept must not change any more.
            return [self._load(after, head)], head
        with self._lock:
            if start in self._kept:
                self._kept.move_to_end(start)
                return self._kept[start], stop
        # In parts, so that a reader of one page does not decode all of the block.
        parts = self._load(start, stop).split(self.PART)
        with self._lock:
            self._kept[start] = parts
            while len(self._kept) > self.KEPT:
                self._kept.popitem(last=False)
        return parts, stop
