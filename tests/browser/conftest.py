"""A real Chromium, and the dashboard before a scripted API or the real server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Dashboard, Server, Tab, processes_of
from playwright.sync_api import Browser, expect, sync_playwright
from scripted_studio import Studio

# A page takes seconds to be drawn on a machine that is busy with other tests.
expect.set_options(timeout=30_000)

_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.fail("These tests need Chromium on PATH (on Debian: apt install chromium).")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=[*_CHROMIUM])
        yield chromium
        chromium.close()


@pytest.fixture
def tab_at(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Tab]]:
    """Open a tab at a URL; `dark` and the viewport as the tests want them."""
    tabs: list[Tab] = []
    with contextlib.ExitStack() as stack:

        def open_(url: str, *, dark: bool = False, width: int = 1440, height: int = 1000) -> Tab:
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            stack.callback(context.close)
            tab = Tab(context.new_page())
            tabs.append(tab)
            tab.page.goto(url)
            if dark:
                # A page that learns from the browser that it is to be dark loads itself anew, even after it was shown.
                tab.page.wait_for_function("document.querySelector('meta[name=color-scheme]')?.content === 'dark'")
            return tab

        yield open_
        kept = os.environ.get("SAESTUDIO_SCREENSHOTS")
        if kept:
            name = re.sub(r"\W+", "-", request.node.name)[:120].strip("-")
            for number, tab in enumerate(tabs):
                if not tab.page.is_closed():
                    tab.page.screenshot(path=Path(kept) / f"{name}-{number}.png")
    for tab in tabs:
        tab.check()


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    """A dashboard on a scripted API, shared by a module's tests: each makes trainings of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="saestudio-ui-") as folder,
        Dashboard(Studio(), Path(folder) / "ui.sock", Path(folder) / "ui.log").running() as running,
    ):
        yield running


@pytest.fixture
def studio(dashboard: Dashboard) -> Iterator[Studio]:
    """The scripted API with nothing failing."""
    yield dashboard.studio
    dashboard.studio.fail.clear()
    dashboard.studio.defaults.clear()
    dashboard.studio.refuse = None
    dashboard.studio.let_go()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The real server on a data directory of its own; its trainings are stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="saestudio-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder) / "data")
        server.data_dir.mkdir()
        try:
            server.up()
            yield server
        finally:
            server.down()
            # Trainers outlive their server; nothing of these is wanted any more.
            for pid in processes_of(server.data_dir):
                os.kill(pid, signal.SIGKILL)
