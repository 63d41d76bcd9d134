"""One open tab: its document, its address, and which page it shows."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode

from bokeh.document import Document

from events.event import Recorded

from . import ordered
from .answers import Training
from .components.connection import Connection
from .components.navigation import Navigation
from .components.router import Router
from .components.toasts import Toasts
from .feed import Cursor, Feed
from .gateway import ApiError, Gateway
from .state import news

logger = logging.getLogger(__name__)

_TOLD_AT_ONCE = 4
"""Events that are told of those that come together, the newest: each is asked about, and no more toasts are shown."""


class View(Protocol):
    """A page as the session drives it."""

    title: str

    def body(self) -> list[Any]:
        """What is shown, from top to bottom."""
        ...

    def open(self) -> None:
        """The page is shown: begin to ask for what belongs on it."""

    def push(self) -> None:
        """Take what the feed has brought. The document is locked."""

    def close(self) -> None:
        """The page is left."""


Route = dict[str, str]


def parse(url: str) -> Route:
    """The route in a query such as `?training=ID`."""
    return {name: values[-1] for name, values in parse_qs(url.lstrip("?")).items()}


def unparse(route: Route) -> str:
    """The query of a route; empty for the start page."""
    query = urlencode({name: value for name, value in route.items() if value})
    return f"?{query}" if query else ""


class Session:
    """What the pages of one tab share.

    Requests run as tasks without the document's lock, so that a slow answer holds up nothing; models of the document
    are changed only through `change`.
    """

    def __init__(
        self, document: Document, gateway: Gateway, feed: Feed, find: Callable[[Session, Route], View]
    ) -> None:
        self.gateway = gateway
        self.feed = feed
        self.router = Router()
        self.connection = Connection()
        self.navigation = Navigation()
        self.toasts = Toasts()
        self.show: Callable[[list[Any]], None] = lambda body: None
        self._document = document
        self._find = find
        self._view: View | None = None
        self._route: Route = {}
        self._log_id = feed.log_id
        self._title = ""
        self._news = Cursor(feed)
        self._news.position = feed.position
        self._telling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pushing = False
        self._over = False
        self._detach = feed.attach(self._wake)
        self.router.on_action(self._on_router)

    # What pages use

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the document, until it ends or the tab is closed."""
        # In a context of its own: the present one says that the document is locked, which it will not be.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def change(self, change: Callable[[], None]) -> None:
        """Call `change` with the document locked, soon."""
        if not self._over:
            ordered.change(self._document, change)

    def go(self, url: str) -> None:
        """Show the page at `url` (a query, `?…`; empty for the start page) as the next one of the browser's history.

        The document is locked.
        """
        self.router.push(url)
        self.open(parse(url))

    # What the application uses

    def open(self, route: Route) -> None:
        """Show the page of `route`. The document is locked."""
        if self._view is not None:
            self._view.close()
        self._route = route
        self._log_id = self.feed.log_id
        self._view = self._find(self, route)
        self.name(self._view.title)
        self.navigation.at(route.get("page") or ("" if route.get("training") else "trainings"))
        self.show(self._view.body())
        self._view.open()
        self._say_connection()

    def name(self, title: str) -> None:
        """Name the tab."""
        if title != self._title:
            self._title = title
            self.router.entitle(f"{title} · SAE Studio" if title else "SAE Studio")

    def end(self) -> None:
        """The tab is closed."""
        self._over = True
        self._detach()
        if self._view is not None:
            self._view.close()
        for task in self._tasks:
            task.cancel()

    def _on_router(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "moved":
            self.open(parse(str(message.get("url", ""))))

    def _wake(self) -> None:
        if not self._pushing:
            self._pushing = True
            self.change(self._push)

    def _push(self) -> None:
        self._pushing = False
        self._say_connection()
        if self._view is None:
            return
        if self._log_id in (None, self.feed.log_id):
            self._log_id = self.feed.log_id
            self._hear_news()
            self._view.push()
        else:
            self._news.position = self.feed.position
            # Another log: positions, and whatever they stand for, mean nothing in it.
            self.open(self._route)

    def _hear_news(self) -> None:
        events = self._news.take()
        if events is None:
            self._news.position = self.feed.position
        told = [recorded for recorded in events or () if isinstance(recorded.data, news.TOLD)]
        if told:
            self.spawn(self._tell(told[-_TOLD_AT_ONCE:]))

    async def _tell(self, told: list[Recorded]) -> None:
        async with self._telling:
            for recorded in told:
                id = recorded.stream.partition("-")[2]
                try:
                    training, _ = await self.gateway.training(id)
                except ApiError:
                    # What happened is known all the same, only not how the training is called.
                    training = Training(id=id, name=id, status="")
                said = news.of_event(recorded.data, training, time.time())
                self.change(functools.partial(self.toasts.say, said))

    def _say_connection(self) -> None:
        if self.feed.away is None:
            self.connection.live(self.feed.position)
        else:
            self.connection.away(self.feed.away)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("A page's request ended unexpectedly.", exc_info=task.exception())


class Refresh:
    """Asks again whenever that is wanted, never twice at the same time and at most every `pause` seconds."""

    def __init__(self, session: Session, ask: Callable[[], Coroutine[Any, Any, None]], *, pause: float) -> None:
        self._session = session
        self._ask = ask
        self._pause = pause
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def want(self, *, now: bool = False) -> None:
        """Ask, when the pause since the last answer is over; `now`: without it. After `stop` nothing is asked."""
        if self._over:
            return
        self._wanted.set()
        if now:
            self._hurry.set()
        if self._task is None:
            self._task = self._session.spawn(self._run())

    def stop(self) -> None:
        """Ask no more, whatever an answer that is still on its way brings to be wanted."""
        self._over = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._hurry.clear()
            await self._ask()
            # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes together with the hurry.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._hurry.wait()
