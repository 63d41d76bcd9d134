"""The server itself: health, devices, the log's events, maintenance, signing in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from core.fields import Problem
from events.batch import ARROW_SCHEMAS, COLD_SCHEMA, cold_table
from events.errors import PositionBeyondHead
from projections.runner import position as true_at

from .. import problems
from ..arrow import ARROW, encoded, in_threads
from ..gate import CODE
from ..maintenance import Job, Name
from . import answers
from .operation import Call


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events."""

    after: Annotated[int, Meta(ge=0, description="The position after which to begin.")] = 0
    upto: Annotated[int, Meta(ge=0, description="The last position to look at; else the log's head.")] | None = None
    limit: (
        Annotated[int, Meta(ge=1, le=10_000, description="Where it is left out 1,000; arrow has all up to `upto`.")]
        | None
    ) = None
    stream: Annotated[str | None, Meta(description="Only these streams, with commas between.")] = None
    type: Annotated[str | None, Meta(description="Only these types, with commas between.")] = None
    format: Annotated[
        Literal["json", "arrow"],
        Meta(
            description="arrow is a stream of typed columns: with type=StepTrained those of the steps, else the events"
            " that are not steps, their data as JSON."
        ),
    ] = "json"


class BackUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a backup goes."""

    folder: Annotated[
        str | None,
        Meta(description="A new folder on the server's machine, as an absolute path; else one in its data directory."),
    ] = None


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """The maintenance jobs since the server's start, the newest first."""

    data: list[Job]
    position: int


async def get_health(call: Call) -> answers.Health:
    """Whether the server answers, and how far its log reaches."""
    return answers.Health(status="ok", log_id=call.studio.store.log_id, head=call.studio.store.head)


async def list_devices(call: Call) -> answers.Devices:
    """What there is to train on."""
    studio = call.studio
    await studio.refresh_devices()
    return answers.Devices(data=list(studio.devices), slots=studio.launcher.slots, position=await studio.query(true_at))


async def list_events(call: Call) -> answers.EventPage | Response:
    """Recorded events in position order; ask again with `after` = `position` for the next ones.

    As Arrow everything comes at once, in pieces that need little memory on either side. The schema's metadata has
    `log_id` and the `position` up to which everything was considered.
    """
    query, store = call.query(EventsQuery), call.studio.store
    if query.format == "arrow":
        return _events_as_arrow(call, query)

    def read() -> answers.EventPage:
        page = store.read(
            query.after,
            limit=query.limit or 1_000,
            upto=query.upto,
            streams=_named(query.stream),
            types=_named(query.type),
        )
        return answers.EventPage(data=page.encoded("json"), position=page.position, head=store.head)

    try:
        return await asyncio.to_thread(read)
    except PositionBeyondHead as error:
        raise _other_incarnation(error) from error


def _events_as_arrow(call: Call, query: EventsQuery) -> Response:
    store, types = call.studio.store, _named(query.type)
    head = store.head
    if query.after > head:
        raise _other_incarnation(PositionBeyondHead(query.after, head))
    if query.limit is not None:
        raise problems.invalid([Problem("limit", "limit is for json; arrow has everything up to upto.")], 400)
    columnar = sorted(set(types or ()) & ARROW_SCHEMAS.keys())
    if columnar and len(types or ()) > 1:
        raise problems.invalid(
            [Problem("type", f"type must be {columnar[0]} alone: it has columns of its own as arrow.")], 400
        )
    upto = head if query.upto is None else max(query.after, min(query.upto, head))
    schema: Any = ARROW_SCHEMAS[columnar[0]] if columnar else COLD_SCHEMA
    schema = schema.with_metadata({"log_id": store.log_id, "position": str(upto)})
    batches = store.read_batches(
        query.after, upto=upto, types=types, streams=_named(query.stream), columnar=bool(columnar)
    )
    tables = (batch.columnar.get(columnar[0]) if columnar else cold_table(batch) for batch in batches if len(batch))
    cast = (table.cast(schema) for table in tables if table is not None)
    return StreamingResponse(in_threads(encoded(schema, cast)), media_type=ARROW)


def _other_incarnation(error: PositionBeyondHead) -> problems.ApiError:
    return problems.ApiError(409, f"{error} It belongs to another incarnation of the log.")


async def start_rebuild(call: Call) -> Job:
    """Make every projection anew from the log, beside the old ones, and swap them at once.

    Answers with the job at once; its progress is at `maintenance/ID` and in the stream `maintenance`.
    """
    return _start(call, "rebuild")


async def start_verify(call: Call) -> Job:
    """Compare every projection with one made anew from the log.

    Answers with the job at once; its progress is at `maintenance/ID` and in the stream `maintenance`.
    """
    return _start(call, "verify")


async def start_backup(call: Call) -> Job:
    """Copy the log, whole and with its hash, into a new folder, while everything goes on.

    Answers with the job at once; its progress is at `maintenance/ID` and in the stream `maintenance`.
    """
    asked = call.body(BackUp).folder
    folder = Path(asked) if asked else call.studio.settings.new_backup()
    if not folder.is_absolute():
        raise problems.invalid([Problem("folder", f"folder must be an absolute path, not '{asked}'.")])
    return call.studio.maintenance.start("backup", call.actor, folder=str(folder))


async def list_jobs(call: Call) -> Jobs:
    """Maintenance jobs."""
    return Jobs(data=call.studio.maintenance.jobs[::-1], position=await call.studio.query(true_at))


async def get_job(call: Call) -> Job:
    """One maintenance job."""
    found = next((job for job in call.studio.maintenance.jobs if job.id == call.path["id"]), None)
    if found is None:
        raise problems.not_found("maintenance job", call.path["id"])
    return found


async def make_sign_in(call: Call) -> answers.SignIn:
    """A link that signs a browser in, once, within 15 minutes, at the address that this request came to."""
    link = call.request.url.replace(path="/", query=f"{CODE}={call.studio.access.new_code()}")
    return answers.SignIn(url=str(link))


def _start(call: Call, name: Name) -> Job:
    return call.studio.maintenance.start(name, call.actor)


def _named(text: str | None) -> list[str] | None:
    named = [one.strip() for one in (text or "").split(",") if one.strip()]
    return named or None
