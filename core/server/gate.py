"""The gate: the one place that decides whether a request or socket may enter, before anything else sees it.

It makes no difference between paths, so that no spelling of a path leads around it.
"""

from __future__ import annotations

import asyncio
import os
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from events.client import FOLLOW_PATH
from events.wire import ACTOR_HEADER

from . import problems
from .access import COOKIE, Access, is_loopback, peer_uid, user_actor

CODE = "code"

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Connection:
    """One TCP connection: who is at its other end is looked up once.

    The server's protocol puts one into the state of every request of its connection.
    """

    def __init__(self) -> None:
        self._uid: int | None = None
        self._known = False

    async def uid(self, client: tuple[str, int], server: tuple[str, int]) -> int | None:
        """The user at the other end; None where it cannot be told."""
        if not self._known:
            self._uid = await asyncio.to_thread(peer_uid, client, server)
            self._known = True
        return self._uid


class Gate:
    """Lets pass who is known, and writes who it is into the scope's `state["actor"]`.

    Known is a bearer of a token, a browser with a session, and, where the server listens on loopback only, a process of
    the user that runs the server. `host` is the address that the server listens on.
    """

    def __init__(self, app: ASGIApp, access: Access, host: str) -> None:
        self._app = app
        self._access = access
        self._trusts_user = is_loopback(host)
        self._uid = os.geteuid()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not _same_origin(headers):
            await _refuse(
                scope, receive, send, 403, f"Requests from pages of {headers['origin']} are not let in (Origin)."
            )
            return
        if ACTOR_HEADER in headers and self._vouched(headers) is None:
            await _refuse(scope, receive, send, 403, f"{ACTOR_HEADER} is for the dashboard, which did not send this.")
            return
        code = _code(scope)
        if code is not None and scope["type"] == "http" and (session := self._access.redeem(code)) is not None:
            await _begin_session(scope, headers, session)(scope, receive, send)
            return
        actor = self._by_credentials(headers)
        if actor is None:
            actor, reason = await self._by_connection(scope, headers)
            if actor is None:
                await _refuse(scope, receive, send, 401, reason)
                return
        if not _reads(scope) and (token := _bearer(headers)) is not None and self._access.only_reads(token):
            await _refuse(scope, receive, send, 403, f"This token only reads; {scope['path']} is not for that.")
            return
        if code is not None and scope["type"] == "http" and scope["method"] == "GET":
            # A known browser with a code that is used up: the address without it.
            await Response(status_code=303, headers={"Location": _without_code(scope)})(scope, receive, send)
            return
        scope.setdefault("state", {})["actor"] = actor
        await self._app(scope, receive, send)

    def _vouched(self, headers: Headers) -> str | None:
        token = _bearer(headers)
        return None if token is None else self._access.vouched(token, headers[ACTOR_HEADER])

    def _by_credentials(self, headers: Headers) -> str | None:
        if ACTOR_HEADER in headers:
            return self._vouched(headers)
        token = _bearer(headers)
        if token is not None and (actor := self._access.bearer(token)) is not None:
            return actor
        for name, value in _cookies(headers).items():
            # Browsers share cookies between the ports of a host: any of ours may be the right one.
            if name.startswith(COOKIE) and (actor := self._access.session(value)) is not None:
                return actor
        return None

    async def _by_connection(self, scope: Scope, headers: Headers) -> tuple[str | None, str]:
        wants = "give the server's token as 'Authorization: Bearer …', or open a sign-in link from saestudio status."
        if not self._trusts_user:
            return None, f"This server listens beyond this machine: {wants}"
        client, server = scope.get("client"), scope.get("server")
        if client is None or server is None or not is_loopback(client[0]):
            return None, f"The connection does not come from this machine: {wants}"
        if any(name in headers for name in _FORWARDED):
            return None, f"The request comes through a proxy, which says nothing about its user: {wants}"
        # A page of another site whose name was made to resolve to this machine would be its own Origin.
        if not is_loopback(_host_name(headers.get("host", ""))):
            return None, f"The request is addressed to {headers.get('host', '')!r}: {wants}"
        connection: Connection = scope.get("state", {}).get("connection") or Connection()
        uid = await connection.uid(client, server)
        if uid is None:
            return None, f"The user at the other end of the connection cannot be told: {wants}"
        if uid != self._uid:
            return None, f"This server belongs to another user of this machine: {wants}"
        return user_actor(uid), ""


def _reads(scope: Scope) -> bool:
    """Whether a request can change nothing. Of all sockets only the log's does: another spelling of it is refused."""
    if scope["type"] == "http":
        return scope["method"] in ("GET", "HEAD")
    return scope["path"] == FOLLOW_PATH


def _same_origin(headers: Headers) -> bool:
    """Whether the page that sends this came from this server, as the browser knows it (by a tunnel, a proxy)."""
    origin = headers.get("origin")
    if origin is None:
        return True
    parts = urlsplit(origin)
    own = {_with_port(headers.get(name, ""), parts.scheme) for name in ("host", "x-forwarded-host")}
    return bool(parts.netloc) and _with_port(parts.netloc, parts.scheme) in own


def _with_port(netloc: str, scheme: str) -> str:
    netloc = netloc.lower()
    has_port = netloc.rpartition(":")[2].isdigit() and not netloc.endswith("]")
    return netloc if has_port or not netloc else f"{netloc}:{443 if scheme == 'https' else 80}"


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookies(headers: Headers) -> dict[str, str]:
    jar: dict[str, str] = {}
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            try:
                jar.update({name: morsel.value for name, morsel in SimpleCookie(part.strip()).items()})
            except CookieError:
                continue
    return jar


def _code(scope: Scope) -> str | None:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"))).get(CODE)


def _without_code(scope: Scope) -> str:
    """The same address without the code, relative, so that it is right behind any path prefix."""
    last = scope["path"].rpartition("/")[2]
    rest = [(name, value) for name, value in parse_qsl(scope["query_string"].decode("latin-1"), True) if name != CODE]
    return "./" + quote(last) + (f"?{urlencode(rest)}" if rest else "")


def _begin_session(scope: Scope, headers: Headers, session: str) -> Response:
    response = Response(status_code=303, headers={"Location": _without_code(scope), "Cache-Control": "no-store"})
    port = headers.get("host", "").rpartition(":")[2]
    # Several servers may be reached on one host name, by ports of their own.
    name = f"{COOKIE}_{port}" if port.isdigit() else COOKIE
    secure = headers.get("x-forwarded-proto", scope.get("scheme")) == "https"
    response.set_cookie(name, session, httponly=True, samesite="strict", secure=secure, max_age=30 * 86_400)
    return response


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · SAE Studio</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>
  :root {{ --back: #f4f6f9; --surface: #fff; --line: #dfe4eb; --text: #16202c; --quiet: #566272 }}
  @media (prefers-color-scheme: dark) {{
    :root {{ --back: #0d1116; --surface: #151b23; --line: #28313d; --text: #e6ebf2; --quiet: #98a5b5 }}
  }}
  body {{
    margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back); color: var(--text);
    font: 1rem/1.55 Roboto, system-ui, sans-serif;
  }}
  main {{
    box-sizing: border-box; width: min(34rem, calc(100vw - 2rem)); padding: 1.75rem 2rem; background: var(--surface);
    border: 1px solid var(--line); border-radius: 12px; overflow-wrap: anywhere;
  }}
  h1 {{ margin: 0.25rem 0 0.75rem; font-size: 1.3rem; line-height: 1.25; letter-spacing: -0.01em }}
  p {{ margin: 0 }}
  .quiet {{ color: var(--quiet); font-size: 0.8125rem; font-weight: 500 }}
</style></head>
<body><main><p class="quiet">SAE Studio</p><h1>{title}</h1><p>{text}</p></main></body></html>"""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    extra = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers = Headers(scope=scope)
    if scope["type"] == "http" and "text/html" in headers.get("accept", ""):
        title = "Who are you?" if status == 401 else "Not from here"
        page = _PAGE.format(title=title, text=escape(reason))
        response: Response = HTMLResponse(page, status, headers=extra)
    else:
        response = problems.response(status, reason, headers=extra)
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    # Before the handshake is accepted the refusal is an ordinary HTTP answer.
    await WebSocket(scope, receive, send).send_denial_response(response)


def page(title: str, text: str, *, status: int, refresh: int | None = None) -> Response:
    """A small page of the server's own, which works without the dashboard."""
    headers = {"Refresh": str(refresh), "Retry-After": str(refresh)} if refresh is not None else {}
    return HTMLResponse(_PAGE.format(title=escape(title), text=escape(text)), status, headers=headers)
