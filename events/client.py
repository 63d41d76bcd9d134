"""Clients of a server: how to reach it, and the `Follower`, which reads the log without gap and without duplicate."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec
from websockets.asyncio import client as _async_client
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync import client as _sync_client
from websockets.sync.client import ClientConnection

from . import codec
from .codec import AnyEvent
from .errors import EventLogError, UndecodableEvent
from .event import Event, EventRejected, Recorded, event_type
from .wire import (
    CLOSE_BAD_REQUEST,
    CLOSE_OTHER_LOG,
    CLOSE_UNAUTHORISED,
    CLOSE_UNKNOWN,
    CaughtUp,
    Heartbeat,
    Message,
    RawRecorded,
    Rejected,
    Subscribed,
)

FOLLOW_PATH = "/api/v1/events/follow"
INGEST_PATH = "/api/v1/ingest"

SILENCE = 45.0
"""Seconds without a message after which a connection counts as dead; the server's heartbeats come every 10."""

_MAX_MESSAGE = 256 << 20

# Their overloads cannot be told apart with arguments from `ServerAddress.options`.
connect_sync: Callable[..., AbstractContextManager[ClientConnection]] = _sync_client.connect
_connect_async: Callable[..., AbstractAsyncContextManager[Any]] = _async_client.connect


class ServerAddress(msgspec.Struct, frozen=True):
    """Where a server is (`http://host:port`, with its path prefix if any), and what it asks of its clients.

    `log_id` is given where the client means one log and no other.
    """

    url: str
    token: str | None = None
    log_id: str | None = None

    def websocket(self, path: str, query: str = "") -> str:
        """The WebSocket URL of a path of the server."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, query, ""))

    def options(self) -> dict[str, Any]:
        """Arguments of both `connect` functions."""
        # Environment variables that name a proxy are meant for other hosts than this one.
        proxy = None if _is_loopback(urlsplit(self.url).hostname or "") else True
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {
            "additional_headers": headers,
            "compression": None,
            "proxy": proxy,
            "max_size": _MAX_MESSAGE,
            "close_timeout": 2,
        }


class _ServerFile(msgspec.Struct):
    url: str
    log_id: str | None = None
    token_file: str | None = None


def read_address(data_dir: Path) -> ServerAddress | None:
    """The server that works on a data directory, by its `server.json`; None where there is none (any more)."""
    try:
        found = msgspec.json.decode((data_dir / "server.json").read_bytes(), type=_ServerFile)
        token = (data_dir / found.token_file).read_text().strip() if found.token_file else None
    except (OSError, msgspec.DecodeError):
        return None
    return ServerAddress(found.url, token or None, found.log_id)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class FollowRefused(EventLogError):
    """The server will not have this subscription, now or later; `code` is the WebSocket's close code."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"The server refused the subscription ({code}): {reason}")


class LogReplaced(EventLogError):
    """The server works on another incarnation of the log now: what was read from the old one does not count."""

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new
        super().__init__(f"The log {old} was replaced by {new}: drop what you have and replay from position 0.")


class _TypedRecorded(RawRecorded, frozen=True, kw_only=True):
    data: AnyEvent  # type: ignore[assignment,valid-type]  # pyright: ignore


class _TypedEvents(Message, frozen=True, kw_only=True, tag="Events"):
    events: list[_TypedRecorded]


class _RawEvents(Message, frozen=True, kw_only=True, tag="Events"):
    events: list[RawRecorded]


_decoder: Any = msgspec.msgpack.Decoder(Subscribed | _TypedEvents | CaughtUp | Heartbeat | Rejected)
_plain_decoder: Any = msgspec.msgpack.Decoder(Subscribed | _RawEvents | CaughtUp | Heartbeat | Rejected)
_raw_decoder = msgspec.msgpack.Decoder(RawRecorded)


def decode_recorded(data: bytes | msgspec.Raw) -> Recorded:
    """A `Recorded` from MessagePack; a payload of an unknown type becomes an `UnknownEvent`."""
    return _recorded(_raw_decoder.decode(data))


def _recorded(raw: RawRecorded) -> Recorded:
    try:
        event: Event = codec.decode(raw.data, "msgpack")
    except UndecodableEvent as error:
        event = EventRejected(raw=bytes(raw.data), reason=error.reason)
    return _envelope(raw, event_type(event), event)


def _envelope(raw: RawRecorded, kind: str, event: Event) -> Recorded:
    return Recorded(
        position=raw.position,
        stream=raw.stream,
        version=raw.version,
        type=kind,
        occurred_at=raw.occurred_at,
        recorded_at=raw.recorded_at,
        actor=raw.actor,
        metadata=raw.metadata,
        data=event,
    )


Followed = Subscribed | list[Recorded] | CaughtUp | Heartbeat
"""What `Follower.messages` yields; a list is a page of events in position order, never empty."""


class Follower:
    """Replays the log from a position and then follows it live, over as many connections as it takes.

    `after` is the last position that the caller has (0: none), `tail=N` asks for the last N matching events instead;
    `stream` and `types` filter. `log_id` is the log that `after` belongs to, where the caller knows it. Iterate with
    `async for` or `for`: every event comes once, in order. `messages` and `sync_messages` yield whole pages and what
    lies between them. One iteration at a time.

    A lost connection is made again, with back-off, for as long as it takes; after it, the iteration goes on behind the
    last event that it yielded. `FollowRefused` is raised where that is pointless (unknown stream, no right, bad
    request, an `after` that the log has not reached). If the server works on another incarnation of the log, the
    iteration starts again from position 0: `messages` yields a `Subscribed` with another `log_id`; iteration over
    events calls `on_replaced(old, new)` if it was given and raises `LogReplaced` if not.
    """

    def __init__(
        self,
        url: str,
        *,
        after: int | None = 0,
        tail: int | None = None,
        stream: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        token: str | None = None,
        log_id: str | None = None,
        on_replaced: Callable[[str, str], None] | None = None,
    ) -> None:
        self._address = ServerAddress(url, token)
        self._filters = [("stream", name) for name in ([stream] if isinstance(stream, str) else stream or ())]
        self._filters += [("type", name) for name in types or ()]
        self._tail = tail
        self._position: int | None = None if tail is not None else after or 0
        self._log_id = log_id
        self._on_replaced = on_replaced
        self._head = 0
        self._caught_up = False
        self._attempts = 0
        self._connected = False
        self._socket: ClientConnection | None = None
        self._closed = threading.Event()

    @property
    def position(self) -> int:
        """Everything up to here has been yielded, as far as the filters let it through: the resume token."""
        return self._position or 0

    @property
    def log_id(self) -> str | None:
        """The log's incarnation, known from the first connection on."""
        return self._log_id

    @property
    def connected(self) -> bool:
        """Whether a connection stands at this moment; False while a lost one is being made again."""
        return self._connected

    @property
    def caught_up(self) -> bool:
        """Whether this connection has delivered all that there was when it was made."""
        return self._caught_up

    @property
    def head(self) -> int:
        """The log's last position when the connection was made."""
        return self._head

    # Iteration

    async def messages(self) -> AsyncGenerator[Followed]:
        """Pages of events and what lies between them, for ever."""
        while not self._closed.is_set():
            try:
                async with _connect_async(self._url(), ping_interval=None, **self._address.options()) as socket:
                    while True:
                        message = self._take(await asyncio.wait_for(socket.recv(decode=False), SILENCE))
                        if message is not None:
                            yield message
            except (OSError, TimeoutError, WebSocketException) as error:
                await asyncio.sleep(self._after_failure(error))

    async def __aiter__(self) -> AsyncGenerator[Recorded]:
        log_id = self._log_id
        async with aclosing(self.messages()) as messages:
            async for message in messages:
                log_id = self._same_log(log_id, message)
                if isinstance(message, list):
                    for recorded in message:
                        yield recorded

    def sync_messages(self) -> Generator[Followed]:
        """The same as `messages`, blocking; `close` from another thread ends it."""
        while not self._closed.is_set():
            try:
                with connect_sync(self._url(), ping_interval=None, **self._address.options()) as socket:
                    self._socket = socket
                    while not self._closed.is_set():
                        message = self._take(socket.recv(timeout=SILENCE, decode=False))
                        if message is not None:
                            yield message
            except (OSError, TimeoutError, WebSocketException) as error:
                if not self._closed.is_set():
                    self._closed.wait(self._after_failure(error))
            finally:
                self._socket = None

    def __iter__(self) -> Generator[Recorded]:
        log_id = self._log_id
        with closing(self.sync_messages()) as messages:
            for message in messages:
                log_id = self._same_log(log_id, message)
                if isinstance(message, list):
                    yield from message

    def close(self) -> None:
        """End the iteration, from whatever thread."""
        self._closed.set()
        socket = self._socket
        if socket is not None:
            socket.close()

    # What both ways of iterating share

    def _url(self) -> str:
        if self._position is None:
            place = [("tail", str(self._tail))]
        else:
            place = [("after", str(self._position))]
            if self._log_id is not None:
                place.append(("log_id", self._log_id))
        self._caught_up = False
        query = urlencode([*place, *self._filters, ("format", "msgpack")])
        return self._address.websocket(FOLLOW_PATH, query)

    def _take(self, data: bytes) -> Followed | None:
        """The message in `data`, with this follower's place moved behind it; None where it tells nothing new."""
        message: Any
        try:
            message = _decoder.decode(data)
        except msgspec.ValidationError:
            message = _plain_decoder.decode(data)
        match message:
            case _TypedEvents(events=events):
                page = [_envelope(each, each.type, each.data) for each in events]  # pyright: ignore
            case _RawEvents(events=events):
                page = [_recorded(each) for each in events]
            case Subscribed(after=after, head=head, log_id=log_id):
                self._attempts = 0
                self._connected = True
                self._log_id = log_id
                self._position = after
                self._head = head
                return message
            case CaughtUp(position=position):
                self._position = position
                self._caught_up = True
                return message
            case Heartbeat(position=position):
                self._position = position
                return message
            case _:
                return None
        self._position = page[-1].position
        return page

    def _after_failure(self, error: Exception) -> float:
        """Seconds to wait before the next connection; raises where another would be refused as well."""
        self._connected = False
        code = reason = None
        if isinstance(error, ConnectionClosed) and error.rcvd is not None:
            code, reason = error.rcvd.code, error.rcvd.reason
        elif isinstance(error, InvalidStatus):
            status = error.response.status_code
            known = {401: CLOSE_UNAUTHORISED, 403: CLOSE_UNAUTHORISED, 404: CLOSE_UNKNOWN, 400: CLOSE_BAD_REQUEST}
            code, reason = known.get(status), f"HTTP status {status}"
        if code == CLOSE_OTHER_LOG and self._log_id is not None:
            # The position belongs to a log that is gone.
            self._position = 0
            self._log_id = None
            return 0.0
        if code in (CLOSE_BAD_REQUEST, CLOSE_UNAUTHORISED, CLOSE_UNKNOWN, CLOSE_OTHER_LOG):
            raise FollowRefused(code, reason or "no reason given") from error
        self._attempts += 1
        return min(2.0, 0.05 * 2 ** min(self._attempts - 1, 8)) * random.uniform(0.5, 1.5)

    def _same_log(self, log_id: str | None, message: Followed) -> str | None:
        if not isinstance(message, Subscribed):
            return log_id
        if log_id is not None and message.log_id != log_id:
            if self._on_replaced is None:
                raise LogReplaced(log_id, message.log_id)
            self._on_replaced(log_id, message.log_id)
        return message.log_id
