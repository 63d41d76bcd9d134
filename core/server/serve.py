"""Running the server: one data directory, one port, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from asyncio.transports import BaseTransport
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass

import msgspec
import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from core import lock
from core.run import write_atomically
from core.settings import Settings

from .app import Say, create_app, open_studio
from .gate import CODE, Connection
from .launcher import Launch
from .studio import Studio

MAX_MESSAGE = 32 * 2**20
"""Bytes that a WebSocket message may have: a dashboard's uploads, far more than a trainer's batches."""

_SHUTDOWN_SECONDS = 5
_PORTS_TRIED = 100


class ServerFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `server.json` tells trainers and commands about the running server."""

    url: str
    pid: int
    log_id: str
    token_file: str


class NoFreePort(Exception):
    """None of the ports that were tried can be listened on; the sentence names them and the reason."""


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`; `sign_in_url` signs a browser in, once."""

    url: str
    sign_in_url: str
    port: int
    log_id: str
    studio: Studio


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[Running], None] = lambda running: None,
    say: Say = lambda sentence: None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; trainings go on afterwards.

    `on_ready` is called once the API answers; `say` with sentences about what takes long before. Raises
    `DataDirectoryInUse`, `NoFreePort` and `LogUnavailable`.
    """
    asyncio.run(_serve(settings, on_ready, say))


async def _serve(settings: Settings, on_ready: Callable[[Running], None], say: Say) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    async with running(settings, say=say) as server:
        on_ready(server)
        await ended.wait()


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, launch: Launch | None = None, say: Say = lambda sentence: None
) -> AsyncIterator[Running]:
    """A server on the settings' data directory while the block runs. Raises as `serve` does."""
    with lock.hold(settings) as held, contextlib.closing(_listener(settings)) as listener:
        port: int = listener.getsockname()[1]
        url = _local_url(settings.host, port)
        held.tell(url)
        async with open_studio(settings, url=url, launch=launch, say=say) as studio:
            server = _Server(
                uvicorn.Config(
                    create_app(studio),
                    http=_Protocol,
                    ws=_WebSocketProtocol,
                    ws_max_size=MAX_MESSAGE,
                    ws_per_message_deflate=False,
                    lifespan="off",
                    log_config=None,
                    log_level="warning",
                    access_log=False,
                    # The gate looks at the connection itself, never at what a header says of it.
                    proxy_headers=False,
                    server_header=False,
                    timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
                )
            )
            task = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
            await _either(server.ready.wait(), task)
            _write_server_file(settings, url, studio.store.log_id)
            try:
                yield Running(
                    url=url,
                    sign_in_url=f"{_public_url(settings.host, port)}/?{CODE}={studio.access.new_code()}",
                    port=port,
                    log_id=studio.store.log_id,
                    studio=studio,
                )
            finally:
                # Trainers that lose their connection now must not come back to this server.
                settings.server_file.unlink(missing_ok=True)
                server.should_exit = True
                await task


class _Protocol(H11Protocol):
    """Gives every request of a connection the same `Connection`, so that its peer is looked up once."""

    def connection_made(self, transport: BaseTransport) -> None:
        self.app_state = {**self.app_state, "connection": Connection()}
        super().connection_made(transport)  # type: ignore[arg-type]


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """Takes a refusal with a body for a finished handshake; uvicorn would log it as a fault of ours."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


class _Server(uvicorn.Server):
    """Leaves the process's signals alone: `serve` has its own handlers, and tests run several servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _either(wanted: Coroutine[None, None, object], failing: asyncio.Task[None]) -> None:
    """Wait for `wanted`; raises what ends `failing` before."""
    waiting = asyncio.ensure_future(wanted)
    await asyncio.wait((waiting, failing), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if failing.done():
        failing.result()


def _listener(settings: Settings) -> socket.socket:
    """A socket on the wanted port, or on the next one that is free."""
    first = settings.port
    ports = range(first, min(first + _PORTS_TRIED, 65_536)) if first else range(1)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, first, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise NoFreePort(f"{settings.host} is not an address of this machine: {error}.") from error
    problem: OSError | None = None
    for port in ports:
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address[0], port, *address[2:]))
            # A socket that is bound but does not listen can be bound by a second server as well.
            listener.listen(2048)
        except OSError as error:
            listener.close()
            problem = error
            continue
        listener.setblocking(False)
        return listener
    tried = f"{ports[0]} to {ports[-1]}" if len(ports) > 1 else str(ports[0])
    raise NoFreePort(f"None of the ports {tried} on {settings.host} can be listened on: {problem}.")


_EVERY_ADDRESS = ("", "0.0.0.0", "::")


def _local_url(host: str, port: int) -> str:
    """How this machine's own processes reach the server."""
    return _url("127.0.0.1" if host in _EVERY_ADDRESS else host, port)


def _public_url(host: str, port: int) -> str:
    """How others reach it, if they may."""
    return _url(socket.gethostname() if host in _EVERY_ADDRESS else host, port)


def _url(name: str, port: int) -> str:
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _write_server_file(settings: Settings, url: str, log_id: str) -> None:
    known = ServerFile(url=url, pid=os.getpid(), log_id=log_id, token_file=str(settings.token_file))
    write_atomically(settings.server_file, msgspec.json.encode(known))
