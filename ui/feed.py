"""What happens, as it happens: one follower for the whole process, and for every page a cursor into what it brings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections.abc import Callable, Collection
from typing import Protocol

from events.client import Followed, Follower, FollowRefused
from events.event import Recorded
from events.wire import CaughtUp, Heartbeat, Subscribed

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two calls of a page in the mean, while something happens."""

KEPT = 5_000
"""Events that are kept for pages that lag behind, up to twice as many; a page that lags by more asks the API again."""

WATCH = 0.25
"""Seconds between two looks at whether the connection still stands: so soon is it said that it is lost."""

_RETRY = 5.0


class Page(Protocol):
    """Who listens to the feed."""

    def __call__(self) -> None:
        """Something has changed: events, position or connection. Called on the feed's loop; returns at once."""


class Feed:
    """The process's one follower of the log, from its head on. It belongs to one event loop.

    `position` is how far it has read, `log_id` names the log's incarnation (None before the first connection), and
    `away` says why the API cannot be followed at this moment, None where it is.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.position = 0
        self.log_id: str | None = None
        self.away: str | None = "The server has not answered yet."
        self._url = url
        self._token = token
        self._events: list[Recorded] = []
        self._dropped = 0
        self._pages: list[Page] = []
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        calls = asyncio.create_task(self._call())
        try:
            while True:
                try:
                    await self._follow()
                except FollowRefused as refused:
                    logger.warning("%s", refused)
                    self._lost(f"The server refuses to be followed: {refused.reason}.")
                    await asyncio.sleep(_RETRY)
        finally:
            calls.cancel()

    def attach(self, page: Page) -> Callable[[], None]:
        """Call `page` about ten times a second while something happens; returns what detaches it."""
        self._pages.append(page)
        return lambda: self._pages.remove(page) if page in self._pages else None

    def since(self, position: int) -> list[Recorded] | None:
        """The events after `position` up to now; None where some of them are not kept any more."""
        if position < self._dropped:
            return None
        return self._events[bisect_right(self._events, position, key=lambda recorded: recorded.position) :]

    def take(self, message: Followed) -> None:
        """What the follower brings."""
        match message:
            case Subscribed(log_id=log_id, after=after):
                if log_id != self.log_id or after != self.position:
                    # Another log, or a first connection: what was kept does not connect to what comes.
                    self._events = []
                    self._dropped = after
                self.log_id = log_id
                self.position = after
                self.away = None
            case CaughtUp(position=position) | Heartbeat(position=position):
                self.position = position
            case list():
                self._events.extend(message)
                self.position = message[-1].position
                if len(self._events) > 2 * KEPT:
                    self._dropped = self._events[-KEPT - 1].position
                    del self._events[:-KEPT]
        self._changed.set()

    async def _follow(self) -> None:
        """Follow one log from its head until it is replaced by another."""
        follower = Follower(self._url, after=None, tail=0, token=self._token)
        watch = asyncio.create_task(self._watch(follower))
        log_id: str | None = None
        try:
            async with contextlib.aclosing(follower.messages()) as messages:
                async for message in messages:
                    if isinstance(message, Subscribed):
                        if log_id not in (None, message.log_id):
                            # It would replay the other log from its beginning, which no page needs.
                            return
                        log_id = message.log_id
                    self.take(message)
        finally:
            watch.cancel()

    def _lost(self, reason: str) -> None:
        if self.away is None:
            self.away = reason
            self._changed.set()

    async def _watch(self, follower: Follower) -> None:
        """Notice that the connection is gone; the follower makes it again by itself and says so."""
        while True:
            await asyncio.sleep(WATCH)
            if not follower.connected:
                self._lost("The connection to the server is lost.")

    async def _call(self) -> None:
        now = asyncio.get_running_loop().time
        due = now()
        while True:
            await self._changed.wait()
            self._changed.clear()
            for page in list(self._pages):
                page()
            due = next_call(due, now())
            await asyncio.sleep(due - now())


def next_call(due: float, now: float) -> float:
    """When pages may be called again after a call at `now` that was allowed from `due` on, all in seconds.

    One that came late, for the events did or the loop was busy, does not delay those after it: what happens ten times a
    second is shown ten times a second.
    """
    return max(due + TICK, now + TICK / 2)


class Cursor:
    """A page's place in the feed: what happened in some streams (all of them where none are named) after it."""

    def __init__(self, feed: Feed, streams: Collection[str] = ()) -> None:
        self.position = 0
        self._feed = feed
        self._streams = streams

    def take(self) -> list[Recorded] | None:
        """What came since, with the cursor moved behind it; None, and nothing moved, where some of it is gone."""
        events = self._feed.since(self.position)
        if events is None:
            return None
        self.position = max(self.position, self._feed.position)
        if not self._streams:
            return events
        return [recorded for recorded in events if recorded.stream in self._streams]

    def has_news(self, concerns: Callable[[Recorded], bool] = lambda recorded: True) -> bool:
        """Whether anything that came since `concerns` a page, or may do, where some of it is gone.

        The cursor is then behind all of it: this is for pages that ask the API for the whole again.
        """
        events = self.take()
        if events is None:
            self.position = self._feed.position
            return True
        return any(map(concerns, events))
