"""Random histories of the whole line: spools, the log, followers and projections agree with a plain list.

Two trainings are written through spools by writers that die and come again; the server dies with its files as the
kill left them; followers with and without filters live through it; projections are folded with every commit, rebuilt
and verified; resumes preempt steps. What must come of it is said by a list for each training, in the order of `emit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_append_contract import line, step

from events.codec import decode_frame
from events.control import TrainingCreated
from events.emitter import encode_frame
from events.errors import Fenced
from events.event import Event, event_type
from events.segment import SegmentHeader
from events.spool import FolderLock, Spool, hold
from events.store import EventStore
from events.streams import Append
from events.subscription import subscribe
from events.training import TrainingResumed
from events.wire import CaughtUp
from projections import metrics
from projections.runner import Projections

TRAININGS = ("0machine000one", "0machine000two")
TYPES = ("StepTrained", "LogWritten", "TrainingResumed")
SEGMENT = 2_048


class Writer:
    """A training's process as its spool sees it, one at a time."""

    def __init__(self, folder: Path, training: str) -> None:
        self.folder = folder
        self.training = training
        self.emitted: list[Event] = []
        self.step = 0
        self.zombies: list[tuple[int, int]] = []
        """(epoch, version) of writers that were replaced."""
        self._lock: FolderLock | None = None
        self.spool: Spool
        self.start()

    @property
    def stream(self) -> str:
        return f"training-{self.training}"

    def start(self) -> None:
        """A new process on what the one before has left."""
        self._lock = hold(self.folder)
        header = SegmentHeader(training_id=self.training, stream=self.stream, created=None, created_at=None)
        self.spool = Spool(self.folder / "spool", header, segment_size=SEGMENT)

    def emit(self, *events: Event) -> None:
        for number, event in enumerate(events, len(self.emitted) + 1):
            self.emitted.append(event)
            self.spool.append(encode_frame(number, event))

    def die(self) -> None:
        """As kill -9: nothing is written out or closed. What the spool takes is the kernel's at once."""
        assert self.spool.mapped
        assert self._lock is not None
        if self.spool.epoch is not None:
            self.zombies.append((self.spool.epoch, self.spool.version))
        self._lock.release()
        self.start()

    def deliver(self, store: EventStore, limit: int, again: int) -> None:
        """What the emitter's sender does, without the socket: what earlier writers left first, each under its epoch.

        `again` events that the log has acknowledged are sent once more.
        """
        spool = self.spool
        if spool.epoch is None:
            if (left := spool.claimed) is not None:
                with contextlib.suppress(Fenced):
                    claim = store.claim(self.stream, epoch=left.epoch).result()
                    self._send(store, claim.version, left.last, claim.epoch, 1_000)
            claim = store.claim(self.stream).result()
            spool.claim(claim.epoch, claim.version)
            self.first = claim.version
        version = store.claim(self.stream, epoch=spool.epoch).result().version
        # What a checkpoint of the log holds may have been dropped here.
        begin = max(self.first, version - again, spool.segments[0].first - 1)
        assert spool.epoch is not None
        self._send(store, begin, min(spool.version, version + limit), spool.epoch, limit + again)

    def _send(self, store: EventStore, version: int, upto: int, epoch: int, limit: int) -> None:
        while version < upto:
            frames = self.spool.read(version, limit=min(limit, upto - version))
            pairs = [decode_frame(msgspec.Raw(frame)) for frame in frames]
            append = Append(
                self.stream,
                [event for _, event in pairs],
                expected=version,
                epoch=epoch,
                occurred_at=[at for at, _ in pairs],
            )
            version = store.append(append).result()[0].version

    def close(self) -> None:
        self.spool.close()
        assert self._lock is not None
        self._lock.release()


class Follower:
    """Reads the log page by page through whatever happens, and keeps what it saw."""

    def __init__(self, after: int, streams: list[str] | None, types: list[str] | None) -> None:
        self.begin = self.position = after
        self.streams = streams
        self.types = types
        self.seen: list[tuple[int, str, int]] = []

    def catch_up(self, store: EventStore, limit: int) -> None:
        async def run() -> None:
            pages = subscribe(store, self.position, streams=self.streams, types=self.types, limit=limit)
            async with contextlib.aclosing(pages):
                async for page in pages:
                    if isinstance(page, CaughtUp):
                        self.position = page.position
                        return
                    self.position = page.position
                    self.seen += [(each.position, each.stream, each.version) for each in getattr(page, "events", ())]

        asyncio.run(run())

    def wants(self, event: Any) -> bool:
        return (
            event.position > self.begin
            and (self.streams is None or event.stream in self.streams)
            and (self.types is None or event.type in self.types)
        )


class Line(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="line-machine-"))
        self.incarnation = 0
        self.writers = {id: Writer(self.folder / "trainings" / id, id) for id in TRAININGS}
        self.followers: list[Follower] = []
        self.store = self.open(self.folder / "0")
        for id in TRAININGS:
            self.store.append(Append(f"control-{id}", [TrainingCreated(name=id)])).result()

    def open(self, folder: Path) -> EventStore:
        store = EventStore.open(folder / "log.duckdb", idle=3_600, recent_bytes=20_000, group=8)
        self.projections = Projections(store)
        self.projections.start()
        return store

    @rule(id=st.sampled_from(TRAININGS), steps=st.integers(1, 12), say=st.booleans())
    def emit(self, id: str, steps: int, say: bool) -> None:
        writer = self.writers[id]
        events: list[Event] = [step(writer.step + n) for n in range(1, steps + 1)]
        writer.step += steps
        writer.emit(*events, *([line("said")] if say else []))

    @rule(id=st.sampled_from(TRAININGS), back=st.integers(0, 15))
    def preempt(self, id: str, back: int) -> None:
        """A resume: steps beyond its checkpoint no longer count."""
        writer = self.writers[id]
        writer.step = max(0, writer.step - back)
        writer.emit(TrainingResumed(step=writer.step))

    @rule(id=st.sampled_from(TRAININGS), limit=st.integers(1, 30), again=st.integers(0, 5))
    def deliver(self, id: str, limit: int, again: int) -> None:
        self.writers[id].deliver(self.store, limit, again)

    @rule(id=st.sampled_from(TRAININGS))
    def kill_the_writer(self, id: str) -> None:
        self.writers[id].die()

    @rule(id=st.sampled_from(TRAININGS))
    def let_a_zombie_write(self, id: str) -> None:
        writer = self.writers[id]
        for epoch, version in writer.zombies:
            if epoch < self.store.epoch(writer.stream):
                append = Append(writer.stream, [step(1)], expected=version, epoch=epoch)
                assert isinstance(self.store.append(append).exception(), Fenced)

    @rule()
    def kill_the_server(self) -> None:
        """The files as they are at this moment are all that the next one has."""
        old, self.incarnation = self.folder / str(self.incarnation), self.incarnation + 1
        new = self.folder / str(self.incarnation)
        # Another process: a second opening here would end the lock that the store has on its file.
        subprocess.run(["cp", "-r", str(old), str(new)], check=True)
        log_id = self.store.log_id
        self.store.close()
        self.store = self.open(new)
        assert (self.store.lost, self.store.log_id) == (None, log_id)

    @rule(id=st.sampled_from(TRAININGS))
    def checkpoint(self, id: str) -> None:
        """What lies in the log's file itself is dropped from the spool."""
        assert self.store.checkpoint().result()
        writer = self.writers[id]
        writer.spool.upkeep()
        writer.spool.drop(self.store.checkpointed(writer.stream))

    @rule(
        share=st.floats(0, 1),
        streams=st.none() | st.lists(st.sampled_from([f"training-{id}" for id in TRAININGS]), min_size=1, max_size=2),
        types=st.none() | st.lists(st.sampled_from(TYPES), min_size=1, max_size=2),
    )
    def follow(self, share: float, streams: list[str] | None, types: list[str] | None) -> None:
        self.followers.append(Follower(int(share * self.store.head), streams, types))

    @rule(limit=st.integers(1, 20))
    def read(self, limit: int) -> None:
        for follower in self.followers:
            follower.catch_up(self.store, limit)

    @rule()
    def rebuild(self) -> None:
        before = self.projections.checksums()
        self.projections.rebuild()
        assert self.projections.checksums() == before

    @invariant()
    def every_stream_is_a_beginning_of_what_was_emitted(self) -> None:
        if not hasattr(self, "store"):
            return
        for writer in self.writers.values():
            found = self.store.read_stream(writer.stream, limit=100_000)
            assert [each.version for each in found] == list(range(1, len(found) + 1))
            assert [told(each.data) for each in found] == [told(each) for each in writer.emitted[: len(found)]]
            assert [each.occurred_at for each in found] == list(range(1, len(found) + 1))

    def compare(self) -> None:
        """With everything delivered, all of it is what was emitted."""
        for writer in self.writers.values():
            writer.deliver(self.store, 100_000, 3)
            assert self.store.version(writer.stream) == len(writer.emitted)
        self.every_stream_is_a_beginning_of_what_was_emitted()
        everything = self.store.read(0, limit=100_000).events
        assert [each.position for each in everything] == list(range(1, len(everything) + 1))
        for follower in self.followers:
            follower.catch_up(self.store, 7)
            wanted = [(each.position, each.stream, each.version) for each in everything if follower.wants(each)]
            assert follower.seen == wanted
        assert all(one.matches for one in self.projections.verify())
        for writer in self.writers.values():
            with self.store.reading() as con:
                table = metrics.history(con, writer.training, limit=100_000, order="asc")
            assert table["step"].to_pylist() == counted(writer.emitted)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.compare()
        finally:
            self.store.close()
            for writer in self.writers.values():
                writer.close()
            shutil.rmtree(self.folder)


def told(event: Event) -> tuple[str, int | None, str | None]:
    """What tells the events of this machine apart; figures are float32 in the log."""
    return event_type(event), getattr(event, "step", None), getattr(event, "message", None)


def counted(emitted: list[Event]) -> list[int]:
    """The steps that count: those that no later resume has gone back behind."""
    steps: list[int] = []
    for event in emitted:
        if event_type(event) == "StepTrained":
            steps.append(event.step)  # type: ignore[attr-defined]
        elif isinstance(event, TrainingResumed):
            steps = [each for each in steps if each <= event.step]
    return steps


class TestLine(Line.TestCase):
    settings = settings(max_examples=3, stateful_step_count=15)


@pytest.mark.slow
class TestLineLong(Line.TestCase):
    settings = settings(max_examples=15, stateful_step_count=40)
