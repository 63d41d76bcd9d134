"""The base of every event, the registry of event types, and the envelope of a recorded event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

# Column types of columnar events. The annotation is the one place that decides how a field is stored.
Float32 = Annotated[float, Meta(extra={"column": "FLOAT"})]
Float64 = Annotated[float, Meta(extra={"column": "DOUBLE"})]
UInt16 = Annotated[int, Meta(ge=0, le=65_535, extra={"column": "USMALLINT"})]
UInt32 = Annotated[int, Meta(ge=0, le=4_294_967_295, extra={"column": "UINTEGER"})]
UInt64 = Annotated[int, Meta(ge=0, le=9_223_372_036_854_775_807, extra={"column": "UBIGINT"})]


def now_us() -> int:
    """The wall clock in microseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """An immutable fact in the past tense.

    A subclass is a type of event: its class name is the stored type, its docstring its documentation. Fields may be
    added with a default; nothing is ever removed, renamed or retyped (an upcaster serves where that is not enough).
    """

    columnar: ClassVar[bool] = False
    """True for types whose events lie in a table of their own, one typed column a field."""


def event_type(event: Event | type[Event]) -> str:
    """The stored name of an event's type."""
    if isinstance(event, UnknownEvent):
        return event.name
    return event.__name__ if isinstance(event, type) else type(event).__name__


def event_types() -> Iterator[type[Event]]:
    """Every event class that has been defined, in order of definition; `UnknownEvent` is not one of them."""
    pending = list(Event.__subclasses__())
    while pending:
        cls = pending.pop(0)
        pending.extend(cls.__subclasses__())
        if cls is not UnknownEvent:
            yield cls


class UnknownEvent(Event, frozen=True, kw_only=True):
    """An event of a type that this program does not know (written by a newer one), kept as it came.

    `name` is its type, `data` its fields without the tag.
    """

    name: str
    data: dict[str, Any] = {}


class EventRejected(Event, frozen=True, kw_only=True):
    """What a writer sent in this place could not be decoded as an event.

    It is kept at its own version, so that one poisoned frame never blocks a stream: `raw` holds the bytes
    (base64 in JSON), `reason` the decoder's sentence.
    """

    raw: bytes
    reason: str


class EventPurged(Event, frozen=True, kw_only=True):
    """An event of a deleted training lay here; it was removed for good, and its place in the log is kept."""

    columnar: ClassVar[bool] = True


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place in the log.

    `position` counts all events of the log from 1 without holes, in commit order; `version` counts those of `stream`
    from 1. `occurred_at` is the writer's clock and `recorded_at` the log's, both in µs since 1970 (UTC). `actor` is
    who caused it, set by the server only. `metadata` holds the idempotency key and the causation.
    """

    position: int
    stream: str
    version: int
    type: str
    occurred_at: int
    recorded_at: int
    actor: str | None = None
    metadata: dict[str, str] | None = None
    data: Event
