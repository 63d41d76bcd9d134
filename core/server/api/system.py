"""The server itself: health, devices, the log's events, maintenance, signing in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.fields import Problem
from events.errors import PositionBeyondHead
from projections.runner import position as true_at

from .. import problems
from ..gate import CODE
from ..maintenance import Job, Name
from . import answers
from .operation import Call


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events."""

    after: Annotated[int, Meta(ge=0, description="The position after which to begin.")] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    stream: Annotated[str | None, Meta(description="Only these streams, with commas between.")] = None
    type: Annotated[str | None, Meta(description="Only these types, with commas between.")] = None


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


async def list_events(call: Call) -> answers.EventPage:
    """Recorded events in position order; ask again with `after` = `position` for the next ones."""
    query, store = call.query(EventsQuery), call.studio.store

    def read() -> answers.EventPage:
        page = store.read(query.after, limit=query.limit, streams=_named(query.stream), types=_named(query.type))
        return answers.EventPage(data=page.encoded("json"), position=page.position, head=store.head)

    try:
        return await asyncio.to_thread(read)
    except PositionBeyondHead as error:
        raise problems.ApiError(409, f"{error} It belongs to another incarnation of the log.") from error


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
