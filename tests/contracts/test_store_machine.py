"""Random histories: the store on DuckDB, the store in memory and a plain list agree on all of it."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from test_append_contract import line, step

from events.control import WriterClaimed
from events.errors import Fenced, WrongExpectedVersion
from events.event import Event, event_type
from events.memory import MemoryStore
from events.store import EventStore
from events.streams import Append, Appended, Claim

FREE = ("catalog", "template-1")
TRAININGS = ("training-1", "training-2")
STREAMS = (*FREE, *TRAININGS, "control-1", "control-2")

events = st.lists(
    st.one_of(st.integers(1, 9).map(step), st.text('aä0 \n"', max_size=3).map(line)),
    min_size=1,
    max_size=5,
)


class Model:
    """What the log must be, as plainly as it can be said."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, Event]] = []
        self.epochs: dict[str, list[int]] = {}
        """The first version of every epoch of a stream; epoch e is at e - 1."""

    def stream(self, name: str) -> list[tuple[int, Event]]:
        """(position, event) by version."""
        return [(p, event) for p, (stream, _, event) in enumerate(self.log, 1) if stream == name]

    def add(self, name: str, added: list[Event]) -> None:
        version = len(self.stream(name))
        self.log += [(name, version + n, event) for n, event in enumerate(added, 1)]

    def claim(self, name: str, epoch: int | None) -> int | type[Exception]:
        epochs = self.epochs.setdefault(name, [])
        if epoch is not None and epoch < max(1, len(epochs)):
            return Fenced
        if epoch is None or epoch > len(epochs):
            epoch = epoch or len(epochs) + 1
            first = len(self.stream(name)) + 1
            epochs += [first] * (epoch - len(epochs))
            self.add(name.replace("training", "control"), [WriterClaimed(epoch=epoch, first_version=first)])
        return epoch


class Stores(RuleBasedStateMachine):
    sent = Bundle("sent")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="log-machine-"))
        self.model = Model()
        self.memory = MemoryStore()
        self.opened: EventStore | None = self.open(1 << 20)
        self.log_id = self.opened.log_id

    def open(self, recent_bytes: int) -> EventStore:
        return EventStore.open(self.folder / "log.duckdb", idle=3_600, recent_bytes=recent_bytes, group=8)

    @property
    def file(self) -> EventStore:
        assert self.opened is not None
        return self.opened

    def both(self, do: Any) -> Any:
        """What both stores answered, which must be the same; an error is its type."""
        outcomes: list[Any] = []
        for store in (self.file, self.memory):
            future: Future[Any] = do(store)
            error = future.exception()
            outcomes.append(future.result() if error is None else (type(error), getattr(error, "current", None)))
        answers = [
            msgspec.structs.replace(outcome, log_id="") if isinstance(outcome, Claim) else outcome
            for outcome in outcomes
        ]
        assert answers[0] == answers[1]
        return answers[0]

    @rule(stream=st.sampled_from(FREE), added=events, off=st.sampled_from([None, 0, 0, 0, 1, -1]))
    def append(self, stream: str, added: list[Event], off: int | None) -> None:
        version = len(self.model.stream(stream))
        expected = None if off is None else max(0, version + off)
        answer = self.both(lambda store: store.append(Append(stream, added, expected=expected)))
        if expected in (None, version):
            self.model.add(stream, added)
            head = len(self.model.log)
            assert answer == [Appended(head, head - len(added) + 1, version + len(added), len(added))]
        else:
            assert answer == (WrongExpectedVersion, version)

    @rule(one=events, other=events, wrong=st.booleans())
    def append_to_several(self, one: list[Event], other: list[Event], wrong: bool) -> None:
        version = len(self.model.stream("template-1"))
        expected = version + 1 if wrong else version
        answer = self.both(
            lambda store: store.append(
                Append("catalog", one), Append("template-1", other, expected=expected), Append("catalog", one)
            )
        )
        if wrong:
            assert answer == (WrongExpectedVersion, version)
        else:
            for stream, added in (("catalog", one), ("template-1", other), ("catalog", one)):
                self.model.add(stream, added)

    @rule(many=st.lists(st.tuples(st.sampled_from(FREE), events), max_size=12))
    def append_without_waiting(self, many: list[tuple[str, list[Event]]]) -> None:
        for store in (self.file, self.memory):
            for future in [store.append(Append(stream, added)) for stream, added in many]:
                future.result()
        for stream, added in many:
            self.model.add(stream, added)

    @rule(stream=st.sampled_from(TRAININGS), epoch=st.sampled_from([None, None, 0, 1, 2, 3]))
    def claim(self, stream: str, epoch: int | None) -> None:
        answer = self.both(lambda store: store.claim(stream, epoch=epoch))
        given = self.model.claim(stream, epoch)
        version = len(self.model.stream(stream))
        if isinstance(given, int):
            assert answer == Claim(epoch=given, version=version, log_id="")
        else:
            assert answer == (given, version)

    @rule(target=sent, stream=st.sampled_from(TRAININGS), added=events)
    def write(self, stream: str, added: list[Event]) -> Any:
        """The present writer appends; what it sent is kept, to be sent again at any time."""
        epoch = len(self.model.epochs.get(stream, ()))
        version = len(self.model.stream(stream))
        answer = self.both(lambda store: store.append(Append(stream, added, expected=version, epoch=epoch)))
        if epoch == 0:
            assert answer == (ValueError, None)
            return multiple()
        self.model.add(stream, added)
        return (stream, epoch, version, added, answer)

    @rule(what=sent, skip=st.integers(0, 3), more=events, extend=st.booleans())
    def send_again(self, what: Any, skip: int, more: list[Event], extend: bool) -> None:
        stream, epoch, version, added, first_answer = what
        skip = min(skip, len(added) - 1)
        current = self.model.stream(stream)
        again = added[skip:] + (more if extend and version + len(added) == len(current) else [])
        expected = version + skip
        answer = self.both(lambda store: store.append(Append(stream, again, expected=expected, epoch=epoch)))
        if epoch < len(self.model.epochs[stream]):
            assert answer == (Fenced, len(current))
            return
        self.model.add(stream, again[len(added) - skip :])
        current = self.model.stream(stream)
        last = expected + len(again)
        assert answer == [Appended(current[last - 1][0], current[expected][0], last, len(again))]
        if skip == 0 and len(again) == len(added):
            assert answer == first_answer

    @rule(stream=st.sampled_from(TRAININGS), added=events, off=st.sampled_from([1, 2, -1, -2]))
    def write_elsewhere(self, stream: str, added: list[Event], off: int) -> None:
        """A gap is refused, and so is what an older epoch wrote."""
        epochs = self.model.epochs.get(stream, [])
        version = len(self.model.stream(stream))
        expected = version + off
        if not epochs or (off < 0 and expected >= epochs[-1] - 1) or expected < 0:
            return
        answer = self.both(lambda store: store.append(Append(stream, added, expected=expected, epoch=len(epochs))))
        assert answer == (WrongExpectedVersion, version)

    @rule(recent_bytes=st.sampled_from([0, 20_000, 1 << 20]), checkpoint=st.booleans())
    def reopen(self, recent_bytes: int, checkpoint: bool) -> None:
        if checkpoint:
            assert self.file.checkpoint().result() is True
        self.file.close()
        self.opened = self.open(recent_bytes)
        assert (self.file.lost, self.file.log_id) == (None, self.log_id)

    @precondition(lambda self: self.model.log)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        head = len(self.model.log)
        after = data.draw(st.integers(0, head))
        limit = data.draw(st.integers(1, 10))
        streams = data.draw(st.none() | st.lists(st.sampled_from(STREAMS), max_size=3))
        types = data.draw(
            st.none() | st.lists(st.sampled_from(["StepTrained", "LogWritten", "WriterClaimed"]), max_size=2)
        )
        wanted = [
            position
            for position, (stream, _, event) in enumerate(self.model.log, 1)
            if (streams is None or stream in streams) and (types is None or event_type(event) in types)
        ]
        for store in (self.file, self.memory):
            page = store.read(after, limit=limit, streams=streams, types=types)
            assert [event.position for event in page.events] == [p for p in wanted if p > after][:limit]
            tail = store.tail_position(limit, streams=streams, types=types)
            assert [p for p in wanted if p > tail] == wanted[-limit:]

    @invariant()
    def the_log_is_what_was_appended(self) -> None:
        if not hasattr(self, "model"):
            return
        for store in (self.file, self.memory):
            assert store.head == len(self.model.log)
            for name in STREAMS:
                assert store.version(name) == len(self.model.stream(name))
                assert store.epoch(name) == len(self.model.epochs.get(name, ()))

    @rule()
    def all_of_it_is_the_same(self) -> None:
        self.compare()

    def compare(self) -> None:
        pages = [store.read(0, limit=100_000) for store in (self.file, self.memory)]
        for page in pages:
            assert [(each.stream, each.version) for each in page.events] == [(s, v) for s, v, _ in self.model.log]
            assert [each.position for each in page.events] == list(range(1, len(self.model.log) + 1))
            assert [each.type for each in page.events] == [event_type(event) for _, _, event in self.model.log]
        assert [each.data for each in pages[0].events] == [each.data for each in pages[1].events]
        for name in STREAMS:
            found = self.file.read_stream(name)
            assert [each.position for each in found] == [position for position, _ in self.model.stream(name)]
            assert [each.version for each in found] == list(range(1, len(found) + 1))

    def teardown(self) -> None:
        if hasattr(self, "model"):
            try:
                self.compare()
            finally:
                self.file.close()
                shutil.rmtree(self.folder)


class TestStores(Stores.TestCase):
    settings = settings(max_examples=6, stateful_step_count=20)


@pytest.mark.slow
class TestStoresLong(Stores.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40)
