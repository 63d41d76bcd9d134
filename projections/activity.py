"""Who did what: the events of the server's own streams and how trainings ended, read from the log as they are."""

from __future__ import annotations

from typing import Any

import msgspec
from duckdb import DuckDBPyConnection

from events.streams import CONTROL, TRAINING

from .projection import at_least, int64, one_of, training_of
from .templates import STREAM as TEMPLATE
from .templates import TEMPLATES
from .trainings import TRAININGS

ENDINGS = ("TrainingPaused", "TrainingStopped", "TrainingCompleted", "TrainingFailed")
"""Of what trainers report, what belongs to the activity."""

KINDS = {
    "training": f"(starts_with(stream, '{TRAINING}') OR starts_with(stream, '{CONTROL}'))",
    "template": f"starts_with(stream, '{TEMPLATE}')",
    "catalogue": "stream = 'catalog'",
    "server": "stream = 'maintenance'",
}
"""What something can be done with, and SQL for it."""

_DONE = f"(NOT starts_with(stream, '{TRAINING}') OR type IN ({', '.join(map(repr, ENDINGS))}))"


class ActivityRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event that somebody caused. `timestamp` in µs since 1970 (UTC), `data` the event's fields.

    `training` and `template` are the ids of what it is about (a training's creation: also the template that it was made
    from), with the names that they have by now.
    """

    position: int
    timestamp: int
    actor: str | None
    stream: str
    training: str | None
    training_name: str | None
    template: str | None
    template_name: str | None
    type: str
    data: dict[str, Any]


def list_(
    con: DuckDBPyConnection,
    *,
    training: str | None = None,
    actor: str | None = None,
    kind: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> list[ActivityRow]:
    """The newest events of control, template, catalogue and maintenance streams before a position, newest first.

    How trainings ended is among them. `training` leaves those of one training, `actor` those of one actor or of all
    whose names begin with it and a colon, `kind` those that are about a training, a template, the catalogue or the
    server. Raises `QueryRefused`.
    """
    limit = at_least("limit", limit, 1)
    where, parameters = _where(training)
    if actor is not None:
        where += " AND (actor = ? OR starts_with(actor, ?))"
        parameters += [actor, f"{actor}:"]
    if kind is not None:
        where += f" AND {KINDS[one_of('kind', kind, tuple(KINDS))]}"
    if before is not None:
        where += f" AND position < {int64(before)}"
    found = con.execute(
        f"SELECT position, occurred_at, actor, stream, type, data FROM log_events WHERE {where}"
        f" ORDER BY position DESC LIMIT {limit}",
        parameters,
    ).fetchall()
    rows = [
        ActivityRow(
            position=position,
            timestamp=occurred_at,
            actor=actor,
            stream=stream,
            training=training_of(stream) if stream.startswith((CONTROL, TRAINING)) else None,
            training_name=None,
            template=stream.removeprefix(TEMPLATE) if stream.startswith(TEMPLATE) else fields.get("template_id"),
            template_name=None,
            type=type_,
            data=fields,
        )
        for position, occurred_at, actor, stream, type_, data in found
        for fields in [{name: value for name, value in msgspec.json.decode(data).items() if name != "type"}]
    ]
    named_trainings = _names(con, TRAININGS.name, {row.training for row in rows})
    named_templates = _names(con, TEMPLATES.name, {row.template for row in rows})
    return [
        msgspec.structs.replace(
            row,
            training_name=named_trainings.get(row.training),
            template_name=named_templates.get(row.template),
        )
        for row in rows
    ]


def actors(con: DuckDBPyConnection, *, training: str | None = None) -> list[str]:
    """Everybody who ever did something, in the order of their names; all trainers as one."""
    where, parameters = _where(training)
    found = con.execute(
        "SELECT DISTINCT CASE WHEN starts_with(actor, 'trainer:') THEN 'trainer' ELSE actor END AS who FROM log_events"
        f" WHERE {where} AND actor IS NOT NULL ORDER BY who",
        parameters,
    )
    return [actor for (actor,) in found.fetchall()]


def _where(training: str | None) -> tuple[str, list[object]]:
    if training is None:
        return _DONE, []
    return f"{_DONE} AND stream IN (?, ?)", [CONTROL + training, TRAINING + training]


def _names(con: DuckDBPyConnection, table: str, ids: set[str | None]) -> dict[str | None, str]:
    """What those of the ids that a table knows are called."""
    found = con.execute(f"SELECT id, name FROM {table} WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)])
    return dict(found.fetchall())
