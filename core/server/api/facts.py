"""What trainings report: metrics, log lines, checkpoints, evaluations; and who did what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from core.decide import Refused, is_live
from core.export import Format
from events.training import CheckpointDeleted
from projections import activity, checkpoints, evaluations, logs, metrics
from projections.checkpoints import CheckpointRow
from projections.trainings import Named

from .. import problems
from ..files import remove_checkpoint
from . import answers
from .downloads import checkpoint_tar, export_tar, log_text, metrics_csv
from .operation import JSON, Call

_ROWS_AT_ONCE = 1_000
_EVERY_STEP = 2**63 - 1


class MetricsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which steps, and which of their metrics."""

    limit: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000_000,
                description="Steps, each with the rows of all its SAEs; where it is left out 1,000, and all for csv.",
            ),
        ]
        | None
    ) = None
    order: Annotated[
        Literal["asc", "desc"], Meta(description="asc: the first steps; desc: the last, newest first.")
    ] = "asc"
    sae: Annotated[int, Meta(ge=0, description="Only this SAE, by its index.")] | None = None
    from_step: Annotated[int, Meta(ge=0)] | None = None
    to_step: Annotated[int, Meta(ge=0)] | None = None
    points: (
        Annotated[
            int, Meta(ge=2, le=100_000, description="At most so many rows an SAE, keeping each metric's extremes.")
        ]
        | None
    ) = None
    fields: Annotated[str | None, Meta(description="Only these metrics, with commas between.")] = None
    format: Annotated[Literal["json", "csv"], Meta(description="csv is a file to keep, with one header row.")] = "json"


class LogsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which log lines."""

    limit: (
        Annotated[
            int, Meta(ge=1, le=100_000, description="Where it is left out 50 of the order's first, and all for text.")
        ]
        | None
    ) = None
    before: Annotated[int, Meta(ge=0, description="Only lines before this version.")] | None = None
    after: Annotated[int, Meta(ge=0, description="Only lines after this version.")] | None = None
    level: Annotated[str | None, Meta(description="The lowest level that is shown.")] = None
    q: Annotated[str | None, Meta(description="Looked for in logger and message as it stands.")] = None
    order: (
        Annotated[
            Literal["asc", "desc"],
            Meta(
                description="desc: the newest lines, newest first; asc: the oldest. Text is asc by default, and"
                " its `limit` leaves the newest lines in either order."
            ),
        ]
        | None
    ) = None
    format: Annotated[Literal["json", "text"], Meta(description="text is a file to keep.")] = "json"


class CheckpointExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How an export is laid out."""

    format: Annotated[
        Format,
        Meta(description="saelens: a folder an SAE, for `SAE.load_from_disk`; safetensors: a file an SAE."),
    ] = "saelens"


class EvaluationsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which evaluations."""

    sae: Annotated[int, Meta(ge=0)] | None = None


class ActivityQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of what was done."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 50
    before: Annotated[int, Meta(ge=0, description="Only what lies before this position.")] | None = None


class AllActivityQuery(ActivityQuery, frozen=True, kw_only=True):
    """Which part of everything that was done."""

    actor: Annotated[str | None, Meta(description="Only what user:ada did, or any user, token or trainer.")] = None
    kind: Annotated[
        Literal["training", "template", "catalogue", "server"] | None,
        Meta(description="Only what is about one of these."),
    ] = None


async def get_metrics(call: Call) -> Response:
    """The metrics of a training's steps, less what a resume has preempted.

    `limit` counts steps: the last 20 steps of two SAEs are 40 rows. With `points` the range is down-sampled and no
    spike of any metric is lost; `limit` is not used then.
    """
    query, training_id = call.query(MetricsQuery), call.path["id"]
    fields = [name.strip() for name in query.fields.split(",") if name.strip()] if query.fields else None
    wanted: dict[str, Any] = {
        "from_step": query.from_step,
        "to_step": query.to_step,
        "points": query.points,
        "limit": query.limit or (1_000 if query.format == "json" else _EVERY_STEP),
        "order": query.order,
        "fields": fields,
    }

    def read(con: Any, training: Named) -> tuple[Any, str]:
        if training.kind == "external":
            return metrics.logged(con, training_id, **wanted), training.name
        return metrics.history(con, training_id, sae=query.sae, **wanted), training.name

    (table, name), position = await call.studio.of_training(training_id, read)
    if query.format == "csv":
        return metrics_csv(table, name)
    if table.num_rows <= _ROWS_AT_ONCE:
        data = b'{"data":[%b],"position":%d}' % (_encoded(table), position)
        return Response(data, media_type=JSON)
    return StreamingResponse(_rows(table, position), media_type=JSON)


async def _rows(table: Any, position: int) -> AsyncIterator[bytes]:
    """The answer piece by piece, so that a million rows neither wait for each other nor stop the server."""
    yield b'{"data":['
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        part = await asyncio.to_thread(_encoded, table.slice(start, _ROWS_AT_ONCE))
        yield part if start == 0 else b"," + part
    yield b'],"position":%d}' % position


def _encoded(table: Any) -> bytes:
    # Column by column: a row at a time Arrow makes an object for every value.
    columns = [_values(table.column(name)) for name in table.column_names]
    return msgspec.json.encode(list(map(_row(tuple(table.column_names)), *columns)))[1:-1]


@lru_cache(maxsize=64)
def _row(names: tuple[str, ...]) -> type[msgspec.Struct]:
    """A struct with these names in JSON: made and encoded in half of the time that dictionaries take."""
    fields = {f"column{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("Row", list(fields), rename=fields, gc=False)


def _values(column: Any) -> list[Any]:
    return column.to_pylist() if column.null_count else column.to_numpy().tolist()


async def get_logs(call: Call) -> answers.Logs | Response:
    """A training's log lines: the newest, or with `before` those that came before a version.

    As text the whole log is a file to keep, its oldest line first: `2026-11-25T11:00:00.123Z LEVEL logger: message`.
    """
    query, training_id = call.query(LogsQuery), call.path["id"]
    if query.format == "text":
        row, _ = await call.studio.training(training_id)
        return await log_text(
            call.studio,
            training_id,
            row.name,
            limit=query.limit,
            before=query.before,
            after=query.after,
            level=query.level,
            q=query.q,
            order=query.order or "asc",
        )
    lines, position = await call.studio.of_training(
        training_id,
        lambda con, _: logs.lines(
            con,
            training_id,
            limit=query.limit or 50,
            before=query.before,
            after=query.after,
            level=query.level,
            q=query.q,
            order=query.order or "desc",
        ),
    )
    return answers.Logs(data=lines, position=position)


async def list_checkpoints(call: Call) -> answers.Checkpoints:
    """A training's checkpoints, the newest first; `best` marks the one with the lowest evaluation FVU."""
    await call.studio.state(call.path["id"])
    rows, position = await call.studio.snapshot(lambda con: checkpoints.list_(con, call.path["id"]))
    return answers.Checkpoints(data=rows, position=position)


async def get_checkpoint(call: Call) -> answers.Checkpoint:
    """One checkpoint."""
    await call.studio.state(call.path["id"])
    return answers.Checkpoint(**msgspec.structs.asdict((await _checkpoint(call))[0]))


async def download_checkpoint(call: Call) -> Response:
    """A checkpoint's folder as a tar archive, made while it is sent.

    Refused where the files do not lie in the training's own folder on this machine.
    """
    training, _ = await call.studio.training(call.path["id"])
    row, _ = await _checkpoint(call)
    return await checkpoint_tar(call.studio.settings.run_folder(training.id), row, training.name)


async def export_checkpoint(call: Call) -> Response:
    """A checkpoint's SAEs as other programs load them, as a tar archive: in raw units, normalisation and norms folded.

    Refused where the files do not lie in the training's own folder on this machine.
    """
    training, _ = await call.studio.training(call.path["id"])
    row, _ = await _checkpoint(call)
    return await export_tar(call.studio, training.id, row, training.name, call.query(CheckpointExportQuery).format)


async def delete_checkpoint(call: Call) -> answers.Accepted:
    """Remove a checkpoint's files. The newest one of a training that is at work stays: it would go on from it."""
    studio, training_id = call.studio, call.path["id"]
    async with studio.deciding:
        state = await studio.state(training_id)
        row, newest = await _checkpoint(call)
        if newest and is_live(state):
            raise Refused(f"This training is {state.status} and would go on from its newest checkpoint.")
        folder = studio.settings.run_folder(training_id)
        if not await asyncio.to_thread(remove_checkpoint, folder, row.path):
            raise Refused(f"This checkpoint lies elsewhere, at {row.path} on {row.host or 'another machine'}.")
        deleted = CheckpointDeleted(step=row.step, reason="request")
        return answers.Accepted(position=await studio.record(training_id, [deleted], actor=call.actor))


async def _checkpoint(call: Call) -> tuple[CheckpointRow, bool]:
    """The checkpoint that the path names, and whether it is the newest."""
    rows = await call.studio.query(lambda con: checkpoints.list_(con, call.path["id"]))
    for row in rows:
        if str(row.step) == call.path["step"]:
            return row, row is rows[0]
    raise problems.not_found("checkpoint", call.path["step"])


async def list_evaluations(call: Call) -> answers.Evaluations:
    """What the training's SAEs are worth on held-out text."""
    query = call.query(EvaluationsQuery)
    await call.studio.state(call.path["id"])
    rows, position = await call.studio.snapshot(lambda con: evaluations.list_(con, call.path["id"], sae=query.sae))
    return answers.Evaluations(data=rows, position=position)


async def list_everything_done(call: Call) -> answers.AllActivity:
    """Who did what: with trainings, templates, the catalogue and the server, the newest first."""
    query = call.query(AllActivityQuery)

    def read(con: Any) -> tuple[list[activity.ActivityRow], list[str]]:
        rows = activity.list_(con, actor=query.actor, kind=query.kind, limit=query.limit, before=query.before)
        return rows, activity.actors(con)

    (rows, actors), position = await call.studio.snapshot(read)
    return answers.AllActivity(data=rows, actors=actors, position=position)


async def list_activity(call: Call) -> answers.Activity:
    """Who did what with the training, the newest first."""
    query = call.query(ActivityQuery)
    await call.studio.state(call.path["id"])
    rows, position = await call.studio.snapshot(
        lambda con: activity.list_(con, training=call.path["id"], limit=query.limit, before=query.before)
    )
    return answers.Activity(data=rows, position=position)
