"""Catch-up and live in one loop: pull what is there, else wait for the head to move.

The loop holds one page at a time, so that a slow reader lags without costing memory, and there is no seam at which an
event could be missed or come twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Protocol

from .batch import Page
from .errors import PositionBeyondHead
from .wire import CaughtUp, Heartbeat


class Log(Protocol):
    """What a subscription needs of a store."""

    @property
    def head(self) -> int: ...

    def recent(
        self,
        after: int,
        *,
        limit: int = ...,
        upto: int | None = ...,
        streams: Collection[str] | None = ...,
        types: Collection[str] | None = ...,
    ) -> Page | None: ...

    def read(
        self,
        after: int,
        *,
        limit: int = ...,
        upto: int | None = ...,
        streams: Collection[str] | None = ...,
        types: Collection[str] | None = ...,
    ) -> Page: ...

    def listen(self, callback: Callable[[int], None]) -> Callable[[], None]: ...


async def subscribe(
    store: Log,
    after: int,
    *,
    streams: Collection[str] | None = None,
    types: Collection[str] | None = None,
    limit: int = 1_000,
    heartbeat: float = 10.0,
) -> AsyncIterator[Page | CaughtUp | Heartbeat]:
    """Yields pages of at most `limit` matching events after position `after`, for ever.

    `CaughtUp` comes once, when everything that the log had has been yielded. After `heartbeat` seconds without
    anything, a `Heartbeat` tells up to where nothing matched. Raises `PositionBeyondHead` for an `after` that the log
    has not reached (or no longer has), and `LogClosed` when the store is closed. Close it when done with it
    (`contextlib.aclosing`).
    """
    if after > store.head:
        raise PositionBeyondHead(after, store.head)
    loop = asyncio.get_running_loop()
    moved = asyncio.Event()
    waiting = False

    def wake(head: int) -> None:
        # Called by the writer thread; a reader that is not waiting looks at the head by itself.
        if waiting and not loop.is_closed():
            loop.call_soon_threadsafe(moved.set)

    unsubscribe = store.listen(wake)
    try:
        caught_up = False
        spoken = time.monotonic()
        while True:
            page = store.recent(after, limit=limit, streams=streams, types=types)
            if page is None:
                page = await asyncio.to_thread(store.read, after, limit=limit, streams=streams, types=types)
            after = page.position
            if len(page):
                yield page
                spoken = time.monotonic()
            if after < store.head:
                if not len(page) and time.monotonic() - spoken >= heartbeat:
                    yield Heartbeat(position=after)
                    spoken = time.monotonic()
                # Others have their turn, also where nothing here ever waits.
                await asyncio.sleep(0)
                continue
            if not caught_up:
                caught_up = True
                yield CaughtUp(position=after)
                spoken = time.monotonic()
            moved.clear()
            waiting = True
            if after == store.head:
                try:
                    await asyncio.wait_for(moved.wait(), max(0.0, spoken + heartbeat - time.monotonic()))
                except TimeoutError:
                    yield Heartbeat(position=after)
                    spoken = time.monotonic()
            waiting = False
    finally:
        unsubscribe()
