"""Every page, in light and dark, can be read and used with what axe looks for: names, roles, contrast, order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from harness import Server, Tab, wait_until
from playwright.sync_api import expect
from scripted_studio import CONFIG, SAES, evaluation_of, step_of

from events.client import read_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.event import Event
from events.log import LogWritten
from events.spool import hold
from events.training import TrainingFailed, TrainingStarted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

TabAt = Callable[..., Tab]


def train(data_dir: Path, training: str, name: str, *ending: Event) -> None:
    """A training of somebody else's process: some steps, an evaluation, a log with a traceback, and how it ended."""
    folder = data_dir / "elsewhere" / training
    lock = hold(folder)
    created = TrainingCreated(name=name, config=CONFIG, launcher="external")
    emitter = Emitter(folder, training, address=lambda: read_address(data_dir), created=created)
    emitter.emit(TrainingStarted(pid=1, host="elsewhere", device="cpu", saes=SAES))
    for step in range(1, 301):
        for sae in (0, 1):
            emitter.emit(step_of(step, sae))
    for sae, verdict in enumerate(("good", "watch")):
        emitter.emit(evaluation_of(300, sae, verdict=verdict, reasons=("6 dense latents",) if sae else ()))
    emitter.emit(LogWritten(level="WARNING", logger="trainer", message="The text is short."))
    emitter.emit(
        LogWritten(level="ERROR", logger="trainer", message="It failed.\nTraceback (most recent call last):\n  x")
    )
    for event in ending:
        emitter.emit(event)
    assert emitter.flush(60)
    emitter.close(5)
    lock.release()


def faults(tab: Tab, where: str) -> list[str]:
    """What axe finds serious or critical in what is shown."""
    tab.idle()
    found = Axe().run(tab.page).response["violations"]
    return [
        f"{where}: {one['id']} ({one['impact']}): {node['target']} {node['html'][:160]} {node.get('failureSummary')}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def go(tab: Tab, href: str) -> None:
    """Follow a link of the page to `href`."""
    tab.page.evaluate(
        "href => { const a = document.createElement('a'); a.setAttribute('href', href); document.body.append(a);"
        " a.click(); a.remove() }",
        href,
    )


def test_nothing_serious_is_found_on_any_page_in_light_and_dark(server: Server, tab_at: TabAt) -> None:
    one, other = "0axe0000000001", "0axe0000000002"
    train(server.data_dir, one, "wide", TrainingFailed(error="No memory."))
    train(server.data_dir, other, "deep")
    server.ask("templates", {"name": "kept", "description": "x", "config": {"model": "demo", "datasets": ["stdlib"]}})
    wait_until(lambda: server.ask(f"trainings/{other}")["step"] == 300, "the steps in the log", 60)
    found: list[str] = []
    for dark in (False, True):
        theme = "dark" if dark else "light"
        tab = tab_at(server.url, dark=dark)
        page = tab.page
        page.get_by_role("checkbox", name="Select wide").check(timeout=60_000)
        page.get_by_role("button", name="Rename or note deep").press("Enter")
        expect(page.get_by_role("textbox", name="Name")).to_be_focused()
        found += faults(tab, f"list, {theme}")
        page.get_by_role("link", name="wide", exact=True).click()
        for section in ("Hyperparameters", "Checkpoints", "Activity"):
            page.get_by_role("button", name=section, exact=True).click()
        expect(page.get_by_text("Failed: No memory.")).to_be_visible()
        expect(page.get_by_role("button", name="Traceback, 2 lines")).to_be_visible()
        wait_until(lambda tab=tab: len(tab.steps()) > 100, "the charts")
        found += faults(tab, f"training, {theme}")
        for href, title, ready in (
            ("?page=new", "New training", page.locator("[data-field=model] input")),
            ("?page=templates", "Templates", page.get_by_text("kept", exact=True)),
            ("?page=catalogue", "Catalogue", page.get_by_text("stdlib", exact=True)),
            (f"?page=compare&ids={one},{other}", "Compare", page.get_by_role("table", name="What came of them")),
            ("?page=sql", "SQL", page.get_by_role("textbox", name="Statement")),
            ("?page=activity", "Activity", page.get_by_text("Failed: No memory.")),
        ):
            go(tab, href)
            # What is looked for may have stood on the page before it, too.
            expect(page.get_by_role("heading", level=1, name=title)).to_be_visible(timeout=60_000)
            expect(ready.first).to_be_visible(timeout=60_000)
            found += faults(tab, f"{href}, {theme}")
    assert not found, "\n".join(found)
