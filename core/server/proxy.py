"""Passes HTTP requests and WebSockets on to a child process on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Origin, Subprotocol

from events.wire import ACTOR_HEADER

_logger = logging.getLogger(__name__)

# RFC 9110 7.6.1: of one connection only. The rest is the gate's and no business of a child.
_NOT_PASSED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "authorization",
        ACTOR_HEADER.lower(),
    }
)
_HANDSHAKE = ("sec-websocket-", "origin", "content-length")

_GOING_AWAY = 1001
_RESTART = 1012


class Proxy:
    """An ASGI application that answers with what the child behind `socket` answers.

    `own` gives the headers that we add for the child, by the request's scope. While nobody listens there, `away` makes
    the answer; sockets are refused or closed with 1012, so that a page comes back by itself.
    """

    def __init__(
        self,
        socket: Path,
        away: Callable[[], Response],
        own: Callable[[Scope], Mapping[str, str]] = lambda scope: {},
    ) -> None:
        self._socket = socket
        self._own = own
        self._away = away
        self._client = httpx.AsyncClient(
            # A unix socket has no certificate: without `verify` nobody's are loaded.
            transport=httpx.AsyncHTTPTransport(
                verify=False, uds=str(socket), limits=httpx.Limits(max_connections=None)
            ),
            timeout=httpx.Timeout(None, connect=5.0),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Request(scope, receive, send), send)
        elif scope["type"] == "websocket":
            await self._websocket(WebSocket(scope, receive, send))

    async def _http(self, request: Request, send: Send) -> None:
        target = httpx.URL("http://child", raw_path=_target(request.scope))
        headers = [*_passed(request.headers), *self._own(request.scope).items()]
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        upstream = self._client.build_request(
            request.method, target, headers=headers, content=request.stream() if has_body else None
        )
        try:
            answer = await self._client.send(upstream, stream=True)
        except httpx.TransportError:
            await self._away()(request.scope, request.receive, send)
            return
        try:
            response = StreamingResponse(answer.aiter_raw(), answer.status_code)
            response.raw_headers = [
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.decode("latin-1").lower() not in _NOT_PASSED
            ]
            await response(request.scope, request.receive, send)
        finally:
            # Not in the body's iterator: it is never begun where the browser has gone meanwhile.
            await answer.aclose()

    async def _websocket(self, socket: WebSocket) -> None:
        headers = [(name, value) for name, value in _passed(socket.headers) if not name.startswith(_HANDSHAKE)]
        headers += self._own(socket.scope).items()
        origin = socket.headers.get("origin")
        try:
            child = await unix_connect(
                str(self._socket),
                f"ws://{socket.headers.get('host', 'localhost')}{_target(socket.scope).decode('ascii')}",
                origin=Origin(origin) if origin is not None else None,
                subprotocols=[Subprotocol(name) for name in socket.scope["subprotocols"]] or None,
                additional_headers=[(name, value) for name, value in headers if name != "host"],
                user_agent_header=None,
                compression=None,
                # The browser's side is kept alive by the server, and a child of this machine does not vanish unseen.
                ping_interval=None,
                max_size=None,
                close_timeout=2.0,
                proxy=None,
            )
        except InvalidStatus as error:
            answer = error.response
            await socket.send_denial_response(Response(answer.body or b"", answer.status_code))
            return
        except (OSError, TimeoutError, InvalidHandshake):
            await socket.send_denial_response(self._away())
            return
        try:
            async with child:
                await socket.accept(subprotocol=child.subprotocol)
                await _pass_on(socket, child)
        finally:
            # Where we are cancelled in the closing handshake, nothing else would close the connection.
            child.transport.abort()


async def _pass_on(socket: WebSocket, child: ClientConnection) -> None:
    """Both directions until one side closes; the other is closed with the same code."""
    inward = asyncio.create_task(_inward(socket, child))
    outward = asyncio.create_task(_outward(socket, child))
    done, pending = await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for task in done:
        if (error := task.exception()) is not None:
            raise error


async def _inward(socket: WebSocket, child: ClientConnection) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code", _GOING_AWAY)
                await child.close(code if _can_be_sent(code) else _GOING_AWAY, message.get("reason") or "")
                return
            text = message.get("text")
            await child.send(message["bytes"] if text is None else text)
    except ConnectionClosed:
        # The other direction sees it too, and has the code.
        await asyncio.Event().wait()


async def _outward(socket: WebSocket, child: ClientConnection) -> None:
    try:
        async for message in child:
            if isinstance(message, str):
                await socket.send_text(message)
            else:
                await socket.send_bytes(message)
    except ConnectionClosed:
        # Its code is read below, also where the child closed properly.
        _logger.debug("The child's socket ended without a closing handshake.")
    except WebSocketDisconnect:
        await asyncio.Event().wait()
    code = child.close_code
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(code if code is not None and _can_be_sent(code) else _RESTART, child.close_reason or None)


def _can_be_sent(code: int) -> bool:
    return code in (*range(1000, 1004), *range(1007, 1015)) or 3000 <= code < 5000


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + (b"?" + query if query else b"")


def _passed(headers: Headers) -> list[tuple[str, str]]:
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    return [(name, value) for name, value in headers.items() if name not in _NOT_PASSED and name not in named]
