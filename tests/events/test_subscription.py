"""Catch-up and live are one loop: every position once, in order, whoever is slow and whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.batch import Page
from events.errors import LogClosed, PositionBeyondHead
from events.log import LogWritten
from events.memory import MemoryStore
from events.store import EventStore
from events.streams import Append
from events.subscription import subscribe
from events.training import StepTrained
from events.wire import CaughtUp, Heartbeat


def line(text: str) -> LogWritten:
    return LogWritten(level="INFO", logger="test", message=text)


def step(number: int) -> StepTrained:
    return StepTrained(
        step=number, loss=0.5, loss_reconstruction=0.5, l0=16.0, l0_fraction=0.01, fvu=0.25, learning_rate=1e-4,
        grad_norm=1.0, tokens=number, tokens_per_second=5e4,
    )  # fmt: skip


@pytest.fixture(params=["recent", "in the file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "log.duckdb"
    made: Any
    match request.param:
        case "memory":
            made = MemoryStore()
        case "recent":
            made = EventStore.open(path)
        case _:
            made = EventStore.open(path, recent_bytes=20_000)
    with made:
        yield made


async def until_position(messages: AsyncIterator[Any], position: int) -> list[Any]:
    """All messages up to the one that says that `position` was reached."""
    found: list[Any] = []
    async for message in messages:
        found.append(message)
        if message.position >= position:
            return found
    raise AssertionError("the subscription ended")


def positions(messages: list[Any]) -> list[int]:
    return [event.position for message in messages if isinstance(message, Page) for event in message.events]


async def test_a_follower_from_the_start_and_one_from_the_middle_get_each_position_once(store: Any) -> None:
    for number in range(1, 101):
        store.append(Append("a", [line(str(number)), step(number)]))
    store.append(Append("a", [line("last")])).result()
    appending = threading.Thread(
        target=lambda: [store.append(Append("b", [step(n), line(str(n))])).result() for n in range(1, 101)]
    )

    async def follow(after: int, limit: int) -> list[Any]:
        found: list[Any] = []
        async with contextlib.aclosing(subscribe(store, after, limit=limit)) as messages:
            # A follower that never overtakes the appends catches up only at their end.
            while not any(isinstance(each, CaughtUp) for each in found) or found[-1].position < 401:
                found.append(await anext(messages))
        return found

    following = [asyncio.create_task(follow(*each)) for each in ((0, 1_000), (0, 7), (150, 50), (201, 1_000))]
    await asyncio.sleep(0)
    appending.start()
    for after, task in zip((0, 0, 150, 201), following, strict=True):
        messages = await task
        assert positions(messages) == list(range(after + 1, 402))
        assert sum(isinstance(message, CaughtUp) for message in messages) == 1
    appending.join()


async def test_caught_up_comes_once_after_all_that_was_there(store: Any) -> None:
    store.append(Append("a", [line(str(n)) for n in range(10)])).result()
    async with contextlib.aclosing(subscribe(store, 0, limit=4)) as messages:
        before = [await anext(messages) for _ in range(4)]
        assert [len(message) for message in before[:3]] == [4, 4, 2]
        assert before[3] == CaughtUp(position=10)
        store.append(Append("a", [line("live")])).result()
        live = await anext(messages)
        assert [event.data for event in live.events] == [line("live")]
        store.append(Append("a", [line("more")])).result()
        assert not isinstance(await anext(messages), CaughtUp)


async def test_of_an_empty_log_one_is_caught_up_at_once(store: Any) -> None:
    async with contextlib.aclosing(subscribe(store, 0)) as messages:
        assert await anext(messages) == CaughtUp(position=0)


async def test_a_filtered_follower_gets_what_it_asks_for_and_a_resume_token_in_silence(store: Any) -> None:
    store.append(Append("a", [step(n) for n in range(1, 6)])).result()
    async with contextlib.aclosing(
        subscribe(store, 0, streams=["b"], types=["LogWritten"], heartbeat=0.05)
    ) as messages:
        assert await anext(messages) == CaughtUp(position=5)
        store.append(Append("b", [step(1)])).result()
        store.append(Append("a", [line("no")])).result()
        heartbeat = await anext(messages)
        while heartbeat.position < 7:
            assert isinstance(heartbeat, Heartbeat)
            heartbeat = await anext(messages)
        store.append(Append("b", [line("yes"), step(2)])).result()
        message = await anext(messages)
        while isinstance(message, Heartbeat):
            message = await anext(messages)
        assert [event.data for event in message.events] == [line("yes")]


async def test_a_heartbeat_comes_after_silence_and_not_before(store: Any) -> None:
    async with contextlib.aclosing(subscribe(store, 0, heartbeat=0.2)) as messages:
        assert await anext(messages) == CaughtUp(position=0)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            begun = loop.time()
            assert await anext(messages) == Heartbeat(position=0)
            assert loop.time() - begun >= 0.15
    # An event ends a silence that would be endless.
    async with contextlib.aclosing(subscribe(store, 0, heartbeat=3_600)) as messages:
        assert await anext(messages) == CaughtUp(position=0)
        asking = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        store.append(Append("a", [line("1")])).result()
        assert len(await asyncio.wait_for(asking, 60)) == 1


async def test_a_position_that_the_log_has_not_reached_is_refused(store: Any) -> None:
    with pytest.raises(PositionBeyondHead):
        await anext(subscribe(store, 1))


async def test_closing_the_log_ends_every_subscription(store: Any) -> None:
    async def follow() -> None:
        async for _ in subscribe(store, 0):
            pass

    following = [asyncio.create_task(follow()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(store.close)
    for task in following:
        with pytest.raises(LogClosed):
            await asyncio.wait_for(task, 60)


async def test_a_subscription_that_ends_leaves_no_listener(store: Any) -> None:
    async with contextlib.aclosing(subscribe(store, 0)) as messages:
        await anext(messages)
        assert len(store._listeners) == 1
    assert store._listeners == []
    messages = subscribe(store, 0)
    await anext(messages)
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert store._listeners == []


class Counting:
    """A log that counts what its reader holds at once."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.reads = 0

    @property
    def head(self) -> int:
        return self.store.head

    def listen(self, callback: Callable[[int], None]) -> Callable[[], None]:
        return self.store.listen(callback)

    def recent(self, after: int, **matching: Any) -> Page | None:
        self.reads += 1
        return self.store.recent(after, **matching)

    def read(self, after: int, **matching: Any) -> Page:
        return self.store.read(after, **matching)


async def test_a_slow_reader_holds_one_page_whatever_happens_meanwhile() -> None:
    store = MemoryStore()
    log = Counting(store)
    store.append(Append("a", [line("0")])).result()
    async with contextlib.aclosing(subscribe(log, 0, limit=10)) as messages:
        await anext(messages)
        for number in range(500):
            store.append(Append("a", [line(str(number))])).result()
            if number % 50 == 0:
                await asyncio.sleep(0)
        # Nothing was read for it, and nothing waits in its event loop.
        assert log.reads == 1
        page = await anext(messages)
        assert (page.after, len(page), log.reads) == (1, 10, 2)


@settings(max_examples=30)
@given(
    commits=st.lists(st.lists(st.sampled_from("abL"), min_size=1, max_size=6), max_size=25),
    after=st.integers(0, 40),
    streams=st.sampled_from([None, ["a"], ["b"], ["a", "b"], ["none"]]),
    types=st.sampled_from([None, ["StepTrained"], ["LogWritten"]]),
    limit=st.integers(1, 9),
    live=st.integers(0, 25),
)
def test_whatever_is_followed_arrives_once_and_in_order(
    commits: list[list[str]],
    after: int,
    streams: Collection[str] | None,
    types: Collection[str] | None,
    limit: int,
    live: int,
) -> None:
    store = MemoryStore()
    plain: list[tuple[str, str]] = []

    def append(commit: list[str]) -> None:
        appends: list[Append] = []
        for kind in commit:
            stream = "a" if kind == "a" else "b"
            appends.append(Append(stream, [line("") if kind == "L" else step(1)]))
            plain.append((stream, "LogWritten" if kind == "L" else "StepTrained"))
        store.append(*appends).result()

    for commit in commits[live:]:
        append(commit)
    begin = min(after, store.head)

    async def follow() -> list[int]:
        found: list[int] = []
        todo = commits[:live]
        async with contextlib.aclosing(
            subscribe(store, begin, streams=streams, types=types, limit=limit, heartbeat=0)
        ) as messages:
            async for message in messages:
                if isinstance(message, Page):
                    assert 0 < len(message) <= limit
                    found += [event.position for event in message.events]
                    assert message.position >= found[-1]
                if todo:
                    append(todo.pop())
                elif message.position == store.head:
                    return found
        raise AssertionError

    found = asyncio.run(follow())
    expected = [
        position
        for position, (stream, type_) in enumerate(plain, 1)
        if position > begin and (streams is None or stream in streams) and (types is None or type_ in types)
    ]
    assert found == expected
