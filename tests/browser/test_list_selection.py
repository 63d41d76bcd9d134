"""Finding trainings in a long list, and doing something with several of them, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec
import pytest
from harness import Dashboard, Tab, wait_until
from playwright.sync_api import expect
from scripted_studio import CONFIG, Studio

from events.control import TrainingTagged

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]


@pytest.fixture(autouse=True)
def alone(dashboard: Dashboard) -> Iterator[None]:
    """Every test has a list of its own."""
    dashboard.studio.trainings.clear()
    yield
    dashboard.studio.trainings.clear()


def listed(studio: Studio, number: int, **fields: object) -> list[str]:
    """Trainings `run 0`, `run 1`, …, the newest last."""
    found = []
    for index in range(number):
        config = msgspec.structs.replace(CONFIG, k=16 * (1 + index % 2))
        found.append(studio.create(f"list{index:010}", name=f"run {index}", config=config, **fields))
    return found


def names(tab: Tab) -> list[str]:
    return tab.page.locator(".c-name a").all_inner_texts()


def test_trainings_are_found_by_a_field_of_their_configuration_and_by_tag(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    for index, one in enumerate(listed(studio, 4)):
        studio.set(one, tags=["wide"] if index < 2 else [])
    tab = tab_at(dashboard.url)
    tab.page.get_by_role("button", name="+ Filter").click()
    tab.page.get_by_role("combobox", name="Field").select_option("k")
    tab.page.get_by_role("combobox", name="Value").fill("32")
    tab.page.keyboard.press("Enter")
    wait_until(lambda: names(tab) == ["run 3", "run 1"], "those with k = 32")
    expect(tab.page).to_have_url(re.compile(r"\?where=k%3D32$"))
    tab.page.get_by_role("group", name="Tags").get_by_role("button", name="wide 2").click()
    wait_until(lambda: names(tab) == ["run 1"], "the one that is tagged too")
    tab.page.reload()
    wait_until(lambda: names(tab) == ["run 1"], "the same after a reload")
    tab.page.get_by_role("button", name="k is 32").click()
    wait_until(lambda: names(tab) == ["run 1", "run 0"], "those that are tagged")
    tab.page.get_by_role("group", name="Tags").get_by_role("button", name="wide 2").click()
    tab.page.get_by_role("combobox", name="Group by").select_option("k")
    wait_until(lambda: names(tab) == ["run 2", "run 0", "run 3", "run 1"], "groups")
    expect(tab.page.locator(".heading")).to_have_text(["16", "32"])


def test_a_list_is_sorted_by_its_heads(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    for one, loss in zip(listed(studio, 3), (0.2, 0.9, 0.1), strict=True):
        studio.set(one, loss=loss)
    tab = tab_at(dashboard.url)
    head = tab.page.get_by_role("button", name="Loss", exact=True)
    head.click()
    wait_until(lambda: names(tab) == ["run 2", "run 0", "run 1"], "the least loss first")
    expect(tab.page.get_by_role("columnheader", name="Loss")).to_have_attribute("aria-sort", "ascending")
    head.click()
    wait_until(lambda: names(tab) == ["run 1", "run 0", "run 2"], "the greatest first")
    expect(tab.page).to_have_url(re.compile("sort=-loss$"))
    head.click()
    wait_until(lambda: names(tab) == ["run 2", "run 1", "run 0"], "the newest first")


def test_the_focus_stays_on_its_training_while_news_move_the_rows(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    found = listed(studio, 4)
    for one, loss in zip(found, (0.1, 0.2, 0.3, 0.4), strict=True):
        studio.set(one, loss=loss)
    tab = tab_at(f"{dashboard.url}?sort=loss")
    wait_until(lambda: names(tab) == ["run 0", "run 1", "run 2", "run 3"], "the least loss first")
    link = tab.page.get_by_role("link", name="run 1", exact=True)
    link.focus()
    # It moves past the others, then the others past it.
    for moved, loss, order in (
        (found[1], 0.9, ["run 0", "run 2", "run 3", "run 1"]),
        (found[0], 1.5, ["run 2", "run 3", "run 1", "run 0"]),
        (found[1], 0.01, ["run 1", "run 2", "run 3", "run 0"]),
    ):
        studio.set(moved, loss=loss)
        studio.emit(moved, TrainingTagged(tags=()), stream="control")
        wait_until(lambda wanted=order: names(tab) == wanted, "the rows in their new order")
        expect(link).to_be_focused()
    checkbox = tab.page.get_by_role("checkbox", name="Select run 3")
    checkbox.focus()
    studio.set(found[3], loss=0.001)
    studio.emit(found[3], TrainingTagged(tags=()), stream="control")
    wait_until(lambda: names(tab)[0] == "run 3", "the row at the top")
    expect(checkbox).to_be_focused()
    tab.page.keyboard.press("Space")
    expect(tab.page.get_by_text("1 selected")).to_be_visible()
    expect(checkbox).to_be_checked()


def test_a_click_is_one_while_the_numbers_change_and_the_keyboard_keeps_its_place(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    found = listed(studio, 3, status="running", tags=["wide"])
    tab = tab_at(dashboard.url)
    statuses = tab.page.get_by_role("group", name="Status")
    for button, event in (
        (statuses.get_by_role("button", name="Running"), lambda: studio.set(found[0], status="completed")),
        (tab.page.get_by_role("group", name="Tags").get_by_role("button"), lambda: studio.set(found[1], tags=[])),
    ):
        before = button.inner_text()
        place = tab.place(button)
        tab.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        tab.page.mouse.down()
        event()
        studio.emit(found[0], TrainingTagged(tags=()), stream="control")
        expect(button).not_to_have_text(before, use_inner_text=True)
        tab.page.mouse.up()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(button).to_be_focused()
        # What it had been before is in sight again, and who pressed the key is still there.
        tab.page.keyboard.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "false" if "wide" in before else "true")
        expect(button).to_be_focused()
    statuses.get_by_role("button", name="All").click()
    tab.page.get_by_role("checkbox", name="Select run 2").check()
    stop = tab.page.get_by_role("button", name="Stop…")
    stop.focus()
    tab.page.get_by_role("checkbox", name="Select run 1").evaluate("box => box.click()")
    expect(tab.page.get_by_text("2 selected")).to_be_visible()
    expect(tab.page.get_by_role("link", name="Compare", exact=True).last).to_be_visible()
    expect(stop).to_be_focused()


def test_an_action_on_several_names_exactly_what_it_touches_and_nothing_hidden(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    found = listed(studio, 4)
    for one, status in zip(found, ("completed", "failed", "running", "completed"), strict=True):
        studio.set(one, status=status)
    tab = tab_at(dashboard.url)
    row = tab.page.get_by_role("link", name="run 1", exact=True)
    before = tab.place(row)
    tab.page.get_by_role("checkbox", name="Select all 4").check()
    expect(tab.page.get_by_text("4 selected")).to_be_visible()
    assert tab.place(row) == before, "what is selected moves no row away from under the pointer"
    # What a filter hides is selected no more, also when the filter is gone.
    tab.page.get_by_role("group", name="Status").get_by_role("button", name="Completed 2").click()
    expect(tab.page.get_by_text("2 selected")).to_be_visible()
    tab.page.get_by_role("group", name="Status").get_by_role("button", name="All 4").click()
    wait_until(lambda: len(names(tab)) == 4, "all again")
    expect(tab.page.get_by_text("2 selected")).to_be_visible()
    tab.page.get_by_role("checkbox", name="Select run 2").check()
    expect(tab.page.get_by_text("3 selected")).to_be_visible()
    tab.page.get_by_role("button", name="Delete 2…").click()
    asked = tab.page.get_by_role("alertdialog")
    expect(asked).to_contain_text("Delete 2 trainings?")
    expect(asked.get_by_role("listitem")).to_have_text(["run 3", "run 0"])
    expect(asked).to_contain_text("Left alone: run 2 (is running).")
    tab.page.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    tab.page.get_by_role("button", name="Delete 2…").click()
    asked.get_by_role("button", name="Delete for good").click()
    expect(tab.page.get_by_text("2 trainings deleted.")).to_be_visible()
    wait_until(lambda: names(tab) == ["run 2", "run 1"], "the others")
    assert set(studio.trainings) == {found[1], found[2]}
    # A refusal is said with its name.
    studio.refuse = "It is on its way already."
    tab.page.get_by_role("button", name="Stop…").click()
    asked.get_by_role("button", name="Stop", exact=True).click()
    expect(tab.page.get_by_text("Refused: run 2: It is on its way already.")).to_be_visible()


def test_several_are_tagged_and_compared(dashboard: Dashboard, studio: Studio, tab_at: TabAt) -> None:
    found = listed(studio, 3)
    studio.set(found[0], tags=["old"])
    for one in found:
        studio.start(one)
        studio.train(one, 1, 5)
    tab = tab_at(dashboard.url)
    tab.page.get_by_role("checkbox", name="Select run 0").check()
    tab.page.get_by_role("checkbox", name="Select run 1").check()
    expect(tab.page.get_by_text("2 selected")).to_be_visible()
    tab.page.get_by_role("button", name="Tag…").click()
    tab.page.get_by_role("textbox", name="Tag").fill("<b>wide</b>")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_text("2 trainings tagged.")).to_be_visible()
    assert [studio.trainings[one].get("tags") for one in found[:2]] == [["old", "<b>wide</b>"], ["<b>wide</b>"]]
    tab.page.get_by_role("button", name="Tag…").click()
    tab.page.get_by_role("button", name="Take the tag old away").click()
    expect(tab.page.get_by_text("2 trainings untagged.")).to_be_visible()
    assert studio.trainings[found[0]]["tags"] == ["<b>wide</b>"]
    tab.page.get_by_role("link", name="Compare", exact=True).last.click()
    expect(tab.page.get_by_role("table", name="What came of them").get_by_role("columnheader")).to_have_count(2)


@pytest.mark.timeout(300)
def test_five_hundred_trainings_are_there_by_scrolling_and_stay_live(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    found = listed(studio, 500)
    tab = tab_at(dashboard.url)
    wait_until(lambda: len(names(tab)) >= 50, "the first rows")

    def at_the_end() -> bool:
        tab.page.evaluate(
            "() => { const box = Bokeh.index.roots.map(root => root.shadow_el?.querySelector('.main-content'))"
            ".find(Boolean); box.scrollTop = box.scrollHeight }"
        )
        return tab.page.locator(".c-name a").count() == 500

    wait_until(at_the_end, "all rows", 90)
    last = tab.page.get_by_role("row").filter(has=tab.page.get_by_role("link", name="run 0", exact=True))
    studio.start(found[0])
    studio.train(found[0], 1, 500)
    expect(last).to_contain_text("Running")
    expect(last).to_contain_text("25 %")
    tab.page.get_by_role("searchbox", name="Search trainings").fill("run 499")
    wait_until(lambda: names(tab) == ["run 499"], "what is looked for")
