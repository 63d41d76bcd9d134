"""The page for questions in SQL, without a browser: which answer is shown of several that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from ui.answers import SqlAnswer, SqlColumn
from ui.gateway import ApiAway
from ui.pages.sql import SqlPage
from ui.session import Session


class Asking:
    """A session and its gateway: what a page asks is answered when a test says so, also when nobody waits any more."""

    def __init__(self) -> None:
        self.gateway = self
        self.router = self
        self.asked: dict[str, asyncio.Future[SqlAnswer]] = {}
        self.schema: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.changes: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def replace(self, url: str) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    def change(self, change: Callable[[], None]) -> None:
        self.changes.append(change)

    async def sql(self, statement: str, *, limit: int) -> SqlAnswer:
        self.asked[statement] = asyncio.get_running_loop().create_future()
        return await self.asked[statement]

    async def sql_schema(self) -> Any:
        return await self.schema

    async def settle(self) -> None:
        """Everything that is under way goes as far as it can, and no change has been made yet."""
        for _ in range(5):
            await asyncio.sleep(0)

    def made(self) -> None:
        """The changes reach the document."""
        for change in self.changes:
            change()
        self.changes.clear()


@pytest.fixture
async def asking() -> Asking:
    return Asking()


def page_of(asking: Asking) -> tuple[SqlPage, Callable[[], dict[str, Any]]]:
    page = SqlPage(cast(Session, asking), {"page": "sql", "q": "SELECT 0"})
    shown: list[dict[str, Any]] = []
    page._console.present = lambda view: shown.append(view)
    page.open()
    return page, lambda: shown[-1]


def answer(value: int) -> SqlAnswer:
    return SqlAnswer(columns=(SqlColumn(name="n", type="INTEGER"),), data=([value],), rows=1)


async def test_an_answer_that_comes_after_its_question_was_given_up_is_not_shown(asking: Asking) -> None:
    page, shown = page_of(asking)
    page._act("run", {"statement": "SELECT 1"})
    await asking.settle()
    asking.asked["SELECT 1"].set_result(answer(1))
    await asking.settle()
    # It has come and waits for the document's lock, when somebody gives it up and asks something else.
    page._act("cancel", {})
    assert shown()["problem"] == "The question was given up."
    page._act("run", {"statement": "SELECT 2"})
    asking.made()
    await asking.settle()
    assert (shown()["doing"], shown()["answer"]) == ("Asking …", None)
    asking.asked["SELECT 2"].set_result(answer(2))
    await asking.settle()
    asking.made()
    assert (shown()["doing"], shown()["answer"]["rows"], shown()["before"]) == ("", [["2"]], False)


async def test_a_newer_question_takes_the_place_of_the_one_before(asking: Asking) -> None:
    page, shown = page_of(asking)
    page._act("run", {"statement": "SELECT 1"})
    await asking.settle()
    page._act("run", {"statement": "SELECT 2"})
    await asking.settle()
    assert asking.asked["SELECT 1"].cancelled()
    asking.asked["SELECT 2"].set_exception(ApiAway("The server cannot be reached."))
    await asking.settle()
    asking.made()
    assert (shown()["doing"], shown()["problem"]) == ("", "The server cannot be reached.")


async def test_what_arrives_late_leaves_the_question_alone_and_never_sends_a_statement(asking: Asking) -> None:
    page, shown = page_of(asking)
    page._act("run", {"statement": "SELECT 1"})
    await asking.settle()
    asking.schema.set_exception(ApiAway("The server cannot be reached."))
    await asking.settle()
    asking.made()
    assert shown()["doing"] == "Asking …"
    assert "could not be loaded" in shown()["problem"]
    asking.asked["SELECT 1"].set_result(answer(1))
    await asking.settle()
    asking.made()
    assert shown()["answer"]["rows"] == [["1"]]
    # The browser has the text: the link's is all that it is ever told.
    assert shown()["statement"] == "SELECT 0"
    page._act("run", {"statement": "SELECT 2"})
    assert shown()["before"]
