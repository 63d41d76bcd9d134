"""The log lines of trainings."""

from __future__ import annotations

from typing import cast

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.event import Recorded
from events.log import LogWritten

from .projection import Projection, at_least, int64, one_of, training_of
from .table import Table

SEVERITY = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
"""The levels, as Python's `logging` numbers them."""


class Line(msgspec.Struct, frozen=True):
    """A row of the table `logs`; `occurred_at` in µs since 1970 (UTC)."""

    training: str
    version: int
    position: int
    occurred_at: int
    severity: int
    level: str
    logger: str
    message: str


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """A log line. `version` is its place in the training's stream; `timestamp` in µs since 1970 (UTC)."""

    version: int
    position: int
    timestamp: int
    level: str
    logger: str
    message: str


LOGS = Table("logs", Line, ("training", "version"))


class Logs(Projection):
    """Every log line, also of attempts that a resume has preempted."""

    name = "logs"
    types = frozenset({"LogWritten"})
    schema = (LOGS,)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        lines: list[Line] = []

        def take(recorded: Recorded) -> None:
            event = cast(LogWritten, recorded.data)
            lines.append(
                Line(
                    training_of(recorded.stream),
                    recorded.version,
                    recorded.position,
                    recorded.occurred_at,
                    SEVERITY[event.level],
                    event.level,
                    event.logger,
                    event.message,
                )
            )

        self.each(batch, take)
        self.tables[0].insert(con, lines, self.skip)


def lines(
    con: DuckDBPyConnection,
    id: str,
    *,
    limit: int = 50,
    before: int | None = None,
    after: int | None = None,
    level: str | None = None,
    q: str | None = None,
    order: str = "desc",
) -> list[LogRow]:
    """The training's newest lines (`order` desc, newest first) or its oldest (asc), at most `limit`.

    `before` and `after` are versions, exclusive; `level` is the lowest that is shown; `q` is looked for in logger and
    message, whatever its case, as it stands (no wildcards). Raises `QueryRefused`.
    """
    limit = at_least("limit", limit, 1)
    one_of("order", order, ("asc", "desc"))
    conditions, parameters = ["training = ?"], [id]
    for column, comparison, value in (("version", "<", before), ("version", ">", after)):
        if value is not None:
            conditions.append(f"{column} {comparison} {int64(value)}")
    if level is not None:
        conditions.append(f"severity >= {SEVERITY[one_of('level', level.upper(), tuple(SEVERITY))]}")
    if q:
        conditions.append("(contains(lower(message), lower(?)) OR contains(lower(logger), lower(?)))")
        parameters += [q, q]
    found = LOGS.select(con, f"WHERE {' AND '.join(conditions)} ORDER BY version {order} LIMIT {limit}", parameters)
    return [
        LogRow(
            version=line.version,
            position=line.position,
            timestamp=line.occurred_at,
            level=line.level,
            logger=line.logger,
            message=line.message,
        )
        for line in found
    ]
