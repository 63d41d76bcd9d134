"""What both ways into the log share, the socket and adoption: nothing that a writer sent may block what follows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from events import codec
from events.control import TrainingCreated
from events.errors import EventLogError
from events.event import Event, EventRejected, now_us
from events.streams import CONTROL, NO_STREAM, Append, Appended

LATEST = 2**53
"""µs since 1970 that an event may have occurred at: the year 2255, and what a JavaScript number holds exactly."""

_logger = logging.getLogger(__name__)


def decode(frames: Sequence[msgspec.Raw]) -> list[tuple[int, Event]]:
    """(occurred_at, event) of spool frames; an `EventRejected` in place of each that is none."""
    return [_in_time(frame, *codec.decode_frame(frame)) for frame in frames]


def _in_time(frame: msgspec.Raw, occurred_at: int, event: Event) -> tuple[int, Event]:
    if 0 < occurred_at <= LATEST:
        return occurred_at, event
    if not isinstance(event, EventRejected):
        event = EventRejected(raw=bytes(frame), reason=f"occurred_at is in µs since 1970, not {occurred_at}.")
    return now_us(), event


def create(
    store: Any, training: str, created: TrainingCreated, created_at: int | None, actor: str | None
) -> Future[list[Appended]]:
    """Create a training that the log does not know, at its own time (µs); fails if the log knows it by now."""
    append = Append(
        CONTROL + training,
        [created],
        expected=NO_STREAM,
        occurred_at=None if created_at is None else [created_at],
        actor=actor or f"trainer:{training}",
    )
    return store.append(append)


def append_singly(store: Any, append: Append) -> Appended:
    """Append a batch that the log refused for what it holds, event by event. Blocks.

    In place of an event that cannot be kept stands an `EventRejected`.
    """
    appended: Appended | None = None
    times = append.occurred_at or [now_us()] * len(append.events)
    for offset, (event, occurred_at) in enumerate(zip(append.events, times, strict=True)):
        single = msgspec.structs.replace(
            append, events=[event], expected=(append.expected or 0) + offset, occurred_at=[occurred_at]
        )
        try:
            appended = store.append(single).result()[0]
        except EventLogError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a column or an encoder says: it is kept in the event's place)
            _logger.warning("An event of %s cannot be kept: %s", append.stream, error)
            rejected = EventRejected(raw=codec.encode(event, "msgpack"), reason=f"The log cannot keep it: {error}")
            appended = store.append(msgspec.structs.replace(single, events=[rejected])).result()[0]
    if appended is None:
        raise ValueError("An append of no events.")
    return appended
