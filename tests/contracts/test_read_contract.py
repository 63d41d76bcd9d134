"""What every store promises about reading: pages, filters, tails, streams, encodings, listening."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from test_append_contract import line, step

from events.codec import Format
from events.errors import PositionBeyondHead
from events.event import Event, Recorded, UnknownEvent
from events.memory import MemoryStore
from events.store import EventStore
from events.streams import Append

STREAMS = ["training-a", "training-b"]
LINES_OF_A = [line(str(number)) for number in range(6, 61, 6)]


@pytest.fixture(scope="module", params=["recent", "half recent", "in the file", "memory"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Events of both kinds in three streams, in several commits, of which not all may be recent."""
    path = tmp_path_factory.mktemp("log") / "log.duckdb"
    recent_bytes = {"recent": 64 << 20, "half recent": 120_000, "in the file": 0}
    in_memory = request.param == "memory"
    store: Any = MemoryStore() if in_memory else EventStore.open(path, recent_bytes=recent_bytes[request.param])
    with store:
        for number in range(1, 61):
            events: list[Event] = [step(number), step(number, sae=1), *([line(str(number))] if number % 3 == 0 else [])]
            store.append(Append(STREAMS[number % 2], events))
            if number % 10 == 0:
                store.append(Append("control-a", [UnknownEvent(name="Wished", data={"n": number})])).result()
        if request.param == "half recent":
            assert store.recent(store.head // 3) is None
            assert store.recent(store.head - 20) is not None
        yield store


def written(store: Any) -> list[Recorded]:
    events = list(store.read(0, limit=10_000).events)
    assert [each.position for each in events] == list(range(1, 147))
    return events


def paged(store: Any, limit: int, **matching: Any) -> list[Recorded]:
    found: list[Recorded] = []
    after = 0
    while after < store.head:
        page = store.read(after, limit=limit, **matching)
        assert page.after == after
        assert len(page) == len(page.events) <= limit
        assert page.position > after
        assert page.position == store.head or len(page) == limit
        found += page.events
        after = page.position
    return found


FILTERS: dict[str, tuple[dict[str, Any], Callable[[Recorded], bool]]] = {
    "none": ({}, lambda each: True),
    "stream": ({"streams": ["training-b"]}, lambda each: each.stream == "training-b"),
    "streams": ({"streams": {"training-b", "control-a"}}, lambda each: each.stream != "training-a"),
    "cold type": ({"types": ["LogWritten"]}, lambda each: each.type == "LogWritten"),
    "types": ({"types": ["StepTrained", "Wished"]}, lambda each: each.type != "LogWritten"),
    "both": ({"streams": ["training-a"], "types": ["LogWritten"]}, lambda each: each.data in LINES_OF_A),
    "nothing in both": ({"streams": ["training-a"], "types": ["Wished"]}, lambda each: False),
    "unknown stream": ({"streams": ["no-such-stream"]}, lambda each: False),
    "unknown type": ({"types": ["NoSuchType"]}, lambda each: False),
    "no stream": ({"streams": []}, lambda each: False),
    "no type": ({"types": []}, lambda each: False),
}


@pytest.mark.parametrize("filter", FILTERS)
def test_pages_of_any_size_hold_what_matches_once_and_in_order(filled: Any, filter: str) -> None:
    matching, wanted = FILTERS[filter]
    expected = [each for each in written(filled) if wanted(each)]
    for limit in (20, 1_000):
        assert paged(filled, limit, **matching) == expected
    page = filled.read(5, limit=1_000, upto=70, **matching)
    assert list(page.events) == [each for each in expected if 5 < each.position <= 70]
    assert page.position == 70


def test_pages_of_one_event_go_through_the_log(filled: Any) -> None:
    assert paged(filled, 1, streams=["control-a"]) == [each for each in written(filled) if each.stream == "control-a"]


@pytest.mark.parametrize("filter", FILTERS)
def test_a_tail_begins_before_the_last_that_match(filled: Any, filter: str) -> None:
    matching, wanted = FILTERS[filter]
    expected = [each for each in written(filled) if wanted(each)]
    for n in (1, 50):
        after = filled.tail_position(n, **matching)
        assert list(filled.read(after, limit=10_000, **matching).events) == expected[-n:]
    assert filled.tail_position(0, **matching) == filled.head
    if not expected:
        assert filled.tail_position(5, **matching) == filled.head


def test_a_stream_is_read_by_version(filled: Any) -> None:
    expected = [each for each in written(filled) if each.stream == "training-b"]
    assert filled.read_stream("training-b") == expected
    assert filled.read_stream("training-b", 3, 4) == expected[3:7]
    assert filled.read_stream("training-b", filled.version("training-b")) == []
    assert filled.read_stream("no-such-stream") == []


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_encoded_events_are_the_events(filled: Any, format: Format) -> None:
    decode = msgspec.json.decode if format == "json" else msgspec.msgpack.decode
    decoded = [decode(raw) for raw in filled.read(0, limit=10_000).encoded(format)]
    for plain, recorded in zip(decoded, written(filled), strict=True):
        assert plain["type"] == plain["data"]["type"] == recorded.type
        envelope = {key: value for key, value in plain.items() if key != "data"}
        assert envelope == {key: getattr(recorded, key) for key in envelope}
        if isinstance(recorded.data, UnknownEvent):
            assert plain["data"] == {"type": "Wished", **recorded.data.data}
        else:
            assert msgspec.convert(plain["data"], type(recorded.data)) == recorded.data


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_recent_event_is_encoded_once_whoever_reads_it(store: Any, format: Format) -> None:
    for number in range(1, 20):
        store.append(Append("a", [step(number), line(str(number))]))
    store.append(Append("a", [step(20)])).result()
    one = store.read(0).encoded(format)
    other = store.read(5, types=["StepTrained"]).encoded(format)
    assert {id(each) for each in other} < {id(each) for each in one}


def test_a_position_that_was_not_reached_is_refused(store: Any) -> None:
    store.append(Append("a", [line("1")])).result()
    assert len(store.read(1)) == 0
    assert store.read(1).position == 1
    with pytest.raises(PositionBeyondHead) as caught:
        store.read(2)
    assert (caught.value.position, caught.value.head) == (2, 1)


def test_a_listener_hears_of_every_commit_and_of_the_closing(store: Any) -> None:
    heard: list[tuple[int, int]] = []
    store.listen(lambda head: heard.append((head, store.head)))
    for number in range(1, 4):
        store.append(Append("a", [line(str(number))])).result()
    store.close()
    # Whoever hears of a head can read up to it.
    assert heard == [(1, 1), (2, 2), (3, 3), (3, 3)]


def test_a_listener_that_stopped_hears_nothing(store: Any) -> None:
    heard: list[int] = []
    stop = store.listen(heard.append)
    stop()
    stop()
    store.append(Append("a", [line("1")])).result()
    store.close()
    assert heard == []


def test_a_listener_that_fails_harms_nobody(store: Any) -> None:
    heard: list[int] = []
    store.listen(lambda head: 1 / 0)
    store.listen(heard.append)
    store.append(Append("a", [line("1")])).result()
    store.append(Append("a", [line("2")])).result()
    store.close()
    assert heard == [1, 2, 2]
