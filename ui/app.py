"""The dashboard's server: one Panel application on a Unix socket, one follower, one client of the API."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Everything comes from this machine. It has to be said before Bokeh is imported.
os.environ["BOKEH_RESOURCES"] = "server"

import panel as pn
import panel_material_ui as pmui
from bokeh.util.warnings import BokehUserWarning
from panel.io.server import get_server
from tornado.ioloop import IOLoop

from events.wire import ACTOR_HEADER

from . import theme
from .downloads import ExportHandler
from .feed import Feed
from .gateway import Gateway
from .pages.activity import ActivityPage
from .pages.catalogue import CataloguePage
from .pages.compare import ComparePage
from .pages.new_training import NewTrainingPage
from .pages.sql import SqlPage
from .pages.templates import TemplatesPage
from .pages.training import TrainingPage
from .pages.trainings import TrainingsPage
from .session import Route, Session, View

_LOST_SESSION_MS = 30_000

# BokehJS sends a model that it has just been given back whole with the first message about it, which does no harm.
warnings.filterwarnings("ignore", "reference already known", BokehUserWarning)


def find_page(session: Session, route: Route) -> View:
    """The page of a route: a training's where it names one, else the named one, else the list."""
    if route.get("training"):
        return TrainingPage(session, route["training"])
    match route.get("page"):
        case "activity":
            return ActivityPage(session, route)
        case "new":
            return NewTrainingPage(session, route)
        case "catalogue":
            return CataloguePage(session, route)
        case "compare":
            return ComparePage(session, route)
        case "templates":
            return TemplatesPage(session, route)
        case "sql":
            return SqlPage(session, route)
    return TrainingsPage(session, route)


def application(gateway: Gateway, feed: Feed) -> Callable[[], pmui.Page]:
    """What builds the page of one tab: the shell at once, what stands in it when the shell is there."""
    template = theme.page_template()

    def page() -> pmui.Page:
        document = pn.state.curdoc
        assert document is not None
        # A server that died took the session with it: joining the next one's would mix two documents. The page is
        # loaded again instead, by `components/connection.js`.
        document.config.reconnect_session = False
        # What a person does here is theirs.
        person = gateway.acting_for(str(pn.state.headers.get(ACTOR_HEADER, "")))
        session = Session(document, person, feed, find_page)
        body = pn.Column(sizing_mode="stretch_width", stylesheets=[_BODY])
        shell = pmui.Page(
            title="SAE Studio",
            site_url="./",
            header=[session.navigation, session.connection],
            main=[body, session.router, session.toasts],
            theme_config=theme.MATERIAL,
            dark_theme=pn.state.cookies.get(theme.COOKIE) == "dark",
            sx=theme.PAGE_SX,
            template=template,
            meta_description="Sparse autoencoders in training, live",
        )

        def remember(event: Any) -> None:
            session.router.remember_theme(theme.COOKIE, "dark" if event.new else "light")

        def show(objects: list[Any]) -> None:
            body.objects = objects

        shell.param.watch(remember, "dark_theme")
        session.show = show
        asked = {name: values[-1].decode("utf-8", "replace") for name, values in pn.state.session_args.items()}
        pn.state.onload(lambda: session.open(asked))
        document.on_session_destroyed(lambda context: session.end())
        return shell

    return page


def start(gateway: Gateway, feed: Feed, **where: Any) -> Any:
    """Start to serve on the running loop: `unix_socket=PATH`, or `address` and `port` where a test wants them.

    Whoever can reach the socket has passed the gate, which has also checked the origin.
    """
    server = get_server(
        {"/": application(gateway, feed)},
        title="SAE Studio",
        websocket_origin=["*"],
        # Headers and cookies end up in the page, readable for its scripts: nothing that opens a door may be among
        # them. Who acts is worth something only together with our own token.
        include_headers=["Host", ACTOR_HEADER],
        include_cookies=[theme.COOKIE],
        extra_patterns=[(r"/export\.html", ExportHandler, {"gateway": gateway})],
        unused_session_lifetime_milliseconds=_LOST_SESSION_MS,
        check_unused_sessions_milliseconds=_LOST_SESSION_MS // 2,
        **where,
    )
    server.start()
    return server


def serve(socket: Path, api: str, token: str | None) -> None:
    """Serve the dashboard on a Unix socket until standard input closes."""
    socket.unlink(missing_ok=True)
    try:
        asyncio.run(_serve(socket, api, token))
    finally:
        socket.unlink(missing_ok=True)


async def _serve(socket: Path, api: str, token: str | None) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else over.set())
    gateway = Gateway(api, token)
    feed = Feed(api, token)
    follow = loop.create_task(feed.run())
    server = start(gateway, feed, unix_socket=str(socket), loop=IOLoop.current())
    try:
        await over.wait()
    finally:
        loop.remove_reader(sys.stdin)
        server.stop()
        follow.cancel()
        await gateway.close()


_BODY = """
:host {
  display: grid; gap: 14px; padding: 18px 24px 40px; height: max-content; max-height: none !important;
  grid-template-columns: minmax(0, 1fr); width: 100%; max-width: 1760px; margin: 0 auto;
}
/* Panel's layouts are never taller than what they stand in; this page scrolls. */
:host > * { max-height: none; }
.scroll-button { display: none; }
@media (max-width: 760px) { :host { padding: 12px 10px 32px; } }
"""
