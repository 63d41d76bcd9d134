"""The emitter: `emit` puts an event into the spool, and a thread sends the spool until the log has acknowledged it.

Training never waits for the server: without one the spool grows, and is sent when there is one.
"""

# pyright: reportPrivateUsage=false
# The emitter and its delivery are one thing in two classes: what lasts, and what one connection does.

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection

from . import codec
from .client import INGEST_PATH, ServerAddress, connect_sync, decode_recorded
from .control import TrainingCreated
from .errors import SpoolError
from .event import Event, EventRejected, Recorded, UnknownEvent, event_type, now_us
from .segment import SegmentHeader
from .spool import SEGMENT_SIZE, Spool, SpoolGap, is_held
from .streams import TRAINING
from .wire import Appended, Batch, Checkpointed, Control, Hello, Ready, Rejected

MAX_FRAME = 1 << 20
"""Bytes of the largest event that is sent; a larger one is replaced by an `EventRejected`."""

BATCH_EVENTS = 1_000
BATCH_BYTES = 1 << 20
UNACKNOWLEDGED = 16
"""Batches under way at once."""

_GATHER = 0.002  # seconds: events that follow each other faster travel together
_IDLE = 0.01
_SELDOM = 0.02  # seconds between events, from which on each wakes the sender, which otherwise looks for them
_LISTEN = 0.05  # how often a sender at rest listens for what the server says unasked
_UPKEEP = 0.05
_WRITE = 0.005  # how often a spool that is not mapped is written: what the death of the process may cost
_SYNC = 1.0
_RETRY = 2.0
_REPLY = 60.0
_PAUSE = 1.0  # before a batch is sent again that the log could not take

_logger = logging.getLogger(__name__)
_encoder = msgspec.msgpack.Encoder()
_replies: Any = msgspec.msgpack.Decoder(Ready | Appended | Checkpointed | Rejected | Control)


def encode_frame(occurred_at: int, event: Event) -> bytes:
    """`[occurred_at, event]` as the spool keeps it and a `Batch` carries it. Raises TypeError for a field's type."""
    if isinstance(event, UnknownEvent):
        return _encoder.encode((occurred_at, msgspec.Raw(codec.encode(event, "msgpack"))))
    frame = _encoder.encode((occurred_at, event))
    if len(frame) > MAX_FRAME:
        reason = f"{event_type(event)} has {len(frame):,} bytes; an event may have {MAX_FRAME:,}."
        return _encoder.encode((occurred_at, EventRejected(raw=frame[: MAX_FRAME // 16], reason=reason)))
    return frame


class Emitter:
    """Writes one training's events to its stream, whatever happens to the server.

    `folder` is the run folder, whose lock the process holds (`spool.hold`) for as long as the emitter lives; the spool
    lies in it. `SpoolError` is raised without the lock. `address` is asked before every connection where the server is
    (None: nowhere now). `created` and `created_at` (µs) create the training in a log that does not know it.
    `on_control` gets each control event of the training once, in the emitter's thread; `on_disk` what is wrong with the
    spool's disk, and None when that is over; `on_trouble` one sentence for whatever a person should know, which also
    goes to the log.

    Nothing that `emit` has taken is lost when the process dies, as long as the spool is `durable`; otherwise (see
    `spool.py`) the last few milliseconds may be.
    """

    def __init__(
        self,
        folder: Path,
        training_id: str,
        *,
        address: Callable[[], ServerAddress | None],
        created: TrainingCreated | None = None,
        created_at: int | None = None,
        on_control: Callable[[Recorded], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        on_disk: Callable[[str | None], None] | None = None,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        self._on_trouble = on_trouble
        self._on_control = on_control
        self._address = address
        self._told: set[str] = set()
        self.stream = TRAINING + training_id
        self._created = created
        self._created_at = created_at if created_at is not None or created is None else now_us()
        header = SegmentHeader(
            training_id=training_id, stream=self.stream, created=created, created_at=self._created_at
        )
        if not is_held(folder):
            # Whoever finds the lock free takes the spool for a dead process's and cuts its files, mapped or not.
            raise SpoolError(f"{folder} is not held: an emitter writes only where its process has the lock.")
        self._spool = Spool(
            folder / "spool", header, segment_size=segment_size, on_trouble=self._trouble, on_disk=on_disk
        )
        self._acknowledged = 0
        self._progress = threading.Condition()
        self._fenced = False
        self._connected = False
        self._log_id: str | None = None
        self._controls: set[tuple[int, int]] = set()
        self._connection: ClientConnection | None = None
        self._stop = threading.Event()
        self._resting = False
        # Of all that wakes a thread this may be used in a signal handler that interrupts its own use.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._keep, name="spool-upkeep", daemon=True),
            threading.Thread(target=self._send, name="emitter", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def emit(self, event: Event, occurred_at: int | None = None) -> None:
        """Take an event; about a microsecond. Raises TypeError if a field holds what no event can.

        `occurred_at` (µs since 1970) is for what is told later than it happened, such as figures read back from a GPU;
        None is now. Safe in any thread, in a signal handler and in a finaliser.
        """
        self._spool.append(encode_frame(time.time_ns() // 1_000 if occurred_at is None else occurred_at, event))
        self._rouse()

    @property
    def version(self) -> int:
        """Version of the last emitted event, provisional until a log has given an epoch."""
        return self._spool.version

    @property
    def acknowledged(self) -> int:
        """The last version that the log has made durable."""
        return self._acknowledged

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def fenced(self) -> bool:
        """Whether another writer has taken the stream over: nothing of this one is sent any more."""
        return self._fenced

    @property
    def durable(self) -> bool:
        """Whether an emitted event survives the death of the process at once."""
        return self._spool.mapped

    @property
    def log_id(self) -> str | None:
        """The log that has acknowledged, if any has yet."""
        return self._log_id

    def flush(self, timeout: float) -> bool:
        """Wait until the log has everything that was emitted before the call; False if it does not within `timeout`."""
        mark = self._spool.mark()

        def done() -> bool:
            version = self._spool.version_of(mark)
            return self._fenced or (version is not None and self._acknowledged >= version)

        with self._progress:
            return self._progress.wait_for(done, timeout) and not self._fenced

    def close(self, timeout: float = 30.0) -> bool:
        """Flush and end; what the log does not have by then stays in the spool for the next start or adoption."""
        delivered = self.flush(timeout)
        self._stop.set()
        self._rouse()
        keeper, sender = self._threads
        keeper.join()
        sender.join(1.0)
        connection = self._connection
        if sender.is_alive() and connection is not None:
            # The server does not read: nothing else ends a send that waits for it.
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            sender.join(10.0)
        # A sender that is still connecting finds that it shall stop before it touches the spool.
        self._spool.close()
        return delivered

    def _rouse(self) -> None:
        if self._resting:
            self._resting = False
            self._wake.put(None)

    # In the threads

    def _keep(self) -> None:
        synced = time.monotonic()
        while not self._stop.wait(_UPKEEP if self._spool.mapped else _WRITE):
            # What a log has made durable need not be made so twice.
            behind = self._acknowledged < self._spool.version or self._spool.epoch is None
            sync = behind and time.monotonic() - synced >= _SYNC
            self._spool.upkeep(sync=sync)
            if sync:
                synced = time.monotonic()

    def _send(self) -> None:
        attempts = 0
        while not self._stop.is_set() and not self._fenced:
            reason = "no server is running"
            try:
                address = self._address()
                if address is not None:
                    url = address.websocket(INGEST_PATH)
                    with connect_sync(url, open_timeout=5, **address.options()) as connection:
                        self._connection = connection
                        delivery = _Delivery(self, self._spool, connection, address)
                        try:
                            delivery.run()
                        finally:
                            attempts = attempts if delivery.epoch is None else 0
                    continue
            except _Refused as refusal:
                reason = refusal.reason
            except InvalidStatus as error:
                reason = f"it answered with HTTP status {error.response.status_code}"
            except ConnectionClosed as error:
                reason = (
                    error.rcvd.reason or f"it closed the connection ({error.rcvd.code})" if error.rcvd else "it is gone"
                )
            except (OSError, TimeoutError, WebSocketException) as error:
                reason = str(error) or type(error).__name__
            except Exception as error:
                _logger.exception("Sending failed in a way that was not foreseen; it is tried again.")
                reason = repr(error)
            finally:
                self._connected = False
                self._connection = None
            if not self._stop.is_set() and not self._fenced:
                self._tell(f"Events are kept in the spool until a server takes them: {reason}.")
                attempts += 1
                self._stop.wait(min(_RETRY, 0.05 * 2 ** min(attempts - 1, 8)) * random.uniform(0.5, 1.5))

    def _arrived(self, version: int, log_id: str) -> None:
        """A log is ready to take what follows `version`."""
        self._connected = True
        self._log_id = log_id
        self._acknowledge(version)

    def _acknowledge(self, version: int) -> None:
        if self._told:
            self._told.clear()
            _logger.info("The server takes events.")
        with self._progress:
            self._acknowledged = version
            self._progress.notify_all()

    def _control(self, recorded: Recorded) -> None:
        # After a reconnection all of them come again, after a restore perhaps under other versions.
        key = (recorded.version, recorded.occurred_at)
        if key in self._controls:
            return
        self._controls.add(key)
        if self._on_control is not None:
            try:
                self._on_control(recorded)
            except Exception:
                _logger.exception("The training's control event %s could not be acted on.", recorded.type)

    def _set_fenced(self, reason: str) -> None:
        with self._progress:
            self._fenced = True
            self._progress.notify_all()
        self._trouble(f"Another process writes this training now, so this one's events stay in its spool. {reason}")

    def _tell(self, sentence: str) -> None:
        """Say it once until the server takes events again."""
        if sentence not in self._told:
            self._told.add(sentence)
            self._trouble(sentence)

    def _trouble(self, sentence: str) -> None:
        _logger.warning("%s", sentence)
        if self._on_trouble is not None:
            self._on_trouble(sentence)


class _Refused(Exception):
    """The server answered that it will not take the stream, or the batch."""

    def __init__(self, rejected: Rejected) -> None:
        self.code = rejected.code
        self.reason = rejected.reason.rstrip(".")
        super().__init__(self.reason)


class _Delivery:
    """One connection: first what earlier writers left, under their own epoch, then this one's events as they come."""

    def __init__(self, emitter: Emitter, spool: Spool, connection: ClientConnection, address: ServerAddress) -> None:
        self._emitter = emitter
        self._spool = spool
        self._connection = connection
        self._log_id = address.log_id
        self._pending: deque[int] = deque()
        self.epoch: int | None = None

    def run(self) -> None:
        """Deliver until the emitter is closed or fenced; raises whatever ends the connection."""
        while not self._stopping:
            try:
                self._deliver_left_over()
                if self._deliver_own():
                    return
            except SpoolGap as gap:
                self._drain()
                self._emitter._trouble(
                    f"Versions {gap.after + 1} to {gap.first - 1} are neither in the log nor in the spool;"
                    f" what follows is numbered from {gap.after + 1}."
                )
                self._spool.release(gap.after)

    @property
    def _stopping(self) -> bool:
        return self._emitter._stop.is_set()

    def _deliver_left_over(self) -> None:
        left = self._spool.claimed
        if left is None or self._spool.epoch is not None:
            return
        try:
            ready = self._hello(left.epoch, left.last)
            self._deliver(ready.version, left.last)
        except _Refused as refusal:
            if refusal.code != "fenced":
                raise
            self._drain()
            kept = self._spool.set_aside()
            self._emitter._trouble(
                f"{refusal.reason}. What an earlier process spooled is set aside: {', '.join(map(str, kept))}."
            )

    def _deliver_own(self) -> bool:
        """False if the events need a new claim."""
        spool = self._spool
        try:
            if spool.epoch is None:
                ready = self._hello(None, spool.version)
                spool.claim(ready.epoch, ready.version)
            else:
                ready = self._hello(spool.epoch, spool.version)
                if ready.version > spool.version:
                    spool.release(ready.version)
                    return False
            self._emitter._arrived(ready.version, ready.log_id)
            self._deliver(ready.version, None)
        except _Refused as refusal:
            if refusal.code != "fenced":
                raise
            self._emitter._set_fenced(refusal.reason + ".")
        return True

    def _hello(self, epoch: int | None, version: int) -> Ready:
        self._connection.send(
            _encoder.encode(
                Hello(
                    stream=self._emitter.stream,
                    version=version,
                    epoch=epoch,
                    log_id=self._log_id,
                    created=self._emitter._created,
                    created_at=self._emitter._created_at,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                )
            )
        )
        deadline = time.monotonic() + _REPLY
        while time.monotonic() < deadline:
            match self._receive(1.0):
                case Ready() as ready:
                    self.epoch = ready.epoch
                    return ready
                case Rejected() as rejected:
                    raise _Refused(rejected)
                case _:
                    pass
        raise TimeoutError("it does not answer")

    def _drain(self) -> None:
        """Await the replies to what is under way; they no longer matter."""
        while self._pending:
            if self._receive(_REPLY) is None and self._stopping:
                return
            self._pending.popleft()

    def _deliver(self, version: int, upto: int | None) -> None:
        """Send what follows `version`, up to and with `upto` (None: for ever), and wait for the acknowledgements.

        Every batch gets one reply, in order. After a rejection the replies to the batches behind it are awaited, and
        sending begins again at the version that the log says it has.
        """
        spool, pending = self._spool, self._pending
        sent = acknowledged = version
        limit = BATCH_EVENTS
        rewind: int | None = None
        last_sent = last_new = not_before = 0.0
        seldom = True
        while True:
            now = time.monotonic()
            if rewind is not None and not pending and now >= not_before:
                sent, rewind = rewind, None
            waiting = spool.version - sent if upto is None else upto - sent
            if waiting > 0:
                seldom, last_new = now - last_new > _SELDOM, now
            free = rewind is None and len(pending) < UNACKNOWLEDGED
            if free and (waiting >= limit or (waiting > 0 and now - last_sent >= _GATHER)):
                frames = spool.read(sent, limit=min(limit, waiting), size=BATCH_BYTES)
                if frames:
                    batch = Batch(expected=sent, events=[msgspec.Raw(frame) for frame in frames])
                    self._connection.send(_encoder.encode(batch))
                    sent += len(frames)
                    pending.append(sent)
                last_sent = now
                if waiting > limit and len(pending) < UNACKNOWLEDGED:
                    continue
            if not pending and (self._stopping or (upto is not None and acknowledged >= upto)):
                return
            rare = seldom or now - last_new > _SELDOM
            if not pending and upto is None and rewind is None and spool.version == sent:
                if rare and self._rest(sent):
                    continue
                patience = 0.0 if rare else _GATHER
            elif not free:
                patience = 0.1
            else:
                # What comes seldom can wait for the reply to what was sent last.
                patience = _LISTEN if rare and pending else _IDLE if rare else _GATHER
            match self._receive(patience):
                case Appended(version=version):
                    pending.popleft()
                    acknowledged = version
                    limit = BATCH_EVENTS
                    if upto is None:
                        self._emitter._acknowledge(version)
                case Rejected(current=int() as current) as rejected:
                    pending.popleft()
                    match rejected.code:
                        case "wrong_version" if current <= spool.version:
                            acknowledged = current
                        case "unavailable":
                            self._emitter._tell(f"The server takes no events now: {rejected.reason}")
                            not_before = now + _PAUSE
                        case "too_large" if limit > 1:
                            limit = 1
                        case _:
                            raise _Refused(rejected)
                    rewind = current
                case Rejected() as rejected:
                    raise _Refused(rejected)
                case _:
                    pass

    def _rest(self, sent: int) -> bool:
        """Sleep until there is something after version `sent` to send; False when it is time to listen instead."""
        emitter = self._emitter
        emitter._resting = True
        # After the flag: what came before did not see it.
        if self._spool.version == sent and not self._stopping:
            with contextlib.suppress(Empty):
                emitter._wake.get(timeout=_LISTEN)
        emitter._resting = False
        return self._spool.version != sent

    def _receive(self, timeout: float) -> Ready | Appended | Rejected | None:
        """The next reply; None if there was none in `timeout` seconds, or another message that was dealt with."""
        try:
            data = self._connection.recv(timeout, decode=False)
        except TimeoutError:
            return None
        try:
            message = _replies.decode(data)
        except msgspec.ValidationError:
            return None  # of a newer server
        match message:
            case Control(event=event):
                self._emitter._control(decode_recorded(event))
            case Checkpointed(version=version):
                self._spool.drop(version)
            case _:
                return message
        return None
