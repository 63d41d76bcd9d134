"""What the browser's tests share: a tab that notices what goes wrong, the dashboard's process, the real server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page, WebSocketRoute, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from scripted_studio import Studio, serving
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from core.server.proxy import Proxy

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of `condition`; fails with `what` when it takes too long."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"Waited {seconds:.0f} s for this: {what}")
        time.sleep(0.02)
    return value


def _with_view(function: str) -> str:
    """`function` with `find(name)`: the view of the model that is in sight under this name.

    Bokeh keeps models that were taken from the page for a while; they have no view any more.
    """
    return f"""argument => {{
        const find = name => [...(window.Bokeh?.documents[0]?.all_models ?? [])]
            .filter(model => model.name === name)
            .map(model => Bokeh.index.find_one_by_id(model.id))
            .find(view => view?.el.isConnected)
        return ({function})(argument)
    }}"""


class Tab:
    """One tab, and what went wrong in it.

    A request that would leave this machine is aborted and counts as wrong, as does every error of a script or in the
    console, but for those that contain one of `allowed`.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.allowed: list[str] = []
        page.on("console", lambda message: self._wrong(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._wrong(str(error)))
        page.context.route("**/*", self._guard)

    def _wrong(self, text: str) -> None:
        self.wrong.append(text)

    def _guard(self, route: Any) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.hostname not in ("127.0.0.1", "localhost"):
            self.wrong.append(f"asked for {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def check(self) -> None:
        """Fail if anything went wrong that was not allowed."""
        wrong = [text for text in self.wrong if not any(word in text for word in self.allowed)]
        if wrong:
            pytest.fail("This went wrong in the page:\n" + "\n".join(wrong))

    # What the page holds

    def steps(self, column: str = "step") -> list[float]:
        """A column of what the charts in sight draw; empty while there are none."""
        find = "column => Array.from(find('chart-loss')?.model.renderers[0].data_source.data[column] ?? [])"
        try:
            return self.page.evaluate(_with_view(find), column)
        except PlaywrightError as error:
            # The page is just being loaded anew.
            if "context was destroyed" in str(error):
                return []
            raise

    def idle(self) -> None:
        """Wait until the page and every chart that has come have been drawn, and nothing lies over them any more."""
        # A document stays idle once it has been: charts that came later say themselves whether they have been drawn.
        self.page.wait_for_function(
            """async () => {
                const frame = () => new Promise(requestAnimationFrame)
                const chart = view => view.model.type === "Figure" && view.el.checkVisibility()
                const drawn = () => [...Bokeh.index.query(chart)].every(view => view.has_finished())
                if (!window.Bokeh?.documents.length || !Bokeh.documents.every(one => one.is_idle)) return false
                if (document.querySelector("#loader") || !drawn()) return false
                // What a drawing has changed of the layout is drawn in the frame after it.
                await frame()
                await frame()
                return drawn()
            }"""
        )

    def place(self, element: Locator) -> dict[str, float]:
        """Where an element is on the page, once everything has been drawn and it has stopped moving."""
        expect(element).to_be_visible()
        self.idle()
        return element.evaluate(
            """async element => {
                const frame = () => new Promise(requestAnimationFrame)
                const place = () => {
                    const {x, y, width, height} = element.getBoundingClientRect()
                    return {x, y, width, height}
                }
                let [now, still] = [place(), 0]
                while (still < 10) {
                    await frame()
                    const next = place()
                    still = JSON.stringify(next) === JSON.stringify(now) ? still + 1 : 0
                    now = next
                }
                return now
            }"""
        )

    def hold_waits(self, least: float) -> None:
        """Let whatever waits for `least` seconds or longer wait for `end_waits` from now on.

        A busy machine's clock must take nothing away before it is looked at.
        """
        self.page.evaluate(
            """least => {
                window.waiting = []
                const wait = setTimeout
                window.setTimeout = (each, ms, ...rest) =>
                    ms >= least ? -waiting.push(each) : wait(each, ms, ...rest)
            }""",
            least * 1_000,
        )

    def end_waits(self) -> None:
        """Let everything that was held until now come to its end."""
        self.page.evaluate("waiting.splice(0).forEach(each => each())")

    def log_lines(self) -> list[int]:
        """The versions of the log lines in sight, from top to bottom."""
        return self.page.locator(".canvas .line[data-first]").evaluate_all(
            "lines => lines.map(line => +line.dataset.version)"
        )

    def whole_log(self) -> list[int]:
        """The versions of all log lines, read from the first to the bottom; older ones are loaded before."""
        self.page.locator(".canvas .line").first.wait_for()
        return self.page.get_by_role("log").evaluate(
            """async box => {
                const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
                const seen = []
                for (box.scrollTop = 0; ; box.scrollTop = 0) {
                    await drawn()
                    while (box.ariaBusy === "true") await drawn()
                    if (box.scrollTop === 0) break
                }
                for (box.scrollTop = 0; ; box.scrollTop += 200) {
                    await drawn()
                    for (const line of box.querySelectorAll(".line[data-first]")) {
                        const version = +line.dataset.version
                        const place = parseInt(line.style.top)
                        const known = seen.some(one => one.version === version && one.place === place)
                        if (!known) seen.push({version, place})
                    }
                    if (box.scrollTop + box.clientHeight >= box.scrollHeight - 1) break
                }
                return seen.sort((a, b) => a.place - b.place).map(one => one.version)
            }"""
        )

    def chart(self, name: str) -> dict[str, float]:
        """Where a chart is on the page, for a screenshot's `clip`."""
        self.idle()
        return self.page.evaluate(
            _with_view("""name => {
                const box = find(name).el
                box.scrollIntoView({block: "center"})
                const {x, y, width, height} = box.getBoundingClientRect()
                return {x, y, width, height}
            }"""),
            name,
        )

    def drawn(self, name: str) -> dict[str, Any]:
        """The columns that a chart's visible lines are drawn from, and whether its scale is logarithmic."""
        return self.page.evaluate(
            _with_view("""name => {
                const plot = find(name)?.model
                const lines = (plot?.renderers ?? []).filter(line => line.glyph && line.visible)
                return {
                    x: lines.map(line => line.glyph.x.field), y: lines.map(line => line.glyph.y.field),
                    log: plot?.y_scale.type === "LogScale",
                }
            }"""),
            name,
        )

    def compared(self, metric: str, line: str) -> dict[str, Any]:
        """What a line of compared runs is drawn from and how: `step`, `colour`, `alpha`.

        No step and None where it is not there, as for a moment while its chart is drawn anew.
        """
        return self.page.evaluate(
            _with_view("""([chart, name]) => {
                const line = find(chart)?.model.renderers.find(one => one.data_source.name === name)
                if (!line) return {step: [], colour: null, alpha: null}
                const {line_color: {value: colour}, line_alpha: {value: alpha}} = line.glyph
                return {step: Array.from(line.data_source.data.step ?? []), colour, alpha}
            }"""),
            [f"compare-{metric}", f"{metric}-{line}"],
        )

    def ranges(self, name: str) -> dict[str, tuple[float, float]]:
        """The ends of a chart's axes."""
        return self.page.evaluate(
            _with_view("""name => {
                const {x_range, y_range} = find(name).model
                return {x: [x_range.start, x_range.end], y: [y_range.start, y_range.end]}
            }"""),
            name,
        )

    def ticks(self, name: str) -> list[str]:
        """What is written at the ticks of a chart's values."""
        self.idle()
        return self.page.evaluate(
            _with_view("""name => {
                const axis = find(name).axis_views.find(one => one.dimension === 1)
                return axis.compute_labels(axis.tick_coords.major[1]).items.map(label => label.text)
            }"""),
            name,
        )

    def frame(self, name: str) -> tuple[float, float, float]:
        """Where a chart's lines are on the page: left edge, width, middle from above."""
        box = self.chart(name)
        inner = self.page.evaluate(
            _with_view("""name => {
                const {left, width, top, height} = find(name).frame.bbox
                return {left, width, middle: top + height / 2}
            }"""),
            name,
        )
        return box["x"] + inner["left"], inner["width"], box["y"] + inner["middle"]


class Held:
    """What the server sends to a page that is loaded from now on, kept back when a test wants that."""

    def __init__(self, page: Page) -> None:
        self.messages: list[str | bytes] = []
        self._from: str | None = None
        self._socket: WebSocketRoute | None = None
        page.route_web_socket(re.compile("/ws"), self._route)

    def hold(self, word: str = "") -> None:
        """Keep everything back from the next message on that contains `word`."""
        self._from = word

    def first(self) -> None:
        """Let the first of what was kept back through, and go on keeping the rest."""
        assert self._socket is not None
        self._socket.send(self.messages.pop(0))
        self._from = ""

    def release(self) -> None:
        """Let through what was kept back, and whatever comes."""
        self._from = None
        while self.messages:
            assert self._socket is not None
            self._socket.send(self.messages.pop(0))

    def _route(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        self.messages.clear()
        socket.connect_to_server().on_message(self._coming)

    def _coming(self, message: str | bytes) -> None:
        wanted = self._from is not None and (not self._from or (isinstance(message, str) and self._from in message))
        if self.messages or wanted:
            self.messages.append(message)
        elif self._socket is not None:
            self._socket.send(message)


def retry(place: Page | Locator, studio: Studio, word: str) -> None:
    """Click *Retry* where requests with `word` in their path fail: it asks again. Then they succeed."""
    button = place.get_by_role("button", name="Retry")
    asked, before = len(studio.requests), len(studio.succeeded)
    button.click()
    wait_until(lambda: any(word in request for request in studio.requests[asked:]), "another request")
    studio.fail.clear()

    def succeeded() -> bool:
        if any(word in path for path in studio.succeeded[before:]):
            return True
        # The button is away while the page asks, and comes back with the refusal, unless the page asks again by itself.
        with contextlib.suppress(PlaywrightTimeoutError):
            if button.is_visible():
                button.click(timeout=1_000)
        return False

    wait_until(succeeded, "an answer")
    expect(button).to_be_hidden()


def drag(tab: Tab, chart: str, begin: float, end: float) -> None:
    """Drag over a chart, from one part of its frame's width to another."""
    x, width, y = tab.frame(chart)
    mouse = tab.page.mouse
    mouse.move(x + begin * width, y)
    mouse.down()
    for part in (begin + 0.1 * (end - begin), (begin + end) / 2, end):
        mouse.move(x + part * width, y)
        # A busy tab makes one of all moves within a frame, and of a drag in one move nothing.
        tab.page.evaluate("() => new Promise(requestAnimationFrame)")
    mouse.up()


class Dashboard:
    """The dashboard's process with a proxy before it, following a scripted API that can go away and come back."""

    def __init__(self, studio: Studio, socket: Path, log: Path) -> None:
        self.studio = studio
        self.url = ""
        self._socket = socket
        self._log = log
        self._api = contextlib.ExitStack()
        self._port = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[Dashboard]:
        with contextlib.ExitStack() as stack:
            self.api_up()
            stack.callback(self._api.close)
            log = stack.enter_context(self._log.open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "ui", "--socket", str(self._socket), "--api", self.studio.url],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
            stack.callback(self._end, process)
            wait_until(lambda: self._socket.exists() or process.poll() is not None, "the dashboard's socket")
            assert process.poll() is None, self._log.read_text()
            open_: set[int] = set()
            port = stack.enter_context(serving(_front(self._socket, open_)))
            # A tab that has just been closed says goodbye through the proxy, whose loop has to see the end of it.
            stack.callback(lambda: wait_until(lambda: not open_, "the tabs' sockets to be closed"))
            self.url = f"http://127.0.0.1:{port}/"
            yield self

    def api_up(self) -> None:
        self._port = self._api.enter_context(serving(self.studio.application(), self._port))
        self.studio.url = f"http://127.0.0.1:{self._port}"

    def api_down(self) -> None:
        self._api.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            assert process.wait(60) == 0, self._log.read_text()
            # Bokeh's own complaints about browsers that have gone are no fault.
            assert f"{ROOT}/ui/" not in self._log.read_text(), self._log.read_text()
        finally:
            process.kill()


def _front(socket: Path, open_: set[int]) -> ASGIApp:
    """The real proxy at the root, and below `/under/a/prefix/` with the prefix taken away.

    While a WebSocket passes through it, there is something in `open_`.
    """
    prefix = "/under/a/prefix"

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.proxy = Proxy(socket, lambda: Response("away", 503))
        yield
        await app.state.proxy.close()

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(prefix):
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        if scope["type"] != "websocket":
            await scope["app"].state.proxy(scope, receive, send)
            return
        open_.add(id(scope))
        try:
            await scope["app"].state.proxy(scope, receive, send)
        finally:
            open_.discard(id(scope))

    return Starlette(routes=[Mount("/", front)], lifespan=lifespan)


class Server:
    """`saestudio up` on a data directory, which can be killed and started again at the same port."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start, and wait until API and page answer."""
        command = [sys.executable, "-m", "core.cli", "up", "--no-browser", "--port", str(self._port)]
        with (self.data_dir.parent / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        known = self.data_dir / "server.json"

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.data_dir.parent / "up.log").read_text()
            try:
                said = json.loads(known.read_bytes())
                if said["pid"] != self._process.pid:
                    return False
                self.url = said["url"] + "/"
                return httpx.get(self.url, timeout=5).status_code == httpx.codes.OK
            except (OSError, ValueError, httpx.TransportError):
                return False

        wait_until(ready, "server and page", 60)
        self._port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)

    def down(self) -> None:
        """End it as Ctrl-C does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(60)
            finally:
                self._process.kill()
                self._process.wait()

    def ask(self, path: str, body: Any = None) -> Any:
        """The API's answer."""
        url = f"{self.url}api/v1/{path}"
        answer = httpx.get(url, timeout=30) if body is None else httpx.post(url, json=body, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()


def processes_of(*words: object) -> list[int]:
    """The processes whose command line holds each of `words`, as part of an argument."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if all(str(word).encode() in command for word in words):
            found.append(int(folder.name))
    return found
