"""The composition root: opens a data directory's log and puts the server's parts together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from core.catalogue import BUILTIN_DATASETS, BUILTIN_MODELS
from core.data_format import bring_up_to_date
from core.settings import Settings
from events.catalog import DatasetRegistered, ModelRegistered
from events.store import EventStore
from events.streams import Append
from events.wire import ACTOR_HEADER
from projections import catalog
from projections.runner import Projections

from . import openapi, problems
from .access import Access, read_or_make_token, user_actor
from .adoption import adopt
from .analyst import Analyst
from .api.operation import JSON, PREFIX, Operation
from .api.table import OPERATIONS
from .child import Child, runtime_folder
from .examination import CATALOG
from .gate import Gate, page
from .inspection import Inspections
from .journal import Journal
from .launcher import Launch, Launcher
from .maintenance import Maintenance
from .proxy import Proxy
from .studio import LAUNCHER, Studio
from .ws import follow, ingest

DASHBOARD = "dashboard"

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Say = Callable[[str], None]
"""Called with one sentence about what goes on."""


def create_app(studio: Studio) -> Starlette:
    """The server's application on an open data directory; `app.state.studio` is that."""
    routes: list[BaseRoute] = [Route(path, _endpoint(operations), methods=_METHODS) for path, operations in _by_path()]
    routes += [
        Route("/openapi.json", _describe, methods=["GET"]),
        WebSocketRoute(f"{PREFIX}/events/follow", follow),
        WebSocketRoute(f"{PREFIX}/ingest", ingest),
        # Nothing below the API's prefix is the dashboard's.
        Mount("/api", _nothing_here),
    ]
    if studio.proxy is not None:
        routes.append(Mount("/", studio.proxy))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Gate, access=studio.access, host=studio.settings.host)],
        exception_handlers=problems.HANDLERS,
    )
    app.state.studio = studio
    return app


async def _describe(request: Request) -> Response:
    return Response(await asyncio.to_thread(_description), media_type=JSON)


@functools.cache
def _description() -> bytes:
    # Made when it is first asked for: it takes longer than all the rest of a server's start.
    return openapi.document(OPERATIONS, version("saestudio"))


@contextlib.asynccontextmanager
async def open_studio(
    settings: Settings, *, url: str = "", launch: Launch | None = None, say: Say = lambda sentence: None
) -> AsyncIterator[Studio]:
    """The data directory's log with everything that works on it, until the block ends.

    The caller holds the directory's lock. Takes in what trainers have spooled, interrupts trainings whose process is
    gone, resumes those that ask for it, and begins to launch.
    """
    settings.trainings.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.exports.exists():
        # What a server that was killed had been sending.
        await asyncio.to_thread(shutil.rmtree, settings.exports)
    await asyncio.to_thread(bring_up_to_date, settings, say, _paced("Writing the log anew", say))
    store = await asyncio.to_thread(EventStore.open, settings.database, temp_directory=settings.temporary)
    try:
        if store.lost is not None:
            found, acknowledged = store.lost
            say(
                f"The log ends at position {found:,} though {acknowledged:,} had been acknowledged: its files were"
                " damaged or replaced. Readers start anew; trainers send again what they still have."
            )
        journal = Journal(settings.journal)
        if store.lost is not None and (restored := await asyncio.to_thread(journal.restore, store)):
            say(f"{restored:,} events of the server's own are restored.")
        await asyncio.to_thread(journal.trim, store)
        projections = Projections(store)
        await asyncio.to_thread(projections.start, _paced("Folding the log", say))
        access = Access(await asyncio.to_thread(read_or_make_token, settings.token_file), user_actor(os.geteuid()))
        studio = Studio(
            settings=settings, store=store, projections=projections, access=access, journal=journal, url=url
        )
        studio.inspections = Inspections()
        studio.maintenance = Maintenance(studio)
        studio.analyst = Analyst(studio)
        await studio.refresh_devices()
        studio.launcher = Launcher(studio, launch)
        await _register_builtin(studio)
        await _adopt(studio, say)
        await studio.launcher.reconcile()
        await studio.launcher.resume_interrupted()
        studio.launcher.start()
        if settings.ui:
            studio.dashboard = await asyncio.to_thread(_dashboard, studio)
            studio.proxy = Proxy(
                studio.dashboard.socket,
                _dashboard_away,
                lambda scope: {ACTOR_HEADER: studio.access.vouch(scope["state"]["actor"])},
            )
            studio.dashboard.start()
        try:
            yield studio
        finally:
            if studio.dashboard is not None and studio.proxy is not None:
                await studio.proxy.close()
                await studio.dashboard.stop()
            await studio.analyst.stop()
            await studio.launcher.stop()
            await studio.maintenance.stop()
    finally:
        await asyncio.to_thread(store.close)


def _by_path() -> Iterator[tuple[str, dict[str, Operation]]]:
    """The operations of each path by method, in the table's order."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.full_path, {})[operation.method] = operation
    return iter(paths.items())


def _endpoint(operations: dict[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            detail = f"{request.method} is not possible at {request.url.path}."
            raise problems.ApiError(405, detail, headers={"Allow": ", ".join(operations)})
        return await operation(request)

    return endpoint


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if scope["type"] == "websocket":
        response = problems.response(404, f"There is no WebSocket at {path}.")
        await WebSocket(scope, receive, send).send_denial_response(response)
        return
    raise problems.ApiError(404, f"There is nothing at {path}.")


def _dashboard_away() -> Response:
    return page(
        "The dashboard is starting",
        "This page comes back by itself in a moment. Trainings, log and API are not affected.",
        status=503,
        refresh=1,
    )


def _dashboard(studio: Studio) -> Child:
    socket = runtime_folder(studio.settings.data_dir) / "ui.sock"
    return Child(
        DASHBOARD,
        [sys.executable, "-P", "-m", "ui", "--socket", str(socket), "--api", studio.url],
        environment={"SAESTUDIO_TOKEN": studio.access.grant(DASHBOARD, deputy=True)},
        socket=socket,
        log=studio.settings.data_dir / "dashboard.log",
    )


async def _register_builtin(studio: Studio) -> None:
    """Take what ships with SAE Studio into the catalogue where it is missing or has changed."""
    models, datasets = await studio.query(lambda con: (catalog.models(con), catalog.datasets(con)))
    known: set[ModelRegistered | DatasetRegistered] = {*models, *datasets}
    changed = [one for one in (*BUILTIN_MODELS, *BUILTIN_DATASETS) if one not in known]
    if changed:
        await studio.append(Append(CATALOG, changed, actor=LAUNCHER))


async def _adopt(studio: Studio, say: Say) -> None:
    def progress(training_id: str, done: int, total: int) -> None:
        paced(done, total)

    paced = _paced("Taking in what trainers have spooled", say)
    for report in await asyncio.to_thread(adopt, studio, progress):
        if report.events:
            say(f"Took in {report.events:,} events of training {report.training_id}.")
        for problem in report.problems:
            say(problem)


def _paced(what: str, say: Say) -> Callable[[int, int], None]:
    """Tells progress every two seconds, so that short work stays silent."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 2:
            told = time.monotonic()
            say(f"{what}: {done / total:.0%}" if total else f"{what} …")

    return progress
