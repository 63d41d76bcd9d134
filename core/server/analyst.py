"""SQL asked of the server: passed on to a child process with a database of its own, which is started at the first.

No statement of anybody runs in this process or on the file that holds the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from .child import Child, runtime_folder
from .problems import ApiError

if TYPE_CHECKING:
    from .studio import Studio

ACTOR = "sql"

AT_ONCE = 4
"""Questions that are worked on at the same time; further ones wait."""

WAIT = 30.0
"""Seconds that a question waits for its place, before it is told who has the others."""

STALLED = 30.0
"""Seconds in which a reader has to take a piece of its answer; later it loses its place to whoever waits for one."""

_LOOK = 0.5
"""Seconds between two looks at whether somebody waits for the place of a reader that takes nothing."""

_SHOWN = 60
"""Characters that others are told of a statement."""

_STARTING = 15.0
_DEFECT = 500
_AWHILE = 30.0
"""Seconds beyond a question's own, after which a child that says nothing counts as stuck."""


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Holder:
    """A question that has one of the places."""

    actor: str
    statement: str
    since: float

    def __str__(self) -> str:
        words = " ".join(self.statement.split())
        shown = words if len(words) <= _SHOWN else words[: _SHOWN - 1] + "…"
        return f"{self.actor} for {time.monotonic() - self.since:.0f} s ({shown})"


class Analyst:
    """Passes questions on. `stop` ends the child."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._free = asyncio.Semaphore(AT_ONCE)
        self._holders: set[_Holder] = set()
        self._waiting = 0
        self._client: httpx.AsyncClient | None = None
        self.child: Child | None = None

    async def ask(self, request: Request, asked: dict[str, Any], seconds: float) -> Response:
        """The child's answer. Raises a 503 `ApiError` while there is none. Given up when the client goes."""
        return await _unless_gone(request, self._asked(asked, seconds, request.state.actor))

    async def stop(self) -> None:
        """End the child."""
        if self.child is not None and self._client is not None:
            await self._client.aclose()
            await self.child.stop()

    async def _asked(self, asked: dict[str, Any], seconds: float, actor: str) -> Response:
        async with contextlib.AsyncExitStack() as held:
            holder = await held.enter_async_context(self._place(actor, asked["statement"]))
            child, client = await self._started()
            sent = client.build_request(
                "POST",
                "http://child/",
                content=msgspec.json.encode({**asked, "head": self._studio.store.head}),
                timeout=httpx.Timeout(seconds + _AWHILE, connect=_STARTING),
            )
            try:
                answer = await self._sent(client, sent)
            except httpx.ConnectError as error:
                # It opens its database before it listens, and may have to fold all of the log anew.
                raise ApiError(
                    503,
                    "The SQL database is starting, and rebuilding what it needs; the log is not affected.",
                    headers={"Retry-After": "1"},
                ) from error
            except httpx.TimeoutException as error:
                child.kill()
                raise _lost() from error
            except httpx.TransportError as error:
                raise _lost() from error
            held.push_async_callback(answer.aclose)
            if answer.status_code == _DEFECT:
                raise _lost()
            return _Relayed(answer, holder, held.pop_all(), lambda: self._waiting > 0)

    @contextlib.asynccontextmanager
    async def _place(self, actor: str, statement: str) -> AsyncIterator[_Holder]:
        """One of the places, once one is free. Raises a 503 `ApiError` that says who has them."""
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT):
                await self._free.acquire()
        except TimeoutError as error:
            holders = sorted(self._holders, key=lambda one: one.since)
            raise ApiError(
                503,
                f"{AT_ONCE} questions are worked on at the same time, and all of their places are taken: by "
                + ", by ".join(map(str, holders))
                + ".",
                headers={"Retry-After": "5"},
            ) from error
        finally:
            self._waiting -= 1
        holder = _Holder(actor, statement, time.monotonic())
        self._holders.add(holder)
        try:
            yield holder
        finally:
            self._holders.discard(holder)
            self._free.release()

    async def _sent(self, client: httpx.AsyncClient, sent: httpx.Request) -> httpx.Response:
        """Tries for a while: a child that has just been started does not listen yet."""
        deadline = asyncio.get_running_loop().time() + _STARTING
        while True:
            try:
                return await client.send(sent, stream=True)
            except httpx.ConnectError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def _started(self) -> tuple[Child, httpx.AsyncClient]:
        if self.child is None or self._client is None:
            studio = self._studio
            socket = runtime_folder(studio.settings.data_dir) / "sql.sock"
            self.child = Child(
                "SQL database",
                [
                    *(sys.executable, "-P", "-m", "core.server.sql_child"),
                    *("--socket", str(socket), "--api", studio.url, "--folder", str(studio.settings.sql)),
                ],
                environment={"SAESTUDIO_TOKEN": studio.access.grant(ACTOR, reader=True)},
                socket=socket,
                log=studio.settings.data_dir / "sql.log",
            )
            self._client = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(verify=False, uds=str(socket)), trust_env=False
            )
            self.child.start()
        return self.child, self._client


class _Stalled(Exception):
    """A reader does not take its answer."""


class _Relayed(StreamingResponse):
    """An answer of the child, passed on piece by piece."""

    def __init__(
        self, answer: httpx.Response, holder: _Holder, held: contextlib.AsyncExitStack, is_wanted: Callable[[], bool]
    ) -> None:
        passed = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
        super().__init__(self._pieces(answer), answer.status_code, headers=passed)
        self._holder = holder
        self._held = held
        self._is_wanted = is_wanted

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        async for piece in answer.aiter_raw():
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def taken(message: Message) -> None:
            sending = asyncio.ensure_future(send(message))
            deadline = time.monotonic() + STALLED
            try:
                while not (await asyncio.wait({sending}, timeout=_LOOK))[0]:
                    if time.monotonic() > deadline and self._is_wanted():
                        raise _Stalled
                sending.result()
            finally:
                sending.cancel()

        # Not in the body's iterator: it is never begun where the client has gone meanwhile.
        async with self._held:
            # An answer without its end closes the connection, which is all that can be said in its middle.
            try:
                await super().__call__(scope, receive, taken)
            except _Stalled:
                _logger.warning("A reader took nothing of its answer for %.0f s: %s.", STALLED, self._holder)
            except httpx.TransportError as error:
                _logger.warning("An answer broke off (%s): %s.", error, self._holder)


async def _unless_gone(request: Request, answering: Any) -> Response:
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answer
            return Response(status_code=204)
        return answer.result()
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _lost() -> ApiError:
    return ApiError(
        503,
        "The SQL database's process ended while it worked on this (a question needed more than it may have); it starts"
        " again, and the log is not affected.",
        headers={"Retry-After": "2"},
    )
