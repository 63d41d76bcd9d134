"""Questions in SQL."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from core.fields import Problem
from projections.questions import QUESTIONS
from projections.views import VIEWS

from .. import problems
from .operation import Call

ROWS = {"json": 10_000, "arrow": 1_000_000, "csv": 1_000_000, "parquet": 1_000_000}
"""How many rows an answer has at most, where nothing else is said."""

MOST = {"json": 100_000, "arrow": 10_000_000, "csv": 10_000_000, "parquet": 10_000_000}
"""How many rows may be asked for."""

_SIZES = {"json": 64 << 20, "arrow": 4 << 30, "csv": 4 << 30, "parquet": 4 << 30}


class AskSql(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question in DuckDB's SQL about the views that `saestudio sql --schema` describes."""

    statement: Annotated[str, Meta(description="One SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN.")]
    parameters: Annotated[
        list[Any] | dict[str, Any], Meta(description="Values for $1, $2 …, or by name for $name.")
    ] = []
    format: Literal["json", "arrow", "csv", "parquet"] = "json"
    limit: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=10_000_000,
                description="Rows at most: by default 10,000 as json (which may have 100,000), else 1,000,000.",
            ),
        ]
        | None
    ) = None
    seconds: Annotated[float, Meta(gt=0, le=300, description="How long DuckDB may work on it.")] = 30.0
    after: Annotated[
        int, Meta(ge=0, description="Answer with this position in, for which the question waits a moment.")
    ] = 0


class SqlColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of an answer, with DuckDB's type."""

    name: str
    type: str


class SqlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, true at `position`; the log had come to `head`.

    `data` has a list for each row. `cut` says why rows are missing, None: none are. `seconds` is what it took.
    """

    columns: list[SqlColumn]
    data: list[list[Any]]
    rows: int
    cut: str | None
    position: int
    head: int
    seconds: float


class SqlView(msgspec.Struct, frozen=True, kw_only=True):
    """A view that can be asked; `columns` says what each column means."""

    name: str
    comment: str
    columns: dict[str, str]


class SqlSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked; `questions` are worked out, each with its statement."""

    views: list[SqlView]
    questions: dict[str, str]


async def get_sql_schema(call: Call) -> SqlSchema:
    """The views that can be asked in SQL, and twenty questions to begin with."""
    shown = [
        SqlView(name=view.name, comment=view.comment, columns={name: said for name, (_, said) in view.columns.items()})
        for view in VIEWS
    ]
    return SqlSchema(views=shown, questions={title: statement.strip() for title, statement in QUESTIONS.items()})


async def ask_sql(call: Call) -> Response:
    """Answer a question in SQL, from a replica of the log that no question can harm.

    The answer is true at one position. As Arrow it is streamed: the schema's metadata has `position` and `head`, and a
    last batch without rows says in its own metadata how many `rows` there were, why they were `cut`, and what `error`
    ended the question before its end. CSV and Parquet are streamed too and have no place for that: what would be cut,
    or goes wrong on the way, is a body that breaks off. A reader that takes nothing for half a minute loses its place
    to whoever waits for one. 503 with `Retry-After` while the replica is being filled, or while others have all places.
    """
    asked = call.body(AskSql)
    if asked.limit is not None and asked.limit > MOST[asked.format]:
        reason = f"limit may be {MOST[asked.format]:,} as {asked.format}, not {asked.limit:,}."
        raise problems.invalid([Problem("limit", reason)])
    body = {
        "statement": asked.statement,
        "parameters": asked.parameters,
        "format": asked.format,
        "rows": asked.limit or ROWS[asked.format],
        "size": _SIZES[asked.format],
        "seconds": asked.seconds,
        "after": asked.after,
    }
    return await call.studio.analyst.ask(call.request, body, asked.seconds)
