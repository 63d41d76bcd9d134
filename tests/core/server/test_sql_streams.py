"""What a streamed answer holds, and when it lets go of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, cast

from core.server.sql_child import _Streamed
from projections.ask import Question


class Watched:
    """A question that says what was done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.given_up = threading.Event()
        self.closed = asyncio.Event()

    def give_up(self) -> None:
        self.done.append("given up")
        self.given_up.set()

    def close(self) -> None:
        self.done.append("closed")
        self.closed.set()


async def test_a_question_is_closed_only_when_its_thread_has_left_it() -> None:
    question, working, left = Watched(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        loop.call_soon_threadsafe(working.set)
        question.given_up.wait(60)
        # DuckDB listens to an interrupt some time later.
        left.wait(60)
        question.done.append("thread left")

    async def receive() -> Any:
        await working.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    answer = _Streamed(cast(Question, question), pieces(), "text/plain")
    await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert question.done == ["given up"]
    left.set()
    async with asyncio.timeout(60):
        await question.closed.wait()
    assert question.done == ["given up", "thread left", "closed"]


async def test_a_question_whose_client_has_gone_before_its_first_piece_is_closed_too() -> None:
    question = Watched()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()

    answer = _Streamed(cast(Question, question), iter([b"first"]), "text/plain")
    await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert question.done == ["given up", "closed"]
