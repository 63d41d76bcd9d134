"""Questions in SQL about everything that the log holds."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ..answers import SqlAnswer, SqlSchema
from ..components.sql_console import SqlConsole
from ..gateway import ApiError, ApiRefused
from ..session import Route, Session, unparse
from ..state import answer_chart
from .answer_chart import AnswerChart

ROWS = 10_000
"""Rows that a page asks for, and draws."""

SHOWN = 1_000
"""Rows of them that it shows as a table."""

WHOLE = {"limit": 10_000_000, "seconds": 300}
"""What the API gives at most: a download asks for it, past this process."""

_AWAY = 503
_PAUSE = 1.0


class SqlPage:
    """One question at a time; the statement is part of the address, so that a link shows it.

    What stands in the editor is the browser's alone: it begins with the link's statement and is never sent again.
    """

    title = "SQL"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._linked = self._statement = route.get("q", "")
        self._schema: SqlSchema | None = None
        self._answer: dict[str, Any] | None = None
        self._problem = ""
        self._doing = ""
        # The number of the newest question; what comes for another one is nobody's any more.
        self._number = 0
        self._answered = 0
        self._task: asyncio.Task[None] | None = None
        self._console = SqlConsole(sizing_mode="stretch_width")
        self._console.on_action(self._act)
        self._chart = AnswerChart(answer_chart.asked(route), self._address)

    def body(self) -> list[Any]:
        return [self._console, self._chart.root]

    def open(self) -> None:
        self._show()
        self._session.spawn(self._load())

    def push(self) -> None:
        # An answer is true at its position and stays as it is.
        pass

    def close(self) -> None:
        self._give_up()

    async def _load(self) -> None:
        try:
            schema = await self._session.gateway.sql_schema()
        except ApiError as error:
            reason = f"What can be asked could not be loaded: {error}"
            self._session.change(lambda: self._set(doing=self._doing, problem=reason))
        else:
            self._session.change(lambda: self._take_schema(schema))

    def _take_schema(self, schema: SqlSchema) -> None:
        self._schema = schema
        self._show()

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "run":
                self._give_up()
                statement = str(message.get("statement", ""))
                self._statement = statement
                self._address()
                self._set(doing="Asking …")
                self._task = self._session.spawn(self._ask(statement, self._number))
            case "cancel" if self._doing:
                self._give_up()
                self._set(problem="The question was given up.")

    def _address(self) -> None:
        """Let the address show what is asked, and how its answer is drawn."""
        self._session.router.replace(unparse({"page": "sql", "q": self._statement}) + self._chart.link)

    def _give_up(self) -> None:
        self._number += 1
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, statement: str, number: int) -> None:
        while True:
            try:
                answer = await self._session.gateway.sql(statement, limit=ROWS)
            except ApiError as error:
                reason = str(error)
                if isinstance(error, ApiRefused) and error.status == _AWAY and "rebuilding" in reason:
                    self._say(number, doing=reason)
                    await asyncio.sleep(_PAUSE)
                    continue
                self._say(number, problem=reason)
            else:
                self._say(number, answer=answer)
            return

    def _say(self, number: int, **news: Any) -> None:
        self._session.change(lambda: self._set(**news) if number == self._number else None)

    def _set(self, *, doing: str = "", problem: str = "", answer: SqlAnswer | None = None) -> None:
        self._doing, self._problem = doing, problem
        if answer is not None:
            self._answer, self._answered = shown(answer) | {"statement": self._statement}, self._number
            self._chart.take(answer)
        self._show()

    def _show(self) -> None:
        self._console.present(
            {
                "statement": self._linked,
                "doing": self._doing,
                "problem": self._problem,
                "answer": self._answer,
                "before": self._answered != self._number,
                "whole": WHOLE,
                "schema": None if self._schema is None else msgspec.to_builtins(self._schema),
            }
        )


def shown(answer: SqlAnswer) -> dict[str, Any]:
    """An answer as text: NULL and other values are told apart by `null`."""
    rows = "1 row" if answer.rows == 1 else f"{answer.rows:,} rows"
    if answer.cut:
        rows = f"More than {rows}"
    cut = f"Only the first {SHOWN:,} rows are here; a download has all of them." if len(answer.data) > SHOWN else ""
    behind = f"; the log was at {answer.head:,}" if answer.head > answer.position else ""
    return {
        "columns": [{"name": column.name, "type": column.type} for column in answer.columns],
        "rows": [[None if value is None else _text(value) for value in row] for row in answer.data[:SHOWN]],
        "numeric": [answer_chart.kind(column) == "number" for column in answer.columns],
        "summary": f"{rows} in {answer.seconds:.2f} s, true at position {answer.position:,}{behind}.",
        "cut": cut,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
