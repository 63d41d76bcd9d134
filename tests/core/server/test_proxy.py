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
        async with asyncio.timeout(5):
            await over.wait()
        assert gone.value.__traceback__ is not None
        await proxy.close()
        server.close()
        await server.wait_closed()
