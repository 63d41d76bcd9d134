"""Runs in one file: made by a click, opened in a real browser without any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from charted import LINES, SPIKES, spiked
from harness import Dashboard, Server, Tab, wait_until
from playwright.sync_api import Browser, Page, expect
from scripted_studio import Studio, evaluation_of

from events.client import read_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.spool import hold
from events.training import Sae, TrainingConfig, TrainingStarted
from ui.charts.compare import FADED

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]
EVIL = "</script><img src=x onerror=alert(1)>"


def saved(tab: Tab, folder: Path) -> Path:
    """The file that the page's button gives."""
    with tab.page.expect_download(timeout=60_000) as download:
        tab.page.get_by_role("link", name="Export HTML").click()
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    assert target.stat().st_size <= 3_000_000
    return target


def opened(browser: Browser, file: Path, wrong: list[str], *, width: int = 1440, dark: bool = False) -> Page:
    """The file in a browser that has no network; what it asks for or complains of is in `wrong`."""
    context = browser.new_context(
        offline=True, viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append("a script ran"))
    page.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    return page


def test_a_training_is_kept_in_one_file_that_opens_without_a_server(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt, browser: Browser, tmp_path: Path
) -> None:
    one = studio.create("export00000001", name=f"kept {EVIL}")
    studio.start(one)
    studio.train(one, 1, 120)
    studio.emit(one, evaluation_of(100, 0, verdict="bad", reasons=(EVIL,)), evaluation_of(100, 1))
    studio.say(one, EVIL, "the last line")
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: len(tab.steps()) == 120, "the page")
    file = saved(tab, tmp_path)
    wrong: list[str] = []
    for width, dark in ((1440, True), (390, False)):
        page = opened(browser, file, wrong, width=width, dark=dark)
        expect(page.get_by_role("heading", level=1)).to_have_text(f"kept {EVIL}")
        expect(page.get_by_text("Evaluation: bad")).to_be_visible()
        expect(page.get_by_text("the last line")).to_be_visible()
        page.wait_for_function("window.Bokeh?.documents.length && Bokeh.documents.every(doc => doc.is_idle)")
        drawn = page.evaluate("Array.from(Bokeh.documents[0].get_model_by_name('steps').data.step)")
        assert drawn == list(range(1, 121))
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
        # A section can be folded, and nothing that would need a server is offered.
        fold = page.get_by_role("button", name="Hyperparameters")
        fold.click()
        expect(fold).to_have_attribute("aria-expanded", "false")
        expect(page.get_by_role("button", name="Rename")).to_be_hidden()
        page.context.close()
    assert wrong == []


def test_a_comparison_is_kept_in_one_file(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt, browser: Browser, tmp_path: Path
) -> None:
    found = [studio.create(f"exportcmp{index:05}", name=f"run {index}") for index in range(2)]
    for one in found:
        studio.start(one)
        studio.train(one, 1, 60)
        studio.emit(one, evaluation_of(50, 0), evaluation_of(50, 1))
    tab = tab_at(f"{dashboard.url}?page=compare&ids={','.join(found)}")
    expect(tab.page.get_by_role("table", name="What came of them")).to_be_visible()
    wrong: list[str] = []
    page = opened(browser, saved(tab, tmp_path), wrong)
    table = page.get_by_role("table", name="What came of them")
    expect(table.get_by_role("columnheader")).to_have_text(["run 0", "run 1"])
    page.wait_for_function("window.Bokeh?.documents.length && Bokeh.documents.every(doc => doc.is_idle)")
    for metric in ("loss", "fvu", "l0"):
        assert (
            page.evaluate("name => Bokeh.documents[0].get_model_by_name(name).data.step.length", f"{metric}-run1") == 60
        )
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('frontier').data.l0.length") == 4
    # A run is brought out everywhere, from wherever it is chosen.
    legend = page.get_by_role("region", name="Lines")

    def brought_out() -> list[Any]:
        return page.evaluate("""() => {
            const doc = Bokeh.documents[0]
            const line = (name) => [...doc.all_models].find((one) => one.data_source?.name === name)
            const alpha = (name) => line(name).glyph.line_alpha.value
            return [alpha("loss-run0"), alpha("loss-run1"), alpha("density-run0"),
                doc.get_model_by_name("frontier").selected.indices]
        }""")

    table.get_by_role("button", name="run 1").click()
    expect(legend.get_by_role("button", name="run 1")).to_have_attribute("aria-pressed", "true")
    assert brought_out() == [FADED, 1, FADED, [2, 3]]
    page.evaluate("Bokeh.documents[0].get_model_by_name('frontier').selected.indices = [0]")
    expect(table.get_by_role("button", name="run 0")).to_have_attribute("aria-pressed", "true")
    assert brought_out() == [1, FADED, 1, [0, 1]]
    legend.get_by_role("button", name="run 0").click()
    expect(table.get_by_role("button", name="run 0")).to_have_attribute("aria-pressed", "false")
    assert brought_out() == [1, 1, 1, []]
    page.context.close()
    assert wrong == []


@pytest.mark.timeout(300)
def test_the_real_server_gives_a_long_training_with_every_spike(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    training, steps = new_id(), 20_000
    folder = server.data_dir.parent / "elsewhere" / training
    lock = hold(folder)
    config = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=steps)
    created = TrainingCreated(name="long", config=config, launcher="external")
    emitter = Emitter(folder, training, address=lambda: read_address(server.data_dir), created=created)
    try:
        emitter.emit(TrainingStarted(pid=1, host="elsewhere", device="cpu", saes=(Sae(layer=1, hook="resid_post"),)))
        for step in range(1, steps + 1):
            emitter.emit(spiked(step, total=steps))
        assert emitter.flush(100)
    finally:
        emitter.close(0)
        lock.release()
    # The server has the events; what it answers from is made of them in its own time.
    wait_until(
        lambda: any(one["id"] == training and one["step"] == steps for one in server.ask("trainings")["data"]),
        "every step in what the server answers",
    )
    answer = httpx.get(f"{server.url}export.html?training={training}", timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith('attachment; filename="long.html"')
    assert len(answer.content) <= 3_000_000
    file = tmp_path / "long.html"
    file.write_bytes(answer.content)
    wrong: list[str] = []
    page = opened(browser, file, wrong)
    page.wait_for_function("window.Bokeh?.documents.length && Bokeh.documents.every(doc => doc.is_idle)")
    for column, line in LINES.items():
        values = page.evaluate(
            "column => Array.from(Bokeh.documents[0].get_model_by_name('steps').data[column])", column
        )
        assert sum(value >= line.spike * 0.999 for value in values) == SPIKES, column
    page.context.close()
    assert wrong == []


def test_a_file_that_cannot_be_made_says_why(dashboard: Dashboard, studio: Studio) -> None:
    for query, status, said in (
        ("training=nowhere0000000", 404, "There is no training 'nowhere0000000'."),
        ("", 400, "No training was named."),
        ("training=--out%2C--help", 404, "There is no training '--out'."),
    ):
        answer = httpx.get(f"{dashboard.url}export.html?{query}", timeout=60)
        assert (answer.status_code, answer.text.strip()) == (status, said)
