"""The one follower of the process, and the cursors into what it brings."""

from __future__ import annotations

import asyncio

import pytest

from events.event import Recorded
from events.log import LogWritten
from events.wire import CaughtUp, Heartbeat, Subscribed
from ui import feed as feeds
from ui.feed import TICK, Cursor, Feed, next_call


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
    await asyncio.wait_for(called.wait(), 60)
    detach()
    called.clear()
    last = asyncio.Event()
    feed.attach(last.set)
    feed.take(Heartbeat(position=4))
    await asyncio.wait_for(last.wait(), 60)
    assert not called.is_set()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_that_the_connection_is_lost_is_known_within_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert feeds.WATCH + TICK < 3
    monkeypatch.setattr(feeds, "WATCH", 0.001)
    feed = Feed("http://127.0.0.1:9")
    told = asyncio.Event()
    running = asyncio.create_task(feed.run())
    feed.take(Subscribed(log_id="a", after=3, head=3))
    assert feed.away is None
    feed.attach(lambda: told.set() if feed.away else None)
    await asyncio.wait_for(told.wait(), 60)
    assert feed.away == "The connection to the server is lost."
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("late", [0.0, 0.3, 0.49])
def test_what_happens_ten_times_a_second_is_shown_as_often_and_a_flood_no_oftener(late: float) -> None:
    """Events at every tick, then at every thousandth; a busy loop makes each call `late` by that share of a tick."""

    def calls(events: list[float]) -> int:
        due, count, waiting = 0.0, 0, iter(events)
        event = next(waiting, None)
        while event is not None:
            now = max(due, event) + late * TICK
            count += 1
            due = next_call(due, now)
            event = next((one for one in waiting if one > now), None)
        return count

    assert calls([TICK * number for number in range(100)]) >= 99
    assert calls([TICK * number / 1_000 for number in range(100_000)]) <= 101
