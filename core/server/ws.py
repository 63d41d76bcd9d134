"""The two WebSockets: `follow` sends the log to whoever reads it, `ingest` takes a trainer's events.

Both answer what they cannot use with a typed `Rejected` and go on; they close with a code where no message of this
connection could be of use. Both hold a bounded amount of what a slow or hasty peer causes: a follower one page at a
time, a writer a few batches, after which its socket is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect

from core.server import intake
from core.server.launcher import Launcher
from events import codec, wire
from events.batch import Page
from events.codec import EVENT_TYPES, AnyEvent, Format
from events.control import ResumeRequested, TrainingCreated
from events.errors import EventLogError, Fenced, LogClosed, LogUnavailable, WrongExpectedVersion
from events.event import Event, Recorded
from events.ids import is_id
from events.streams import CONTROL, TRAINING, Append
from events.subscription import subscribe

HEARTBEAT = 10.0
"""Seconds of silence after which a follower gets a `Heartbeat`."""

PAGE = 1_000
MAX_TAIL = 1_000_000
MAX_MESSAGE = 4 << 20
MAX_BATCH = 10_000
UNANSWERED = 16
"""Messages of a writer that are worked on at once; with more under way its socket is not read."""

RETRY_AFTER = 1.0
WATCH = 1.0

_logger = logging.getLogger(__name__)
_encoders: dict[str, Any] = {"json": msgspec.json.Encoder(), "msgpack": msgspec.msgpack.Encoder()}
_encode = msgspec.msgpack.Encoder().encode

_Time = Annotated[int, Meta(gt=0, le=intake.LATEST)]


class _TypedBatch(wire.Message, frozen=True, kw_only=True, tag="Batch"):
    expected: Annotated[int, Meta(ge=0)]
    events: list[tuple[_Time, AnyEvent]]  # type: ignore[valid-type]  # pyright: ignore


_typed_messages: Any = msgspec.msgpack.Decoder(wire.Hello | _TypedBatch)
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_raw_messages: Any = msgspec.msgpack.Decoder(wire.Hello | wire.Batch)


class _Refusal(Exception):
    """Ends a connection: `code` of the message `Rejected`, `close` of the WebSocket."""

    def __init__(self, close: int, code: str, reason: str) -> None:
        self.close = close
        self.code = code
        self.reason = reason
        super().__init__(reason)


async def follow(websocket: WebSocket) -> None:
    """`/api/v1/events/follow`: replay, then live.

    Query: `after` (position, default 0) or `tail` (the last N that match), `stream` and `type` (both may be repeated),
    `format` (`json`, the default, or `msgpack`) and `log_id` (the log that `after` belongs to).
    """
    store = websocket.app.state.studio.store
    await websocket.accept()
    format: Format = "msgpack" if websocket.query_params.get("format") == "msgpack" else "json"

    async def send(message: wire.Message) -> None:
        data = _encoders[format].encode(message)
        if format == "json":
            await websocket.send_text(data.decode())
        else:
            await websocket.send_bytes(data)

    async def listen() -> None:
        while (await websocket.receive())["type"] != "websocket.disconnect":
            await send(
                wire.Rejected(code="malformed", reason="A follower has nothing to say: this message is ignored.")
            )

    async def tell() -> None:
        asked = _Subscription.of(websocket.query_params, store)
        after = asked.after
        if asked.tail is not None:
            after = await asyncio.to_thread(store.tail_position, asked.tail, streams=asked.streams, types=asked.types)
        messages: Any = subscribe(
            store, after, streams=asked.streams, types=asked.types, limit=PAGE, heartbeat=HEARTBEAT
        )
        async with contextlib.aclosing(messages):
            await send(wire.Subscribed(log_id=store.log_id, after=after, head=store.head))
            async for message in messages:
                if isinstance(message, Page):
                    # A long page is encoded beside the event loop, which others wait for.
                    encoded = (
                        message.encoded(format)
                        if len(message) < 100
                        else await asyncio.to_thread(message.encoded, format)
                    )
                    await send(wire.Events(events=encoded))
                else:
                    await send(message)

    await _converse(websocket, send, listen(), tell())


async def ingest(websocket: WebSocket) -> None:
    """`/api/v1/ingest`: one writer's events, in MessagePack.

    Every `Hello` and every `Batch` gets one reply, in order; later batches are read while earlier ones are being made
    durable. `Checkpointed` and `Control` come in between, whenever there is something to tell.
    """
    await websocket.accept()
    writer = _Writer(websocket)
    await _converse(websocket, writer.send, writer.read(), writer.answer(), writer.watch())


async def _converse(
    websocket: WebSocket, send: Callable[[wire.Message], Coroutine[Any, Any, None]], *parts: Coroutine[Any, Any, None]
) -> None:
    """Run the parts of a conversation until the first ends, and close as it says."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, WebSocketDisconnect | _Refusal | LogClosed | LogUnavailable):
            raise error
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the peer may be gone
        for task in done:
            match task.exception():
                case _Refusal() as refusal:
                    await send(wire.Rejected(code=refusal.code, reason=refusal.reason))
                    await websocket.close(refusal.close, _short(refusal.reason))
                case LogClosed() | LogUnavailable() as error:
                    await websocket.close(wire.CLOSE_RESTART, _short(str(error)))
                case _:
                    pass


def _short(reason: str) -> str:
    """A reason as a close frame has room for: 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")


class _Subscription(msgspec.Struct, frozen=True):
    """What a follower asks for; None in a filter lets everything through."""

    after: int
    tail: int | None
    streams: list[str] | None
    types: list[str] | None

    @classmethod
    def of(cls, query: QueryParams, store: Any) -> _Subscription:
        """Raises `_Refusal` with the reason to close."""
        known = {"after", "tail", "stream", "type", "format", "log_id"}
        for name in query:
            if name not in known:
                raise _bad(f"There is no parameter {name!r}; there are {', '.join(sorted(known))}.")
        for name in known - {"stream", "type"}:
            if len(query.getlist(name)) > 1:
                raise _bad(f"The parameter {name!r} was given more than once.")
        if (format := query.get("format", "json")) not in ("json", "msgpack"):
            raise _bad(f"format is json or msgpack, not {format!r}.")
        if "after" in query and "tail" in query:
            raise _bad("after and tail were both given: a subscription begins at one place.")
        after = _number(query, "after", 2**63 - 1) or 0
        tail = _number(query, "tail", MAX_TAIL)
        types = query.getlist("type")
        for name in types:
            if name not in EVENT_TYPES:
                raise _bad(f"There is no event type {name!r}; there are {', '.join(sorted(EVENT_TYPES))}.")
        streams = query.getlist("stream")
        for name in streams:
            if not _exists(store, name):
                raise _Refusal(wire.CLOSE_UNKNOWN, "unknown", f"There is no stream {name!r}.")
        if (log_id := query.get("log_id")) is not None and log_id != store.log_id:
            raise _other_log(f"This log is {store.log_id}, not {log_id}: replay it from position 0.")
        if after > store.head:
            raise _other_log(f"The log's head is {store.head}; position {after} is of another log.")
        return cls(after, tail, streams or None, types or None)


def _bad(reason: str) -> _Refusal:
    return _Refusal(wire.CLOSE_BAD_REQUEST, "malformed", reason)


def _other_log(reason: str) -> _Refusal:
    return _Refusal(wire.CLOSE_OTHER_LOG, "other_log", reason)


def _number(query: QueryParams, name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise _bad(f"{name} is a whole number from 0 to {most}, not {text[:40]!r}.")
    return int(text)


def _exists(store: Any, stream: str) -> bool:
    """A training's stream exists from the training's creation on, though its trainer may not have begun."""
    if stream in ("catalog", "maintenance") or store.version(stream):
        return True
    return stream.startswith(TRAINING) and store.version(CONTROL + stream.removeprefix(TRAINING)) > 0


class _Writer:
    """One connection of a trainer."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._store: Any = websocket.app.state.studio.store
        self._launcher: Launcher = websocket.app.state.studio.launcher
        self._actor: str | None = websocket.scope.get("state", {}).get("actor")
        self._training = ""
        self._stream = ""
        self._epoch: int | None = None
        self._replies: asyncio.Queue[wire.Message | _Waiting] = asyncio.Queue(UNANSWERED)
        self._introduced = asyncio.Event()
        self._not_before = 0.0

    async def send(self, message: wire.Message) -> None:
        await self._websocket.send_bytes(_encode(message))

    async def read(self) -> None:
        """Read messages and set them to work; waits while too many are unanswered or the log takes nothing."""
        loop = asyncio.get_running_loop()
        while True:
            if (wait := self._not_before - loop.time()) > 0:
                await asyncio.sleep(wait)
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None:
                reply = self._rejected("malformed", "This socket takes MessagePack in binary messages, not text.")
            elif len(data) > MAX_MESSAGE:
                reply = self._rejected("too_large", f"A message has at most {MAX_MESSAGE:,} bytes, not {len(data):,}.")
            else:
                reply = await self._take(data)
            await self._replies.put(reply)

    async def _take(self, data: bytes) -> wire.Message | _Waiting:
        try:
            message = _typed_messages.decode(data)
        except _DECODE_ERRORS:
            # One event that does not fit must not keep out the others.
            try:
                message = _raw_messages.decode(data)
            except _DECODE_ERRORS as error:
                return self._rejected("malformed", f"Neither Hello nor Batch in MessagePack: {error}.")
        match message:
            case wire.Hello():
                return await self._greet(message)
            case _TypedBatch(expected=expected, events=events):
                return self._append(expected, events)  # pyright: ignore
            case wire.Batch(expected=expected, events=frames) if expected >= 0:
                return self._append(expected, intake.decode(frames))
            case _:
                return self._rejected("malformed", "expected is a version, 0 or more.")

    async def _greet(self, hello: wire.Hello) -> wire.Message:
        store = self._store
        training = hello.stream.removeprefix(TRAINING)
        if training == hello.stream or not is_id(training):
            return self._rejected("malformed", f"A writer's stream is {TRAINING}ID, not {hello.stream[:80]!r}.")
        if self._stream not in ("", hello.stream):
            return self._rejected(
                "malformed", f"This connection writes {self._stream}; use another for {hello.stream}."
            )
        if hello.log_id is not None and hello.log_id != store.log_id:
            raise _other_log(f"This log is {store.log_id}, not {hello.log_id}.")
        try:
            if store.version(CONTROL + training) == 0:
                if hello.created is None:
                    raise _Refusal(wire.CLOSE_UNKNOWN, "unknown", f"There is no training {training}.")
                with contextlib.suppress(WrongExpectedVersion):  # another connection was faster
                    created = intake.create(store, training, hello.created, hello.created_at, self._actor)
                    await asyncio.wrap_future(created)
            self._launcher.watch(training)
            claim = await asyncio.wrap_future(
                store.claim(
                    hello.stream, epoch=hello.epoch, host=hello.host, pid=hello.pid, actor=f"trainer:{training}"
                )
            )
        except Fenced as error:
            return wire.Rejected(code="fenced", reason=str(error), current=error.current)
        except LogClosed:
            raise
        except LogUnavailable as error:
            self._not_before = asyncio.get_running_loop().time() + RETRY_AFTER
            return wire.Rejected(code="unavailable", reason=str(error), current=store.version(hello.stream))
        self._training, self._stream, self._epoch = training, hello.stream, claim.epoch
        self._introduced.set()
        return wire.Ready(version=claim.version, epoch=claim.epoch, log_id=claim.log_id)

    def _append(self, expected: int, events: list[tuple[int, Event]]) -> wire.Message | _Waiting:
        if self._epoch is None:
            return self._rejected("malformed", "A Batch comes after a Hello.")
        if not 1 <= len(events) <= MAX_BATCH:
            return self._rejected("too_large", f"A batch holds 1 to {MAX_BATCH:,} events, not {len(events):,}.")
        append = Append(
            self._stream,
            [event for _, event in events],
            expected=expected,
            epoch=self._epoch,
            occurred_at=[occurred_at for occurred_at, _ in events],
            actor=f"trainer:{self._training}",
        )
        return _Waiting(append, self._store.append(append))

    async def answer(self) -> None:
        """Send the replies in the order of the messages."""
        while True:
            reply = await self._replies.get()
            await self.send(await self._outcome(reply) if isinstance(reply, _Waiting) else reply)

    async def _outcome(self, waiting: _Waiting) -> wire.Message:
        try:
            try:
                appended = (await asyncio.wrap_future(waiting.future))[0]
            except EventLogError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a column or an encoder says)
                _logger.warning("A batch of %s holds what the log cannot keep: %s", self._stream, error)
                appended = await asyncio.to_thread(intake.append_singly, self._store, waiting.append)
        except WrongExpectedVersion as error:
            return wire.Rejected(code="wrong_version", reason=str(error), current=error.current)
        except Fenced as error:
            return wire.Rejected(code="fenced", reason=str(error), current=error.current)
        except LogUnavailable as error:
            self._not_before = asyncio.get_running_loop().time() + RETRY_AFTER
            return self._rejected("unavailable", str(error))
        return wire.Appended(version=appended.version, position=appended.position)

    async def watch(self) -> None:
        """Tell the writer of its training's control events and of what it may delete from its spool."""
        await self._introduced.wait()
        store, control = self._store, CONTROL + self._training
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        seen = safe = 0

        def look(_: int) -> None:
            # In the log's writer thread, after every commit.
            if store.version(control) != seen or store.checkpointed(self._stream) != safe:
                with contextlib.suppress(RuntimeError):  # the loop may be closed
                    loop.call_soon_threadsafe(changed.set)

        unsubscribe = store.listen(look)
        try:
            while True:
                changed.clear()
                if store.version(control) != seen:
                    first = seen == 0
                    events = await asyncio.to_thread(_read_all, store, control, seen)
                    if events:
                        seen = events[-1].version
                    for recorded in _since_last_start(events) if first else events:
                        await self.send(wire.Control(event=_encoded(recorded)))
                if store.checkpointed(self._stream) != safe:
                    safe = store.checkpointed(self._stream)
                    await self.send(wire.Checkpointed(version=safe))
                with contextlib.suppress(TimeoutError):
                    # A checkpoint comes without a commit.
                    await asyncio.wait_for(changed.wait(), WATCH)
        finally:
            unsubscribe()

    def _rejected(self, code: str, reason: str) -> wire.Rejected:
        current = self._store.version(self._stream) if self._stream else None
        return wire.Rejected(code=code, reason=reason, current=current)


class _Waiting(msgspec.Struct, frozen=True):
    """An append whose outcome is the reply."""

    append: Append
    future: Future[Any]


def _read_all(store: Any, stream: str, after: int) -> list[Recorded]:
    events: list[Recorded] = []
    while page := store.read_stream(stream, after):
        events += page
        after = page[-1].version
    return events


def _since_last_start(events: Sequence[Recorded]) -> Sequence[Recorded]:
    """What matters to a process that has just begun: the control events after those that made it begin."""
    for index in range(len(events) - 1, -1, -1):
        if isinstance(events[index].data, TrainingCreated | ResumeRequested):
            return events[index + 1 :]
    return events


def _encoded(recorded: Recorded) -> msgspec.Raw:
    raw = wire.RawRecorded(
        position=recorded.position,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.type,
        occurred_at=recorded.occurred_at,
        recorded_at=recorded.recorded_at,
        actor=recorded.actor,
        metadata=recorded.metadata,
        data=msgspec.Raw(codec.encode(recorded.data, "msgpack")),
    )
    return msgspec.Raw(_encode(raw))
