"""A training's page in a real browser, before an API that does what the test wants."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from harness import Dashboard, Tab, retry, wait_until
from PIL import Image
from playwright.sync_api import expect
from scripted_studio import step_of

from events.control import PauseRequested
from events.training import Sae, TrainingCompleted, TrainingPaused, TrainingResumed
from ui.theme import SERIES

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]


def pixels(tab: Tab, chart: str, colour: str) -> int:
    """Pixels of a chart that have a line's own colour."""
    shot = Image.open(io.BytesIO(tab.page.screenshot(clip=tab.chart(chart)))).convert("RGB")
    wanted = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return sum(all(abs(a - b) <= 16 for a, b in zip(pixel, wanted, strict=True)) for pixel in shot.get_flattened_data())


def test_a_long_training_shows_its_whole_history_at_once_and_grows(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("long0000000001")
    studio.start(one, (Sae(layer=1, hook="resid_post"),))
    studio.train(one, 1, 43_210, saes=1, total=100_000)
    studio.train(one, 43_211, 43_211, saes=1, total=100_000, loss=77.0)
    studio.train(one, 43_212, 100_000, saes=1, total=100_000)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    steps = tab.steps()
    assert steps[0] == 1
    assert steps[-1] == 100_000
    assert len(steps) <= 1_000
    assert max(tab.steps("loss_0")) == 77.0
    studio.train(one, 100_001, 100_030, saes=1, total=100_030)
    wait_until(lambda: tab.steps()[-1:] == [100_030], "the live steps")
    assert tab.steps()[len(steps) :] == list(range(100_001, 100_031))
    assert tab.steps()[: len(steps)] == steps


def test_no_step_is_missing_or_twice_where_history_ends_and_live_begins(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("seam0000000001")
    studio.start(one)
    studio.train(one, 1, 100)
    opened = threading.Event()

    def train() -> None:
        step = 100
        # Slower until the page asks, and no more steps than a history has points: all of them are drawn.
        while step < 1_000 and not opened.wait(
            0.02 if any(f"{one}/metrics" in asked for asked in studio.requests) else 0.06
        ):
            step += 1
            studio.train(one, step, step)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        tab = tab_at(f"{dashboard.url}?training={one}")
        wait_until(lambda: tab.steps(), "the history")
        begun = tab.steps()[-1]
        wait_until(lambda: tab.steps()[-1:] > [begun + 30], "live steps")
    finally:
        opened.set()
        trainer.join()
    last = studio.trainings[one]["step"]
    wait_until(lambda: tab.steps()[-1:] == [last], "the last step")
    assert tab.steps() == list(range(1, last + 1))
    for sae in (0, 1):
        assert tab.steps(f"loss_{sae}") == [step_of(step, sae).loss for step in range(1, last + 1)]


def test_a_chart_shows_its_lines_in_their_colours(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("pixel000000001")
    studio.start(one)
    studio.train(one, 1, 300)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    legend = tab.page.get_by_role("button", name="L2.resid_post")
    expect(legend).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: pixels(tab, "chart-loss", SERIES[1]) > 150, "the line to be drawn")
    legend.click()
    expect(legend).to_have_attribute("aria-pressed", "false")
    wait_until(
        lambda: pixels(tab, "chart-loss", SERIES[1]) == 0 and pixels(tab, "chart-loss", SERIES[0]) > 150,
        "the hidden line alone to vanish",
    )


def test_before_the_first_step_the_page_waits_and_then_draws(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("first000000001")
    tab = tab_at(f"{dashboard.url}?training={one}")
    expect(tab.page.get_by_text("Waiting for the first step…")).to_be_visible()
    studio.start(one)
    studio.train(one, 1, 3)
    wait_until(lambda: tab.steps() == [1, 2, 3], "the first steps")
    expect(tab.page.get_by_text("Waiting for the first step…")).to_be_hidden()
    expect(tab.page.get_by_role("button", name="L1.resid_post")).to_be_visible()


def test_a_history_that_fails_says_why_while_live_points_go_on(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("fails000000001")
    studio.start(one)
    studio.train(one, 1, 50)
    studio.fail["metrics"] = "The disk is full."
    try:
        tab = tab_at(f"{dashboard.url}?training={one}")
        expect(tab.page.get_by_text("The disk is full.")).to_be_visible()
        studio.train(one, 51, 60)
        wait_until(lambda: tab.steps()[-1:] == [60], "live points without a history")
        retry(tab.page, studio, "metrics")
    finally:
        studio.fail.clear()
    wait_until(lambda: tab.steps() == list(range(1, 61)), "the whole history after the retry")
    expect(tab.page.get_by_text("The disk is full.")).to_be_hidden()


def test_after_many_live_points_the_history_is_asked_for_again(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("swap0000000001")
    studio.start(one, (Sae(layer=1, hook="resid_post"),))
    studio.train(one, 1, 10, saes=1)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    studio.train(one, 11, 2_100, saes=1)
    wait_until(lambda: (steps := tab.steps())[-1:] == [2_100] and len(steps) <= 1_000, "the swap")
    assert tab.steps()[0] == 1
    studio.train(one, 2_101, 2_110, saes=1)
    wait_until(lambda: tab.steps()[-10:] == list(range(2_101, 2_111)), "the steps after the swap")


def test_what_a_resume_preempts_leaves_the_charts(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("resume00000001")
    studio.start(one)
    studio.train(one, 1, 90)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps()[-1:] == [90], "the first attempt")
    studio.emit(one, TrainingResumed(step=40))
    studio.train(one, 41, 60)
    wait_until(lambda: tab.steps() == list(range(1, 61)), "the steps that count")


def test_a_step_whose_saes_come_apart_is_drawn_whole(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("apart000000001")
    studio.start(one)
    studio.train(one, 1, 20)
    studio.emit(one, step_of(21, 0))
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps()[-1:] == [20], "the whole steps")
    studio.emit(one, step_of(21, 1))
    wait_until(lambda: tab.steps() == list(range(1, 22)), "the step that is whole now")
    assert tab.steps("loss_1")[-1] == pytest.approx(step_of(21, 1).loss)


def test_the_log_shows_the_last_lines_then_older_then_new_ones_each_once(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("logs0000000001")
    studio.start(one)
    studio.say(one, *(f"line {number}" for number in range(1, 401)))
    tab = tab_at(f"{dashboard.url}?training={one}")
    page = tab.page
    expect(page.get_by_text("line 400", exact=True)).to_be_visible()
    lines = page.get_by_role("log")
    expect(page.locator(".canvas")).to_have_attribute("style", f"height: {50 * 20}px;")
    studio.say(one, "written live")
    expect(page.get_by_text("written live")).to_be_visible()
    lines.evaluate("box => { box.scrollTop = 0 }")
    expect(page.get_by_role("checkbox", name="Follow")).not_to_be_checked()
    # The first 50 lines, the live one, and as many older ones as one request brings.
    expect(page.locator(".canvas")).to_have_attribute("style", f"height: {251 * 20}px;")
    page.get_by_role("checkbox", name="Follow").check()
    expect(page.get_by_text("written live")).to_be_visible()
    # The first event of the training's stream is its start, so that the lines are the versions 2 to 402.
    wait_until(lambda: tab.whole_log() == list(range(2, 403)), "every line once, in order")


def test_a_log_that_is_drawn_anew_shows_its_lines_again(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("logs0000000009")
    studio.start(one)
    studio.say(one, *(f"line {number}" for number in range(1, 31)))
    tab = tab_at(f"{dashboard.url}?training={one}")
    expect(tab.page.get_by_text("line 30", exact=True)).to_be_visible()
    before = tab.whole_log()
    drawn_anew = tab.page.evaluate(
        """() => {
            const models = [...Bokeh.documents[0].all_models].filter(model => model.class_name === "Log")
            const views = models.map(model => Bokeh.index.find_one_by_id(model.id)).filter(view => view?.el.isConnected)
            for (const view of views) {
                view.shadow_el.querySelector(".canvas").classList.add("before")
                view.render_esm()
            }
            return views.length
        }"""
    )
    assert drawn_anew == 1
    expect(tab.page.locator(".canvas.before")).to_have_count(0)
    expect(tab.page.get_by_text("line 30", exact=True)).to_be_visible()
    wait_until(lambda: tab.whole_log() == before, "the lines of before")


def test_closing_and_reopening_the_log_shows_the_same_lines(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("reopen00000001")
    studio.start(one)
    studio.say(one, *(f"line {number}" for number in range(1, 31)))
    tab = tab_at(f"{dashboard.url}?training={one}")
    log = tab.page.locator(".log section")
    # The first event of the training's stream is its start, so that the lines are the versions 2 to 31.
    wait_until(lambda: tab.log_lines()[-1:] == [31], "the lines")
    log.get_by_role("button", name="Hide").click()
    expect(tab.page.get_by_role("log")).to_be_hidden()
    studio.say(one, "said while closed")
    log.get_by_role("button", name="Show log").click()
    expect(tab.page.get_by_text("said while closed")).to_be_visible()
    lines = tab.log_lines()
    assert lines == list(range(lines[0], 33))
    tab.page.reload()
    expect(tab.page.get_by_text("said while closed")).to_be_visible()
    wait_until(lambda: tab.log_lines() == lines, "the same lines after a reload")


def test_the_log_can_be_searched_and_filtered_while_it_goes_on(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("search00000001")
    studio.start(one)
    studio.say(one, "an apple", "a pear")
    studio.say(one, "a bad apple", level="WARNING")
    tab = tab_at(f"{dashboard.url}?training={one}")
    log = tab.page.locator(".canvas")
    expect(log).to_contain_text("a pear")
    tab.page.get_by_role("searchbox", name="Search the log").fill("APPLE")
    expect(log).not_to_contain_text("a pear")
    expect(log).to_contain_text("an apple")
    tab.page.get_by_role("combobox", name="Level").select_option("WARNING")
    expect(log).not_to_contain_text("an apple")
    studio.say(one, "one more apple", "a plum", level="ERROR")
    expect(log).to_contain_text("one more apple")
    expect(log).not_to_contain_text("a plum")
    # What was said long ago is found however much has come since, and is left out again.
    tab.page.get_by_role("combobox", name="Level").select_option("")
    tab.page.get_by_role("searchbox", name="Search the log").fill("")
    expect(log).to_contain_text("a plum")
    for second in range(60):
        studio.say(one, *(f"line {second}.{number:02}" for number in range(100)))
    expect(log).to_contain_text("line 59.99")
    assert tab.page.locator(".canvas .line").count() < 100, "only what is in sight is in the document"
    tab.page.get_by_role("searchbox", name="Search the log").fill("line 0.42")
    expect(log.locator(".line")).to_have_count(1)
    expect(log).to_contain_text("line 0.42")
    tab.page.get_by_role("searchbox", name="Search the log").fill("")
    expect(log).to_contain_text("line 59.99")


def test_the_buttons_say_what_the_events_say_and_refusals_are_sentences(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("control0000001")
    studio.start(one)
    studio.train(one, 1, 5)
    tab = tab_at(f"{dashboard.url}?training={one}")
    pause = tab.page.get_by_role("button", name="Pause", exact=True)
    studio.refuse = "A training that saves its last checkpoint cannot be paused."
    pause.click()
    expect(tab.page.get_by_text("A training that saves its last checkpoint cannot be paused.")).to_be_visible()
    pause.click()
    wait_until(lambda: (one, "pause") in studio.controls, "the request")
    # The click alone changes nothing: the training still runs as far as anybody has said.
    studio.train(one, 6, 6)
    wait_until(lambda: tab.steps()[-1:] == [6], "what happens after the click")
    expect(tab.page.locator(".title .status")).to_have_text("Running")
    studio.set(one, status="pausing")
    studio.emit(one, PauseRequested(), stream="control")
    expect(tab.page.get_by_role("button", name="Pausing…")).to_be_disabled()
    studio.set(one, status="paused")
    studio.emit(one, TrainingPaused(step=6))
    expect(tab.page.get_by_role("button", name="Resume")).to_be_enabled()
    studio.set(one, status="completed")
    studio.emit(one, TrainingCompleted(step=6))
    expect(tab.page.locator(".title .status")).to_have_text("Completed")
    expect(tab.page.locator(".buttons button")).to_have_text(["Retry", "Delete"])


def test_a_connection_that_breaks_is_said_and_nothing_is_missing_after_it(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("break000000001")
    studio.start(one)
    studio.train(one, 1, 30)
    studio.say(one, "before")
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps()[-1:] == [30], "the history")
    dashboard.api_down()
    banner = tab.page.locator(".banner")
    expect(banner).to_be_visible()
    expect(banner).to_contain_text("Reconnecting")
    # It covers nothing that could be clicked, now or where the page is scrolled to.
    for control in (tab.page.get_by_role("link", name="← Trainings"), tab.page.get_by_role("heading", name=one)):
        control.click(trial=True)
    tab.page.get_by_role("button", name="Pause", exact=True).click()
    expect(tab.page.get_by_text("Nothing was asked of the training")).to_be_visible()
    studio.train(one, 31, 60)
    studio.say(one, "while away")
    dashboard.api_up()
    expect(banner).to_be_hidden(timeout=60_000)
    wait_until(lambda: tab.steps() == list(range(1, 61)), "what was missed")
    expect(tab.page.get_by_text("while away")).to_be_visible()
    expect(tab.page.locator(".connection .status")).to_contain_text("live · position")


def test_charts_can_be_hidden_and_come_back_whole(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("hide0000000001")
    studio.start(one)
    studio.train(one, 1, 25)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps()[-1:] == [25], "the history")
    metrics = tab.page.locator(".metrics-head section")
    metrics.get_by_role("button", name="Hide").click()
    wait_until(lambda: tab.steps() == [], "the charts to go")
    studio.train(one, 26, 30)
    metrics.get_by_role("button", name="Show live metrics").click()
    wait_until(lambda: tab.steps() == list(range(1, 31)), "the charts with what came meanwhile")


def test_an_unknown_training_is_said_in_a_sentence(dashboard: Dashboard, tab_at: TabAt) -> None:
    tab = tab_at(f"{dashboard.url}?training=nobody")
    expect(tab.page.get_by_text("There is no training with this id.")).to_be_visible()
    expect(tab.page.get_by_role("heading", name="Log")).to_be_hidden()


def test_another_log_in_the_place_of_this_one_is_shown_from_its_beginning(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("replace0000001")
    studio.start(one)
    studio.train(one, 1, 50)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps()[-1:] == [50], "the old log's steps")
    dashboard.api_down()
    studio.replace_log()
    studio.create(one)
    studio.start(one)
    studio.train(one, 1, 5)
    dashboard.api_up()
    wait_until(lambda: tab.steps() == [1, 2, 3, 4, 5], "the new log's steps")
    studio.train(one, 6, 9)
    wait_until(lambda: tab.steps() == list(range(1, 10)), "what the new log brings")
