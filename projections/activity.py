"""Who did what: the events of the server's own streams, read from the log as they are."""

from __future__ import annotations

from typing import Any

import msgspec
from duckdb import DuckDBPyConnection

from events.streams import CONTROL, TRAINING

from .projection import at_least, int64, training_of


class ActivityRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event that somebody caused. `timestamp` in µs since 1970 (UTC), `data` the event's fields."""

    position: int
    timestamp: int
    actor: str | None
    stream: str
    training: str | None
    type: str
    data: dict[str, Any]


def list_(
    con: DuckDBPyConnection, *, training: str | None = None, limit: int = 50, before: int | None = None
) -> list[ActivityRow]:
    """The newest events of control, template, catalogue and maintenance streams before a position, newest first.

    `training` leaves those of one training. Raises `QueryRefused`.
    """
    limit = at_least("limit", limit, 1)
    where, parameters = ("NOT starts_with(stream, ?)", [TRAINING])
    if training is not None:
        where, parameters = ("stream = ?", [CONTROL + training])
    if before is not None:
        where += f" AND position < {int64(before)}"
    found = con.execute(
        f"SELECT position, occurred_at, actor, stream, type, data FROM log_events WHERE {where}"
        f" ORDER BY position DESC LIMIT {limit}",
        parameters,
    ).fetchall()
    return [
        ActivityRow(
            position=position,
            timestamp=occurred_at,
            actor=actor,
            stream=stream,
            training=training_of(stream) if stream.startswith(CONTROL) else None,
            type=type_,
            data={name: value for name, value in msgspec.json.decode(data).items() if name != "type"},
        )
        for position, occurred_at, actor, stream, type_, data in found
    ]
