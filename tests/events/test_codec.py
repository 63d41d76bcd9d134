"""Shapes are for ever: golden bytes of every event type, and what happens to bytes that are no event."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from event_examples import EXAMPLES, GOLDEN

from events import upcasters
from events.codec import EVENT_TYPES, Format, decode, decode_frame, decode_frames, encode, fields
from events.control import TrainingTagged
from events.errors import UndecodableEvent
from events.event import Event, EventRejected, UnknownEvent
from events.training import MetricsLogged, StepTrained, TrainingPaused, TrainingStopped

BY_NAME = {type(event).__name__: event for event in EXAMPLES}
STEP = BY_NAME["StepTrained"]


def unset(struct: msgspec.Struct) -> list[str]:
    """Fields of a struct, and of the structs in it, that have their default."""
    found: list[str] = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if field.default is not msgspec.NODEFAULT and value == field.default:
            found.append(field.name)
        if isinstance(value, msgspec.Struct):
            found += [f"{field.name}.{name}" for name in unset(value)]
    return found


def test_every_event_type_has_an_example() -> None:
    assert BY_NAME.keys() == EVENT_TYPES.keys()


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_example_sets_every_field(event: Event) -> None:
    assert unset(event) == []


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_event_has_the_bytes_that_it_always_had(name: str, format: Format) -> None:
    golden = (GOLDEN / f"{name}.{format}").read_bytes()
    assert encode(BY_NAME[name], format) == golden
    assert decode(golden, format) == BY_NAME[name]


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_bytes_of_every_shape_there_ever_was_can_be_read(path: Path) -> None:
    name, *_, format = path.name.split(".")
    assert type(decode(path.read_bytes(), format)).__name__ == name  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_an_unknown_type_is_kept_as_it_came(format: Format) -> None:
    data = {"type": "LossSpiked", "step": 7, "by": {"factor": 2.5}}
    encoded = msgspec.json.encode(data) if format == "json" else msgspec.msgpack.encode(data)
    event = decode(encoded, format)
    assert event == UnknownEvent(name="LossSpiked", data={"step": 7, "by": {"factor": 2.5}})
    assert encode(event, format) == encoded
    assert fields(event) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "Not json"),
        (b"[1]", 'with its type under "type"'),
        (b'{"type": 3}', 'with its type under "type"'),
        (b'{"type": "TrainingPaused"}', "missing required field `step`"),
        (b'{"type": "StepTrained", "step": -1}', "StepTrained: "),
        (b'{"type": "LogWritten", "level": "LOUD", "logger": "a", "message": "b"}', "LogWritten: "),
        (b"\xff\xfe", "Not json"),
    ],
)
def test_what_is_not_an_event_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableEvent, match="^[^\n]*" + reason.replace("(", r"\(")):
        decode(data, "json")


def test_json_shows_what_is_not_a_finite_number_as_null_and_messagepack_keeps_it() -> None:
    event = msgspec.structs.replace(STEP, loss=math.nan, l0=math.inf)
    assert b'"loss":null' in encode(event, "json")
    again = decode(encode(event, "msgpack"), "msgpack")
    assert isinstance(again, StepTrained)
    assert math.isnan(again.loss)
    assert again.l0 == math.inf


def frame(occurred_at: int, event: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode((occurred_at, event)))


def test_one_poisoned_frame_keeps_its_place_and_harms_no_other() -> None:
    frames = [
        frame(1, TrainingPaused(step=1)),
        frame(2, {"type": "TrainingPaused", "step": "two"}),
        frame(3, {"type": "FromTheFuture", "x": 1}),
        frame(4, TrainingPaused(step=4)),
    ]
    (_, first), (second_at, second), (_, third), (fourth_at, fourth) = decode_frames(frames)
    assert first == TrainingPaused(step=1)
    assert isinstance(second, EventRejected)
    assert second_at == 2
    assert msgspec.msgpack.decode(second.raw) == {"type": "TrainingPaused", "step": "two"}
    assert "TrainingPaused" in second.reason
    assert third == UnknownEvent(name="FromTheFuture", data={"x": 1})
    assert (fourth_at, fourth) == (4, TrainingPaused(step=4))


def test_bytes_that_are_no_frame_are_kept_too() -> None:
    occurred_at, event = decode_frame(b"\x01\x02")
    assert occurred_at == 0
    assert isinstance(event, EventRejected)
    assert event.raw == b"\x01\x02"


@pytest.fixture
def retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TrainingEnded` became `TrainingHalted`, which became `TrainingStopped`."""
    monkeypatch.setitem(
        upcasters.UPCASTERS, "TrainingEnded", lambda old: ("TrainingHalted", {"at_step": old["final_step"]})
    )
    monkeypatch.setitem(
        upcasters.UPCASTERS, "TrainingHalted", lambda old: ("TrainingStopped", {"step": old["at_step"]})
    )


@pytest.mark.usefixtures("retired")
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_an_old_shape_is_read_as_the_newest(format: Format) -> None:
    encoder = msgspec.json if format == "json" else msgspec.msgpack
    assert decode(encoder.encode({"type": "TrainingEnded", "final_step": 9}), format) == TrainingStopped(step=9)
    assert decode(encoder.encode({"type": "TrainingHalted", "at_step": 8}), format) == TrainingStopped(step=8)


@pytest.mark.usefixtures("retired")
def test_an_old_shape_that_does_not_fit_the_newest_is_refused_with_both_names() -> None:
    with pytest.raises(UndecodableEvent, match="TrainingStopped, upcast from TrainingEnded"):
        decode(b'{"type": "TrainingEnded", "final_step": "last"}', "json")


def test_an_event_of_plain_json_values_is_the_same_in_both_formats() -> None:
    for event in (MetricsLogged(step=1, values={"loss": 0.5, "lr": None}), TrainingTagged(tags=("a", "b"))):
        assert msgspec.json.decode(encode(event, "json")) == msgspec.msgpack.decode(encode(event, "msgpack"))
