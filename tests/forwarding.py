"""Ways to a server as people have them: a port forwarded by a tunnel, and a proxy that serves it below a path."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator


@contextlib.asynccontextmanager
async def forwarded(port: int, prefix: str = "") -> AsyncIterator[int]:
    """A port that leads to `port` as it is, as `ssh -L` does; with a prefix, as a proxy does that takes it away.

    The proxy sets `Host` to the server's own and says in `X-Forwarded-*` what it was asked for.
    """
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", port)
            try:
                if prefix:
                    to_server.write(_rewritten(await reader.readuntil(b"\r\n\r\n"), prefix, port))
                await asyncio.gather(_copy(reader, to_server), _copy(server, writer))
            finally:
                to_server.close()
        except (OSError, EOFError, asyncio.CancelledError):
            # One side has gone, or the test is over: the other side sees its connection closed.
            pass
        finally:
            writer.close()
            under_way.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way)


@contextlib.contextmanager
def forwarding(port: int, prefix: str = "") -> Iterator[int]:
    """`forwarded` for tests that have no loop: it runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    way = forwarded(port, prefix)
    try:
        yield asyncio.run_coroutine_threadsafe(way.__aenter__(), loop).result(60)
    finally:
        asyncio.run_coroutine_threadsafe(way.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def _rewritten(head: bytes, prefix: str, port: int) -> bytes:
    """A request's head as the proxy passes it on. The connection carries no other one, so that none goes unseen."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = first.split(" ")
    if not target.startswith(f"{prefix}/"):
        raise ConnectionError(f"{target} is not below {prefix}.")
    headers = {line.partition(":")[0].strip().lower(): line.partition(":")[2].strip() for line in lines}
    if "upgrade" not in headers:
        headers["connection"] = "close"
    headers |= {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": headers["host"],
        "x-forwarded-proto": "http",
        "x-forwarded-prefix": prefix,
        "host": f"127.0.0.1:{port}",
    }
    return (
        "\r\n".join(
            [
                f"{method} {target.removeprefix(prefix)} {version}",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
        ).encode("latin-1")
        + b"\r\n\r\n"
    )
