"""The one follower of the process, and the cursors into what it brings."""

from __future__ import annotations

import asyncio

import pytest

from events.event import Recorded
from events.log import LogWritten
from events.wire import CaughtUp, Heartbeat, Subscribed
from ui import feed as feeds
from ui.feed import Cursor, Feed


def recorded(position: int, stream: str = "training-one") -> Recorded:
    return Recorded(
        position=position,
        stream=stream,
        version=position,
        type="LogWritten",
        occurred_at=0,
        recorded_at=0,
        data=LogWritten(level="INFO", logger="x", message=str(position)),
    )


def positions(events: list[Recorded] | None) -> list[int] | None:
    return None if events is None else [one.position for one in events]


@pytest.fixture
async def feed() -> Feed:
    feed = Feed("http://127.0.0.1:9")
    feed.take(Subscribed(log_id="a", after=10, head=10))
    feed.take(CaughtUp(position=10))
    return feed


async def test_a_cursor_gets_every_event_once_in_order(feed: Feed) -> None:
    cursor = Cursor(feed)
    cursor.position = 10
    feed.take([recorded(11), recorded(12)])
    assert positions(cursor.take()) == [11, 12]
    assert positions(cursor.take()) == []
    feed.take([recorded(13)])
    assert positions(cursor.take()) == [13]


async def test_a_cursor_ahead_of_the_feed_leaves_out_what_its_answer_held(feed: Feed) -> None:
    cursor = Cursor(feed)
    cursor.position = 12
    feed.take([recorded(11)])
    assert positions(cursor.take()) == []
    assert cursor.position == 12
    feed.take([recorded(12), recorded(13)])
    assert positions(cursor.take()) == [13]


async def test_a_cursor_of_some_streams_moves_past_the_others(feed: Feed) -> None:
    cursor = Cursor(feed, ("training-one",))
    cursor.position = 10
    feed.take([recorded(11, "training-two"), recorded(12)])
    assert positions(cursor.take()) == [12]
    assert cursor.position == 12


async def test_a_cursor_that_lags_too_far_is_told_so(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT", 5)
    cursor = Cursor(feed)
    cursor.position = 10
    for position in range(11, 40):
        feed.take([recorded(position)])
    assert cursor.take() is None
    assert cursor.position == 10
    cursor.position = feed.position - 5
    assert positions(cursor.take()) == list(range(35, 40))


async def test_a_page_that_asks_for_the_whole_is_told_once_that_something_concerns_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "KEPT", 5)
    cursor = Cursor(feed)
    cursor.position = 10
    assert not cursor.has_news()
    feed.take([recorded(11, "template-a")])
    assert not cursor.has_news(lambda one: one.stream == "template-b")
    feed.take([recorded(12, "template-b"), recorded(13)])
    assert cursor.has_news(lambda one: one.stream == "template-b")
    assert not cursor.has_news()
    for position in range(14, 40):
        feed.take([recorded(position)])
    assert cursor.has_news(lambda one: False), "some of it is gone"
    assert (cursor.has_news(), cursor.position) == (False, 39)


async def test_a_position_from_before_the_feed_began_is_a_gap(feed: Feed) -> None:
    assert feed.since(9) is None
    assert feed.since(10) == []


async def test_a_connection_made_again_goes_on_without_a_gap(feed: Feed) -> None:
    cursor = Cursor(feed)
    cursor.position = 10
    feed.take([recorded(11)])
    feed.away = "gone"
    feed.take(Subscribed(log_id="a", after=11, head=12))
    assert feed.away is None
    feed.take([recorded(12)])
    assert positions(cursor.take()) == [11, 12]


async def test_another_log_is_a_gap_for_everybody(feed: Feed) -> None:
    cursor = Cursor(feed)
    cursor.position = 10
    feed.take([recorded(11)])
    feed.take(Subscribed(log_id="b", after=400, head=400))
    assert feed.log_id == "b"
    assert cursor.take() is None


async def test_pages_are_called_when_something_happens_and_not_after_they_left() -> None:
    feed = Feed("http://127.0.0.1:9")
    called = asyncio.Event()
    detach = feed.attach(called.set)
    running = asyncio.create_task(feed.run())
    feed.take(Heartbeat(position=3))
    await asyncio.wait_for(called.wait(), 5)
    detach()
    called.clear()
    last = asyncio.Event()
    feed.attach(last.set)
    feed.take(Heartbeat(position=4))
    await asyncio.wait_for(last.wait(), 5)
    assert not called.is_set()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_comes_ten_times_a_second_but_unevenly_reaches_pages_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    feed = Feed("http://127.0.0.1:9")
    calls: list[tuple[float, int]] = []
    feed.attach(lambda: calls.append((clock.now, feed.position)))
    task = asyncio.create_task(feed._call())
    late = (0.0, 0.03, 0.0, 0.02, 0.04, 0.01, 0.0, 0.03, 0.01, 0.0)
    for number in range(100):
        await clock.reach(number / 10 + late[number % 10])
        feed.take(Heartbeat(position=number))
    await clock.reach(11)
    assert [position for _, position in calls] == list(range(100))
    # More than that is taken together, ten times a second.
    calls.clear()
    for number in range(300):
        await clock.reach(20 + number / 100)
        feed.take(Heartbeat(position=1_000 + number))
    await clock.reach(24)
    assert 29 <= len(calls) <= 32
    assert calls[-1][1] == 1_299
    task.cancel()


class Clock:
    """The running loop's time, as a test moves it on: it sleeps as long as that says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._sleeping: list[tuple[float, asyncio.Event]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)
        monkeypatch.setattr(feeds.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        self._sleeping.append((self.now + seconds, over))
        await over.wait()

    async def reach(self, when: float) -> None:
        """Let all happen that happens until `when`."""
        while due := [one for one in self._sleeping if one[0] <= when]:
            first = min(due, key=lambda one: one[0])
            self._sleeping.remove(first)
            self.now = max(self.now, first[0])
            first[1].set()
            await self._settle()
        self.now = when
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(5):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn
