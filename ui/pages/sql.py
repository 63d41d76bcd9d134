"""Questions in SQL about everything that the log holds."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ..components.sql_console import SqlConsole
from ..gateway import ApiError, ApiRefused, SqlAnswer, SqlSchema
from ..session import Route, Session, unparse

ROWS = 1_000
"""Rows that a page shows; the command line and the API give more."""

_AWAY = 503
_PAUSE = 1.0


class SqlPage:
    """One question at a time; the statement is part of the address, so that a link shows it."""

    title = "SQL"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._statement = route.get("q", "")
        self._schema: SqlSchema | None = None
        self._answer: dict[str, Any] | None = None
        self._problem = ""
        self._doing = ""
        self._task: asyncio.Task[None] | None = None
        self._console = SqlConsole(sizing_mode="stretch_width")
        self._console.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._console]

    def open(self) -> None:
        self._show()
        self._session.spawn(self._load())

    def push(self) -> None:
        # An answer is true at its position and stays as it is.
        pass

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _load(self) -> None:
        try:
            schema = await self._session.gateway.sql_schema()
        except ApiError as error:
            reason = f"What can be asked could not be loaded: {error}"
            self._session.change(lambda: self._end(reason))
        else:
            self._session.change(lambda: self._take_schema(schema))

    def _take_schema(self, schema: SqlSchema) -> None:
        self._schema = schema
        self._show()

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "run" if not self._doing:
                self._statement = str(message.get("statement", ""))
                self._session.router.replace(unparse({"page": "sql", "q": self._statement}))
                self._doing, self._problem = "Asking …", ""
                self._show()
                self._task = self._session.spawn(self._ask(self._statement))
            case "cancel" if self._task is not None:
                self._task.cancel()
                self._end("The question was given up.")

    async def _ask(self, statement: str) -> None:
        while True:
            try:
                answer = await self._session.gateway.sql(statement, limit=ROWS)
            except ApiRefused as refused:
                reason = str(refused)
                if refused.status == _AWAY and "rebuilding" in reason:
                    self._session.change(lambda reason=reason: self._say(reason))
                    await asyncio.sleep(_PAUSE)
                    continue
                self._session.change(lambda reason=reason: self._end(reason))
            except ApiError as error:
                reason = str(error)
                self._session.change(lambda reason=reason: self._end(reason))
            else:
                self._session.change(lambda answer=answer: self._take(answer))
            return

    def _say(self, doing: str) -> None:
        if self._doing:
            self._doing = doing
            self._show()

    def _end(self, problem: str) -> None:
        self._doing, self._problem = "", problem
        self._show()

    def _take(self, answer: SqlAnswer) -> None:
        if self._doing:
            self._doing, self._answer = "", shown(answer)
            self._show()

    def _show(self) -> None:
        self._console.present(
            {
                "statement": self._statement,
                "doing": self._doing,
                "problem": self._problem,
                "answer": self._answer,
                "schema": None if self._schema is None else msgspec.to_builtins(self._schema),
            }
        )


def shown(answer: SqlAnswer) -> dict[str, Any]:
    """An answer as text: NULL and other values are told apart by `null`."""
    rows = "1 row" if answer.rows == 1 else f"{answer.rows:,} rows"
    behind = f"; the log was at {answer.head:,}" if answer.head > answer.position else ""
    return {
        "columns": [{"name": column.name, "type": column.type} for column in answer.columns],
        "rows": [[None if value is None else _text(value) for value in row] for row in answer.data],
        "numeric": [_is_numeric(column.type) for column in answer.columns],
        "summary": f"{rows} in {answer.seconds:.2f} s, true at position {answer.position:,}{behind}.",
        "cut": answer.cut or "",
    }


def _is_numeric(kind: str) -> bool:
    return kind.partition("(")[0] in {
        *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
