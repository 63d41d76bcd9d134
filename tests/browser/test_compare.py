"""Runs side by side, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from harness import Dashboard, Held, Tab, drag, wait_until
from playwright.sync_api import Locator, expect
from scripted_studio import CONFIG, Studio, evaluation_of

from events.training import Sae, TrainingCompleted, TrainingResumed
from ui.theme import line_style

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]


def runs(studio: Studio, prefix: str, number: int, *, steps: int = 50) -> list[str]:
    """Running trainings that differ in k."""
    found = []
    for index in range(number):
        config = msgspec.structs.replace(CONFIG, k=16 * (index + 1))
        one = studio.create(f"{prefix}{index:0{14 - len(prefix)}}", name=f"{prefix} {index}", config=config)
        studio.start(one)
        studio.train(one, 1, steps)
        found.append(one)
    return found


def drawn(tab: Tab, metric: str, slot: int) -> list[float]:
    """The steps that a run's line is drawn from."""
    return tab.compared(metric, f"run{slot}")["step"]


def colour(tab: Tab, metric: str, slot: int) -> str | None:
    return tab.compared(metric, f"run{slot}")["colour"]


def test_runs_are_compared_by_address_and_keep_their_colours_when_others_come_and_go(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    first, second, third = runs(studio, "cmpaddress", 3)
    studio.emit(second, evaluation_of(40, 0, fvu=0.111), evaluation_of(40, 1, fvu=0.111))
    tab = tab_at(f"{dashboard.url}?page=compare&ids={first},{second}")
    wait_until(lambda: drawn(tab, "loss", 1) == list(range(1, 51)), "the charts")
    wait_until(
        lambda: [colour(tab, "loss", slot) for slot in (0, 1)] == [line_style(0)[0], line_style(1)[0]], "colours"
    )
    fields = tab.page.get_by_role("table", name="Configuration")
    expect(fields.get_by_role("row")).to_have_count(2)
    expect(fields.locator("[data-row=k] td")).to_have_text(["16", "32"])
    results = tab.page.get_by_role("table", name="What came of them")
    expect(results.locator("[data-row=evaluated_fvu] td")).to_have_text(["–", "0.111"])
    tab.page.get_by_role("checkbox", name="Every field").check()
    expect(fields.locator("[data-row=model] td")).to_have_text(["demo", "demo"])

    def edges(table: Locator) -> list[float]:
        heads = table.get_by_role("columnheader")
        return heads.evaluate_all("heads => heads.map(head => head.getBoundingClientRect().left)")

    wait_until(
        lambda: len(edges(fields)) == 2 and edges(results) == edges(fields),
        "the columns of both tables to stand below each other",
    )
    tab.page.get_by_role("checkbox", name="Every field").uncheck()

    # Another one, by keyboard.
    add = tab.page.get_by_role("combobox", name="Add a run")
    add.fill("cmpaddress 2")
    expect(tab.page.get_by_role("listbox", name="Runs found").get_by_role("option")).to_have_count(1)
    add.press("ArrowDown")
    add.press("Enter")
    wait_until(lambda: drawn(tab, "loss", 2) == list(range(1, 51)), "the third run")
    expect(tab.page).to_have_url(re.compile(f"ids={first}%2C{second}%2C{third}$"))
    expect(tab.page.get_by_role("group", name="Runs").get_by_role("link")).to_have_count(3)
    tab.page.get_by_role("button", name="Take cmpaddress 1 away").click()
    # In this order: while no chart is there, no line is.
    wait_until(
        lambda: not drawn(tab, "loss", 1) and drawn(tab, "loss", 2) and colour(tab, "loss", 2) == line_style(2)[0],
        "the second run to be gone, and the third to keep its colour",
    )
    expect(tab.page).to_have_url(re.compile(f"ids={first}%2C%2C{third}$"))

    tab.page.get_by_role("button", name="Tokens").click()
    tab.page.get_by_role("checkbox", name="Log scale").check()
    expect(tab.page).to_have_url(re.compile("axis=tokens&log=1$"))
    tab.page.reload()
    expect(tab.page.get_by_role("checkbox", name="Log scale")).to_be_checked()
    expect(tab.page.get_by_role("group", name="Runs").get_by_role("link")).to_have_count(2)
    expect(tab.page).to_have_title("Compare · SAE Studio")


def test_only_charts_in_sight_go_on_live_and_the_others_catch_up_when_they_are_seen(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one, other = runs(studio, "cmplive", 2)
    tab = tab_at(f"{dashboard.url}?page=compare&ids={one},{other}", width=700, height=500)
    wait_until(lambda: len(drawn(tab, "tokens_per_second", 0)) == 50, "the charts")
    tab.idle()
    studio.train(one, 51, 60)
    wait_until(lambda: drawn(tab, "loss", 0) == list(range(1, 61)), "the chart in sight to go on")
    # Whatever else came with those steps comes before the next one.
    studio.train(one, 61, 61)
    wait_until(lambda: drawn(tab, "loss", 0) == list(range(1, 62)), "the chart in sight to go on further")
    assert len(drawn(tab, "tokens_per_second", 0)) == 50
    tab.chart("compare-tokens_per_second")
    wait_until(lambda: drawn(tab, "tokens_per_second", 0) == list(range(1, 62)), "the chart that is seen now")
    # A resume preempts steps: the line is another one from there on.
    studio.emit(one, TrainingResumed(step=30))
    studio.train(one, 31, 35)
    wait_until(lambda: drawn(tab, "tokens_per_second", 0) == list(range(1, 36)), "the line without preempted steps")
    assert len(drawn(tab, "tokens_per_second", 1)) == 50


def test_what_is_selected_in_one_view_stands_out_in_all(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    one, other = runs(studio, "cmpselect", 2)
    tab = tab_at(f"{dashboard.url}?page=compare&ids={one},{other}")
    wait_until(lambda: len(drawn(tab, "loss", 1)) == 50, "the charts")
    table = tab.page.get_by_role("table", name="What came of them")
    expect(table.get_by_role("columnheader")).to_have_count(2)

    def selected() -> list[int] | None:
        return tab.page.evaluate("Bokeh.documents[0].get_model_by_name('frontier')?.selected.indices")

    def faded(slot: int) -> bool:
        return (tab.compared("loss", f"run{slot}")["alpha"] or 1) < 1

    tab.page.get_by_role("group", name="Runs").get_by_role("button", name="cmpselect 1", exact=True).click()
    wait_until(lambda: faded(0) and not faded(1) and selected() == [2, 3], "the second run to stand out")
    expect(table.get_by_role("button", name="cmpselect 1")).to_have_attribute("aria-pressed", "true")
    # A click is one, although the figures below the head change while the button is down.
    head = table.get_by_role("button", name="cmpselect 1")
    place = tab.place(head)
    tab.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.page.mouse.down()
    studio.train(one, 51, 60)
    expect(table.locator("[data-row=steps] td").first).to_contain_text("60")
    tab.page.mouse.up()
    wait_until(lambda: not faded(0) and not faded(1) and selected() == [], "none to stand out")
    # From the scatter back: its first point is the first run's.
    tab.page.evaluate("Bokeh.documents[0].get_model_by_name('frontier').selected.indices = [0]")
    wait_until(lambda: faded(1) and not faded(0), "the first run to stand out")
    expect(table.get_by_role("button", name="cmpselect 0")).to_have_attribute("aria-pressed", "true")
    # It is part of the link.
    expect(tab.page).to_have_url(re.compile("&sel=run0$"))
    tab.page.reload()
    wait_until(lambda: drawn(tab, "loss", 0)[-1:] == [60], "the charts again")
    wait_until(lambda: faded(1) and not faded(0) and selected() == [0, 1], "the first run to stand out again")
    table.get_by_role("button", name="cmpselect 0").click()
    wait_until(lambda: not faded(0) and not faded(1) and selected() == [], "all alike")


def test_a_head_is_the_same_while_its_status_changes(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    one, other = runs(studio, "cmpstatus", 2)
    tab = tab_at(f"{dashboard.url}?page=compare&ids={one},{other}")
    heads = tab.page.get_by_role("group", name="Runs")
    pick = heads.get_by_role("button", name="cmpstatus 1", exact=True)
    place = tab.place(pick)
    tab.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.page.mouse.down()
    studio.set(one, status="completed")
    studio.emit(one, TrainingCompleted(step=50))
    expect(heads.locator(".status").first).to_have_text("Completed")
    tab.page.mouse.up()
    expect(pick).to_have_attribute("aria-pressed", "true")
    expect(pick).to_be_focused()


def test_the_list_of_found_runs_stays_closed_and_forgets_what_was_marked(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one, other, wanted, _ = runs(studio, "cmpfound", 4)
    tab = tab_at("about:blank")
    held = Held(tab.page)
    tab.page.goto(f"{dashboard.url}?page=compare&ids={one},{other}")
    add = tab.page.get_by_role("combobox", name="Add a run")
    found = tab.page.get_by_role("listbox", name="Runs found", include_hidden=True)
    options = found.get_by_role("option", include_hidden=True)
    add.fill("cmpfound")
    expect(options).to_have_count(2)
    expect(found).to_be_visible()
    add.press("ArrowDown")
    expect(options.first).to_have_attribute("aria-selected", "true")
    # An answer to what is typed comes when nobody waits for it any more.
    held.hold('"found"')
    add.press_sequentially(" 2")
    wait_until(lambda: tab.page.evaluate("true") and held.messages, "the answer")
    add.press("Escape")
    expect(found).to_be_hidden()
    expect(options.first).to_have_attribute("aria-selected", "false")
    held.release()
    expect(options).to_have_count(1)
    expect(found).to_be_hidden()
    expect(add).to_have_value("cmpfound 2")
    # It comes back by an arrow key or a click, with nothing marked: Enter adds nothing.
    add.press("ArrowDown")
    expect(found).to_be_visible()
    add.press("Enter")
    add.press("Escape")
    expect(found).to_be_hidden()
    add.click()
    expect(found).to_be_visible()
    # It closes where somebody goes on elsewhere, and not under the pointer that chooses from it.
    tab.page.get_by_role("heading", level=1).click()
    expect(found).to_be_hidden()
    add.click()
    options.first.click()
    expect(tab.page.get_by_role("group", name="Runs").get_by_role("link")).to_have_count(3)
    expect(tab.page).to_have_url(re.compile(f"ids={one}%2C{other}%2C{wanted}$"))
    expect(found).to_be_hidden()
    expect(add).to_have_value("")


def test_a_zoom_brings_every_step_of_its_range_for_every_run_and_smoothing_is_part_of_the_link(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    long, short = runs(studio, "cmpzoom", 2, steps=100)
    studio.train(long, 101, 4_000)
    tab = tab_at(f"{dashboard.url}?page=compare&ids={long},{short}&smooth=30")
    wait_until(lambda: len(drawn(tab, "loss", 0)) > 300, "the charts")
    tab.idle()
    coarse = drawn(tab, "loss", 0)
    assert coarse[-1] == 4_000
    drag(tab, "compare-loss", 0.5, 0.55)
    wait_until(lambda: (near := drawn(tab, "loss", 0)) and near[0] > 1_500 and near[-1] < 2_600, "the range")
    near = drawn(tab, "loss", 0)
    assert near == list(range(int(near[0]), int(near[-1]) + 1))
    # The other run has long ended there.
    wait_until(lambda: len(drawn(tab, "loss", 1)) <= 1, "the other run's part")
    expect(tab.page.get_by_text(re.compile(r"^Steps (1,9|2,)\d+ to 2,\d+$"))).to_be_visible()
    studio.train(long, 4_001, 4_010)
    tab.page.get_by_role("button", name="Show all").click()
    wait_until(lambda: drawn(tab, "loss", 0) == [*coarse, *range(4_001, 4_011)], "the whole, with what came meanwhile")
    wait_until(lambda: len(drawn(tab, "loss", 1)) == 100, "the whole of the other run")
    wait_until(lambda: tab.ranges("compare-loss")["x"][1] > 4_000, "the axis to be whole again")
    expect(tab.page.get_by_role("button", name="Show all")).to_be_hidden()
    smoothing = tab.page.get_by_role("slider", name="Smoothing")
    expect(smoothing).to_have_attribute("aria-valuetext", "30 steps")
    smoothing.press("Home")
    expect(tab.page).to_have_url(re.compile(f"ids={long}%2C{short}$"))
    wait_until(lambda: drawn(tab, "loss", 0)[-1:] == [4_010], "the lines as they are")


def test_the_saes_of_one_run_and_a_run_that_is_not_there(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    (one,) = runs(studio, "cmpone", 1)
    tab = tab_at(f"{dashboard.url}?page=compare&ids={one}")
    expect(tab.page.get_by_role("table", name="What came of them").get_by_role("columnheader")).to_have_text(
        ["L1.resid_post", "L2.resid_post"]
    )
    # Variants have configurations of their own.
    varied = studio.create("cmpvaried00000", config=msgspec.structs.replace(CONFIG, variants=({"k": 8}, {"k": 64})))
    studio.start(varied, tuple(Sae(layer=1, hook="resid_post", variant=number) for number in range(2)))
    studio.train(varied, 1, 20)
    tab.page.goto(f"{dashboard.url}?page=compare&ids={varied}")
    fields = tab.page.get_by_role("table", name="Configuration")
    expect(fields.get_by_role("columnheader")).to_have_text(["L1.resid_post #0", "L1.resid_post #1"])
    expect(fields.locator("[data-row=k] td")).to_have_text(["8", "64"])
    # They stay lines of their own beside another run, which can show one of its SAEs as well.
    add = tab.page.get_by_role("combobox", name="Add a run")
    add.fill("cmpone 0")
    expect(tab.page.get_by_role("listbox", name="Runs found").get_by_role("option")).to_have_count(1)
    add.press("ArrowDown")
    add.press("Enter")
    heads = fields.get_by_role("columnheader")
    name = "cmpvaried00000"
    expect(heads).to_have_text([f"{name} · L1.resid_post #0", f"{name} · L1.resid_post #1", "cmpone 0"])
    expect(fields.locator("[data-row=k] td")).to_have_text(["8", "64", "16"])
    expect(tab.page).to_have_url(re.compile(f"ids={varied}~0%2C{varied}~1%2C{one}$"))
    tab.page.get_by_role("combobox", name="What is shown of cmpone 0").select_option("L2.resid_post")
    expect(heads.last).to_have_text("cmpone 0 · L2.resid_post")
    # The heads above the charts are told after those of the table.
    shown = tab.page.get_by_role("combobox", name="What is shown of cmpone 0 · L2.resid_post")
    expect(shown).to_be_visible()
    tab.page.get_by_role("button", name=f"Take {name} · L1.resid_post #0 away").click()
    expect(heads).to_have_text([f"{name} · L1.resid_post #1", "cmpone 0 · L2.resid_post"])
    tab.page.reload()
    expect(heads).to_have_text([f"{name} · L1.resid_post #1", "cmpone 0 · L2.resid_post"])
    wait_until(lambda: (colour(tab, "loss", 1), colour(tab, "loss", 2)) == (line_style(1)[0], line_style(2)[0]), "them")
    missing = tab_at(f"{dashboard.url}?page=compare&ids={one},nowhere0000000")
    missing.allowed.append("404")
    expect(missing.page.get_by_role("alert")).to_contain_text("There is no run nowhere0000000.")
    expect(missing.page.get_by_role("table", name="What came of them")).to_be_visible()
    missing.page.get_by_role("button", name="Take away", exact=True).click()
    expect(missing.page.get_by_role("alert")).to_be_hidden()
    expect(missing.page).to_have_url(re.compile(f"ids={one}$"))
    missing.page.get_by_role("link", name="Compare").click()
    expect(missing.page.get_by_role("heading", name="Nothing to compare yet")).to_be_visible()


def test_names_are_text_and_nothing_overflows_on_a_phone(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    name = "<img src=x onerror=alert(1)>@loss$x " + "long " * 30
    found = runs(studio, "cmpnames", 3, steps=20)
    for index, one in enumerate(found):
        studio.set(one, name=f"{index} {name}".strip())
    tab = tab_at(f"{dashboard.url}?page=compare&ids={','.join(found)}", width=390, height=844)
    tab.page.on("dialog", lambda dialog: tab.wrong.append("a script ran"))
    wait_until(lambda: len(drawn(tab, "loss", 1)) == 20, "the charts")
    expect(tab.page.get_by_role("table", name="What came of them")).to_be_visible()
    box = tab.chart("compare-loss")
    reading = tab.page.locator(".bk-Tooltip").get_by_text("<img src=x onerror=alert(1)>@loss$x").first

    def read() -> bool:
        # A line is hit within two pixels.
        for down in range(20, int(box["height"]) - 20, 3):
            tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + down)
            if reading.is_visible():
                # All of it is in sight, however long the name is.
                shown = reading.bounding_box()
                return shown is not None and 0 <= shown["x"] < shown["x"] + shown["width"] <= 390
        return False

    wait_until(read, "a line's name to be read at the pointer")
    assert tab.page.evaluate("document.querySelectorAll('img').length") == 0
    overflow = tab.page.evaluate(
        """() => {
            const box = Bokeh.index.roots.map(root => root.shadow_el?.querySelector(".main-content")).find(Boolean)
            return box.scrollWidth - box.clientWidth
        }"""
    )
    assert overflow <= 0
    tables = [tab.page.get_by_role("region", name=table) for table in ("What came of them", "Configuration")]
    # A run's column stays below itself.
    for scrolled, other, left in ((*tables, 60), (*reversed(tables), 20)):
        scrolled.evaluate("(box, left) => { box.scrollLeft = left }", left)
        wait_until(lambda other=other, left=left: other.evaluate("box => box.scrollLeft") == left, "the other table")
