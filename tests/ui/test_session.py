"""What the pages of one tab share: when they ask again, and which news are told."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from one_tab import Tab

from events.event import Recorded
from events.training import TrainingCompleted
from events.wire import CaughtUp, Subscribed
from ui.session import Refresh


def nothing(request: httpx.Request) -> httpx.Response:
    return httpx.Response(500)


async def test_who_has_stopped_asking_is_not_made_to_ask_again() -> None:
    tab = Tab(nothing)
    asked: list[int] = []

    async def ask() -> None:
        asked.append(len(asked))

    refresh = Refresh(tab.session, ask, pause=60.0)
    refresh.want()
    await tab.until(lambda: asked == [0])
    refresh.want(now=True)
    await tab.until(lambda: asked == [0, 1])
    refresh.want(now=True)
    # At the very moment at which it would go on.
    refresh.stop()
    # An answer that was on its way when the page was left.
    refresh.want(now=True)
    await tab.until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert asked == [0, 1]


async def test_of_many_news_at_once_only_the_newest_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        id = request.url.path.rpartition("/")[2]
        asked.append(id)
        return httpx.Response(200, json={"id": id, "name": id, "status": "completed", "position": 0})

    tab = Tab(answer)
    said: list[str] = []
    monkeypatch.setattr(tab.session.toasts, "say", lambda toast: said.append(toast["title"]))
    tab.feed.take(Subscribed(log_id="a", after=0, head=0))
    tab.feed.take(CaughtUp(position=0))
    tab.feed.take([completed(position) for position in range(1, 8)])
    tab.wake()
    await tab.until(lambda: len(said) >= 4)
    assert asked == ["4", "5", "6", "7"]
    assert said == [f"{id} is completed" for id in asked]


async def test_news_are_told_by_id_where_nobody_answers_and_another_logs_past_is_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tab = Tab(nothing)
    said: list[str] = []
    monkeypatch.setattr(tab.session.toasts, "say", lambda toast: said.append(toast["title"]))
    tab.feed.take(Subscribed(log_id="a", after=0, head=0))
    tab.feed.take([completed(1)])
    tab.wake()
    await tab.until(lambda: said == ["1 is completed"])
    tab.feed.take(Subscribed(log_id="b", after=0, head=2))
    tab.feed.take([completed(1), completed(2)])
    tab.wake()
    tab.turn()
    tab.feed.take([completed(3)])
    tab.wake()
    await tab.until(lambda: len(said) >= 2)
    assert said == ["1 is completed", "3 is completed"]


def completed(position: int) -> Recorded:
    return Recorded(
        position=position,
        stream=f"training-{position}",
        version=1,
        type="TrainingCompleted",
        occurred_at=0,
        recorded_at=0,
        data=TrainingCompleted(step=9),
    )
