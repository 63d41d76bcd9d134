"""What the proxy holds of its child: nothing that nobody waits for any more."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from websockets.utils import accept_key

from core.server.proxy import Proxy

SCOPE = {
    "type": "http",
    "asgi": {"spec_version": "2.4"},
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [],
}


async def test_a_browser_that_has_gone_before_the_answer_leaves_no_connection() -> None:
    over = asyncio.Event()

    async def child(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegun")
        await reader.read()
        writer.close()
        over.set()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        raise OSError("The browser has gone.")

    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "ui.sock"
        server = await asyncio.start_unix_server(child, socket)
        proxy = Proxy(socket, lambda: Response("away", 503))
        with pytest.raises(ClientDisconnect) as gone:
            await proxy(SCOPE, receive, send)
        async with asyncio.timeout(60):
            await over.wait()
        assert gone.value.__traceback__ is not None
        await proxy.close()
        server.close()
        await server.wait_closed()


async def test_a_socket_that_is_given_up_in_its_closing_handshake_leaves_no_connection() -> None:
    begun, over = asyncio.Event(), asyncio.Event()
    said = iter([{"type": "websocket.connect"}])

    async def child(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in asked.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
        )
        # The closing handshake is read and never answered.
        await reader.read()
        writer.close()
        over.set()

    async def receive() -> MutableMapping[str, Any]:
        for message in said:
            return message
        return await asyncio.Future()

    async def send(message: MutableMapping[str, Any]) -> None:
        begun.set()

    scope = {**SCOPE, "type": "websocket", "subprotocols": []}
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "ui.sock"
        server = await asyncio.start_unix_server(child, socket)
        proxy = Proxy(socket, lambda: Response("away", 503))
        passing = asyncio.create_task(proxy(scope, receive, send))
        async with asyncio.timeout(60):
            await begun.wait()
        while not passing.done():
            passing.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await over.wait()
        assert passing.cancelled()
        await proxy.close()
        server.close()
        await server.wait_closed()
