"""One tab without a browser: its document's turns are taken at once, and its API answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, SessionCallbackAdded
from bokeh.server.callbacks import SessionCallback

from ui.feed import Feed
from ui.gateway import Gateway
from ui.session import Session


class Nothing:
    """A page with nothing on it."""

    title = ""

    def body(self) -> list[Any]:
        return []

    def open(self) -> None: ...

    def push(self) -> None: ...

    def close(self) -> None: ...


class Tab:
    """A tab on an empty page. `answer` stands for the API and is called with every request."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self._turns: list[SessionCallback] = []
        self.document = Document()
        self.document.on_change(self._changed)
        self.feed = Feed("http://127.0.0.1:9")
        gateway = Gateway("http://studio", transport=httpx.MockTransport(answer))
        self.session = Session(self.document, gateway, self.feed, lambda session, route: Nothing())
        self.session.open({})

    def wake(self) -> None:
        """Tell the tab that the feed has brought something."""
        for page in self.feed._pages:
            page()

    async def until(self, there: Callable[[], bool]) -> None:
        """Let things happen until `there` holds."""
        async with asyncio.timeout(60):
            while not there():
                await asyncio.sleep(0)
                self.turn()

    def turn(self) -> None:
        """Do what the document has been told to do with its lock."""
        turns, self._turns = self._turns, []
        for callback in turns:
            callback.callback()

    def _changed(self, event: DocumentChangedEvent) -> None:
        # The document keeps them in a set.
        if isinstance(event, SessionCallbackAdded):
            self._turns.append(event.callback)
