"""The charts before a scripted API: what they hold, zoom, and how somebody wants to see them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from charted import LINES, SPIKES, spiked
from harness import Dashboard, Held, Tab, drag, retry, wait_until
from playwright.sync_api import expect

from events.training import Sae

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]

ONE = (Sae(layer=1, hook="resid_post"),)


def test_every_spike_of_every_metric_is_in_what_the_page_holds(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("spikes00000001")
    studio.start(one, ONE)
    studio.emit(one, *(spiked(step, total=100_000) for step in range(1, 100_001)))
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    steps = tab.steps()
    assert (steps[0], steps[-1]) == (1, 100_000)
    assert len(steps) <= 1_000
    for column, line in LINES.items():
        held = tab.steps(column)
        assert sum(value >= line.spike * 0.999 for value in held) == SPIKES, column
    expect(tab.page.locator(".charts .bk-Figure")).to_have_count(12)


def test_a_zoom_brings_every_step_of_its_range_and_the_whole_comes_back_with_all_that_came(
    dashboard: Dashboard, tab_at: TabAt
) -> None:
    studio = dashboard.studio
    one = studio.create("zoom0000000001")
    studio.start(one, ONE)
    studio.train(one, 1, 20_000, saes=1, total=20_000)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    coarse = tab.steps()
    assert coarse[1] - coarse[0] > 30
    drag(tab, "chart-fvu", 0.5, 0.53)
    wait_until(lambda: tab.steps() and 300 < len(tab.steps()) <= 1_000 and tab.steps()[0] > 5_000, "the zoomed range")
    near = tab.steps()
    assert near == list(range(int(near[0]), int(near[-1]) + 1))
    assert 9_000 < near[0] < near[-1] < 12_000
    # Lines reach over both edges of what is seen.
    start, end = tab.ranges("chart-loss")["x"]
    assert near[0] <= start < end <= near[-1]

    def fitted(chart: str, column: str) -> bool:
        (low, high), values = tab.ranges(chart)["y"], tab.steps(column)
        return low < min(values) < max(values) < high and high - low < 1.5 * (max(values) - min(values))

    for chart, column in (("chart-loss", "loss_0"), ("chart-fvu", "fvu_0")):
        wait_until(lambda of=(chart, column): fitted(*of), f"{chart} to be fitted to what is shown")
    expect(tab.page.get_by_text("Steps 9,", exact=False).or_(tab.page.get_by_text("Steps 10,"))).to_be_visible()
    studio.train(one, 20_001, 20_040, saes=1, total=20_000)
    wait_until(lambda: studio.trainings[one]["step"] == 20_040, "the live steps to be written")
    expect(tab.page.locator(".connection .status")).to_contain_text(f"{studio.head:,}")
    # The position is told before the charts are: what comes with the next one comes after all that they were told.
    studio.say(one, "This comes later.")
    expect(tab.page.locator(".connection .status")).to_contain_text(f"{studio.head:,}")
    assert tab.steps() == near
    tab.page.get_by_role("button", name="Show all").click()
    wait_until(lambda: tab.steps() == coarse + list(range(20_001, 20_041)), "the whole")
    wait_until(lambda: tab.ranges("chart-loss")["x"][1] > 20_040, "the axis to be whole again")
    expect(tab.page.get_by_role("button", name="Show all")).to_be_hidden()


def test_a_zoom_to_the_end_goes_on_live_and_double_click_leaves_it(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("zoom0000000002")
    studio.start(one, ONE)
    studio.train(one, 1, 10_000, saes=1, total=10_000)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    coarse = tab.steps()
    drag(tab, "chart-loss", 0.97, 1.0)
    wait_until(lambda: tab.steps()[0] > 9_000, "the end in full")
    begin = int(tab.steps()[0])
    studio.train(one, 10_001, 10_020, saes=1, total=10_000)
    wait_until(lambda: tab.steps()[-1] == 10_020, "live steps in the zoomed range")
    assert tab.steps() == list(range(begin, 10_021))
    x, width, y = tab.frame("chart-loss")
    tab.page.mouse.dblclick(x + width / 2, y)
    wait_until(lambda: tab.steps() == coarse + list(range(10_001, 10_021)), "the whole")


def test_of_several_zooms_the_last_one_wins_and_a_failure_is_said(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("zoom0000000003")
    studio.start(one, ONE)
    studio.train(one, 1, 20_000, saes=1, total=20_000)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    drag(tab, "chart-loss", 0.2, 0.6)
    drag(tab, "chart-loss", 0.5, 0.55)

    def last_zoom() -> bool:
        (start, end), steps = tab.ranges("chart-loss")["x"], tab.steps()
        # A twentieth of two fifths of everything.
        return end - start < 1_000 and start - 50 < steps[0] <= start and end <= steps[-1] < end + 50

    wait_until(last_zoom, "the last zoom")
    studio.fail["metrics"] = "The disk is full."
    drag(tab, "chart-loss", 0.2, 0.6)
    tab.allowed.append("500")
    expect(tab.page.get_by_text("The disk is full.")).to_be_visible()
    held = tab.steps()
    retry(tab.page, studio, "metrics")
    wait_until(lambda: tab.steps() != held, "the range after the retry")
    expect(tab.page.get_by_text("The disk is full.")).to_be_hidden()


def test_choices_change_every_chart_and_survive_a_reload_and_live_steps(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("choice00000001")
    studio.start(one)
    studio.train(one, 1, 300)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    page = tab.page

    def drawn() -> dict[str, Any]:
        return tab.drawn("chart-loss")

    assert drawn() == {"x": ["step", "step"], "y": ["loss_0", "loss_1"], "log": False}
    # However small values are, what is written at the ticks tells them apart.
    rates = tab.ticks("chart-learning_rate")
    assert len(set(rates)) == len(rates) > 2
    page.get_by_role("button", name="Tokens", exact=True).click()
    page.get_by_label("Log scale").check()
    slider = page.get_by_role("slider", name="Smoothing")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    wanted = {
        "x": ["tokens"] * 4,
        "y": ["loss_0", "loss_1", "loss_0~", "loss_1~"],
        "log": True,
    }
    wait_until(lambda: drawn() == wanted, "the choices to be drawn")
    wait_until(lambda: tab.ranges("chart-loss")["x"][1] > 290 * 1024, "the axis of tokens")
    least, most = min(tab.steps("loss_0")), max(tab.steps("loss_1"))
    wait_until(
        lambda: 0.02 < (ends := tab.ranges("chart-loss")["y"])[0] < least and ends[1] > most, "the axis of losses"
    )
    studio.train(one, 301, 310)
    wait_until(lambda: tab.steps()[-1] == 310, "live steps")
    assert len(tab.steps("loss_1~")) == 310
    assert tab.steps() == list(range(1, 311))
    held = Held(page)
    page.reload()
    wait_until(lambda: tab.steps() and drawn() == wanted, "the choices after a reload")
    expect(page.get_by_label("Log scale")).to_be_checked()
    expect(page.get_by_role("button", name="Tokens", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("100 steps")).to_be_visible()
    # The answer to one choice does not undo the next, however late it comes.
    held.hold('["heard",2]')
    page.get_by_role("button", name="Time", exact=True).click()
    wait_until(lambda: page.evaluate("true") and held.messages, "the answer")
    page.get_by_label("Log scale").uncheck()
    held.first()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    slider.press("Home")
    held.release()
    wait_until(lambda: drawn()["x"] == ["time"] * 2 and not drawn()["log"], "the other choices")
    expect(page.get_by_label("Log scale")).not_to_be_checked()
    assert tab.steps("time") == sorted(tab.steps("time"))


def test_zeros_and_negative_values_do_not_break_a_log_scale(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("logs0000000002")
    studio.start(one, ONE)
    tab = tab_at(f"{dashboard.url}?training={one}")
    expect(tab.page.get_by_text("Waiting for the first step…")).to_be_visible(timeout=30_000)
    tab.page.get_by_label("Log scale").check()
    studio.train(one, 1, 50, saes=1, loss=-1.0)
    studio.train(one, 51, 60, saes=1, loss=0.0)
    wait_until(lambda: tab.steps()[-1:] == [60], "steps that no log scale can show")
    wait_until(lambda: tab.drawn("chart-l0")["log"], "the log scale of what can be shown on it")
    assert not tab.drawn("chart-loss")["log"]
    studio.train(one, 61, 100, saes=1, loss=2.0)
    tab.page.get_by_role("button", name="Time", exact=True).click()
    wait_until(lambda: tab.steps()[-1:] == [100] and tab.drawn("chart-loss")["log"], "the log scale")
    # The range is fitted to its new scale when the chart is painted next.
    wait_until(lambda: (ends := tab.ranges("chart-loss")["y"])[0] > 0 and ends[0] < 2 < ends[1], "a range above zero")


def test_nothing_below_moves_when_the_charts_come(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("shift000000001")
    tab = tab_at(f"{dashboard.url}?training={one}")
    log = tab.page.locator(".log section")
    expect(tab.page.get_by_text("Waiting for the first step…")).to_be_visible(timeout=30_000)
    expect(tab.page.locator(".title .status")).to_be_visible()
    # Every section above the log has been drawn.
    expect(tab.page.get_by_text("The first evaluation comes at step")).to_be_visible()
    for section in ("Hyperparameters", "Checkpoints", "Activity"):
        expect(tab.page.get_by_role("button", name=section, exact=True)).to_be_visible()
    waiting = tab.place(log)
    studio.set(one, status="running", started_at=1)
    studio.train(one, 1, 3)
    wait_until(lambda: tab.steps() == [1, 2, 3], "the first steps")
    expect(tab.page.locator(".charts .bk-Figure")).to_have_count(7)
    expect(tab.page.locator(".charts .bk-Figure").last).to_be_visible()
    assert abs(tab.place(log)["y"] - waiting["y"]) <= 2


def test_pictures_and_figures_can_be_saved_by_keyboard_and_on_a_phone(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("save0000000001", name="a/run")
    studio.start(one)
    studio.train(one, 1, 30)
    tab = tab_at(f"{dashboard.url}?training={one}", width=390, height=844)
    wait_until(lambda: tab.steps(), "the history")
    tab.idle()
    save = tab.page.locator('.charts [title="Save this chart as PNG: FVU"]')
    save.scroll_into_view_if_needed()
    expect(save).to_be_visible()
    save.focus()
    with tab.page.expect_download() as picture:
        save.press("Enter")
    assert picture.value.suggested_filename.endswith("fvu.png")
    csv = tab.page.get_by_role("link", name="CSV")
    expect(csv).to_have_js_property("href", f"{dashboard.url}api/v1/trainings/{one}/metrics?format=csv")
    tab.idle()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.timeout(300)
def test_live_steps_go_on_coming_while_choices_and_zooms_change(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("mixed000000001")
    studio.start(one)
    studio.train(one, 1, 200)
    over = threading.Event()

    def train() -> None:
        step = 200
        while step < 900 and not over.wait(0.02):
            step += 1
            studio.train(one, step, step)

    trainer = threading.Thread(target=train)
    tab = tab_at(f"{dashboard.url}?training={one}")
    wait_until(lambda: tab.steps(), "the history")
    trainer.start()
    try:
        drag(tab, "chart-loss", 0.1, 0.5)
        expect(tab.page.get_by_role("button", name="Show all")).to_be_visible(timeout=30_000)
        tab.page.get_by_label("Log scale").check()
        wait_until(lambda: tab.ranges("chart-l0")["x"][0] < 1, "the whole")
        drag(tab, "chart-l0", 0.6, 1.0)
        wait_until(lambda: tab.steps()[0] > 1, "the end")
        tab.page.get_by_role("button", name="Show all").click()
    finally:
        over.set()
        trainer.join()
    last = studio.trainings[one]["step"]
    wait_until(lambda: tab.steps() == list(range(1, last + 1)), "every step once")
