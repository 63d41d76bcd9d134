"""A server with nothing but the two WebSockets, on a loopback port: for tests of what they promise."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from core.server import ws
from events.client import FOLLOW_PATH, INGEST_PATH, ServerAddress
from events.control import TrainingCreated
from events.ids import new_id
from events.store import EventStore
from events.streams import CONTROL, Append
from events.training import StepTrained

GRACE = 50
"""Seconds that a server which stops gives its connections to end by themselves, which they need in no test."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class BareServer:
    """A real store behind a real uvicorn; `stop` and `start` keep the port and the log."""

    def __init__(self, folder: Path, *, port: int | None = None, **settings: Any) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings
        self.store: EventStore
        self.writers: set[str] = set()
        """The trainings that somebody has claimed."""
        self.start()

    @property
    def address(self) -> ServerAddress:
        return ServerAddress(self.url)

    def start(self) -> None:
        self.store = EventStore.open(self.folder / "log.duckdb", **self.settings)
        app = Starlette(routes=[WebSocketRoute(FOLLOW_PATH, ws.follow), WebSocketRoute(INGEST_PATH, ws.ingest)])
        app.state.studio = SimpleNamespace(store=self.store, launcher=SimpleNamespace(watch=self.writers.add))
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            log_level="warning",
            lifespan="off",
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=GRACE,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.store.close()

    def create(self, training: str | None = None, **fields: Any) -> str:
        training = training or new_id()
        created = TrainingCreated(name="a training", **fields)
        self.store.append(Append(CONTROL + training, [created], expected=0)).result()
        return training


class Relay:
    """A TCP relay before a server, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                # Counted last: who sees a connection counted can cut it.
                self._open += [near, far]
                self.connections += 1
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Reset every connection."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextlib.contextmanager
def bare_server(folder: Path, **settings: Any) -> Iterator[BareServer]:
    server = BareServer(folder, **settings)
    try:
        yield server
    finally:
        server.stop()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Until `condition()` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {seconds} s"
        time.sleep(0.005)


def step(number: int, **fields: Any) -> StepTrained:
    """A step whose every figure differs from its float32."""
    values = {
        "sae": 0,
        "loss": 1.1 / number,
        "loss_reconstruction": 1.01 / number,
        "l0": 49.7,
        "l0_fraction": 0.0121,
        "fvu": 0.117,
        "learning_rate": 2.1e-4,
        "grad_norm": 1.234,
        "tokens": number * 1024,
        "tokens_per_second": 38_000.123,
    }
    return StepTrained(step=number, **(values | fields))
