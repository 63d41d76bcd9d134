"""One encoder and one typed decoder for events, as JSON and as MessagePack.

An encoded event is a map with its type under `"type"` and its fields beside it, the same in both formats. JSON shows
NaN and infinities as null; MessagePack keeps them.
"""

from __future__ import annotations

from typing import Any, Literal, Union

import msgspec

from . import catalog, control, log, template, training
from .errors import UndecodableEvent
from .event import Event, EventRejected, UnknownEvent, event_types
from .upcasters import upcast

__all__ = ["EVENT_TYPES", "AnyEvent", "Format", "decode", "decode_frame", "decode_frames", "encode", "fields"]

Format = Literal["json", "msgpack"]

# Imported for their classes: the union below is made of every event type that has been defined.
_MODULES = (catalog, control, log, template, training)

EVENT_TYPES: dict[str, type[Event]] = {cls.__name__: cls for cls in event_types()}

AnyEvent = Union[tuple(EVENT_TYPES.values())]  # noqa: UP007  # pyright: ignore
"""The tagged union of all event types that this program knows."""

_encoders = {"json": msgspec.json.Encoder(), "msgpack": msgspec.msgpack.Encoder()}
_decoders: dict[str, Any] = {
    "json": msgspec.json.Decoder(AnyEvent),
    "msgpack": msgspec.msgpack.Decoder(AnyEvent),
}
_plain_decoders: dict[str, Any] = {"json": msgspec.json.Decoder(), "msgpack": msgspec.msgpack.Decoder()}
_frames_decoder: Any = msgspec.msgpack.Decoder(list[tuple[int, AnyEvent]])  # type: ignore[valid-type]
# What bytes from elsewhere can make a decoder raise: text that is not UTF-8 and nesting without end are not its own.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_frame_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])


def encode(event: Event, format: Format) -> bytes:
    """The event as a map with its type under `"type"`."""
    encoder = _encoders[format]
    if isinstance(event, UnknownEvent):
        return encoder.encode({"type": event.name, **event.data})
    return encoder.encode(event)


def fields(event: Event) -> dict[str, Any]:
    """The event as plain data, with its type under `"type"`."""
    return _plain_decoders["msgpack"].decode(encode(event, "msgpack"))


def decode(data: bytes | bytearray | memoryview | msgspec.Raw, format: Format) -> Event:
    """The event in `data`, upcast to its current shape; a type that is not known becomes an `UnknownEvent`.

    Raises `UndecodableEvent` with the decoder's sentence where `data` is not an event.
    """
    try:
        return _decoders[format].decode(data)
    except _DECODE_ERRORS as error:
        first_reason = str(error)
    try:
        plain = _plain_decoders[format].decode(data)
    except _DECODE_ERRORS as error:
        raise UndecodableEvent(f"Not {format}: {error}.") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("type"), str):  # type: ignore[union-attr]
        raise UndecodableEvent('An event is a map with its type under "type".')
    rest: dict[str, Any] = dict(plain)  # type: ignore[arg-type]
    stored: str = rest.pop("type")
    name, rest = upcast(stored, rest)
    if name not in EVENT_TYPES:
        return UnknownEvent(name=name, data=rest)
    if name == stored:
        raise UndecodableEvent(f"{name}: {first_reason}.")
    try:
        return msgspec.convert({"type": name, **rest}, AnyEvent)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise UndecodableEvent(f"{name}, upcast from {stored}: {error}.") from error


def decode_frame(frame: bytes | msgspec.Raw) -> tuple[int, Event]:
    """One spool frame: `[occurred_at, event]` in MessagePack.

    What cannot be decoded comes back as `EventRejected`, so that its place in the stream is kept.
    """
    raw = bytes(frame)
    try:
        occurred_at, event = _frame_decoder.decode(raw)
    except _DECODE_ERRORS as error:
        return 0, EventRejected(raw=raw, reason=f"Not a frame: {error}.")
    try:
        return occurred_at, decode(event, "msgpack")
    except UndecodableEvent as error:
        return occurred_at, EventRejected(raw=bytes(event), reason=error.reason)


def decode_frames(frames: bytes | list[msgspec.Raw]) -> list[tuple[int, Event]]:
    """A batch of frames, given as one MessagePack array or as its elements; one by one only where that fails."""
    data = frames if isinstance(frames, bytes) else _encoders["msgpack"].encode(frames)
    try:
        return _frames_decoder.decode(data)
    except _DECODE_ERRORS:
        elements = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        return [decode_frame(element) for element in elements]
