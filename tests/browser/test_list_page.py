"""The list of trainings, and what all pages share, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from harness import Dashboard, Held, Tab, wait_until
from playwright.sync_api import expect

from events.control import TrainingRenamed
from ui.theme import DARK, LIGHT, Colours

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]


def test_an_empty_studio_says_what_to_do_and_the_first_training_appears(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    studio.trainings.clear()
    tab = tab_at(dashboard.url)
    expect(tab.page.get_by_role("heading", name="No trainings yet")).to_be_visible()
    expect(tab.page.get_by_text("saestudio train --demo")).to_be_visible()
    one = studio.create("newest00000001", name="the first one")
    row = tab.page.get_by_role("row").filter(has_text="the first one")
    expect(row).to_contain_text("Queued")
    studio.start(one)
    studio.train(one, 1, 500)
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("25 %")


def test_filters_have_true_counts_and_are_part_of_the_address(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    studio.trainings.clear()
    for number in range(3):
        studio.create(f"queued00000{number:03}", name=f"waits {number}")
    studio.set(studio.create("failed00000001", name="broken"), status="failed", reason="out of memory")
    tab = tab_at(dashboard.url)
    filters = tab.page.get_by_role("group", name="Status")
    expect(filters.get_by_role("button", name="All 4")).to_be_visible()
    filters.get_by_role("button", name="Failed 1").click()
    expect(tab.page.get_by_role("row")).to_have_count(2)
    expect(tab.page).to_have_url(re.compile(r"\?status=failed$"))
    tab.page.reload()
    expect(tab.page.get_by_role("row")).to_have_count(2)
    filters.get_by_role("button", name="All 4").click()
    tab.page.get_by_role("searchbox", name="Search trainings").fill("waits 2")
    expect(tab.page.get_by_role("row")).to_have_count(2)
    expect(tab.page).to_have_url(re.compile(r"\?q=waits\+2$"))
    tab.page.get_by_role("searchbox", name="Search trainings").fill("nothing like it")
    tab.page.get_by_role("button", name="Show all trainings").click()
    expect(tab.page.get_by_role("row")).to_have_count(5)


def test_links_back_forward_and_reload_lead_to_the_right_page(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one, other = studio.create("route000000001", name="one"), studio.create("route000000002", name="other")
    tab = tab_at(dashboard.url)
    heading = tab.page.get_by_role("heading", level=1)
    tab.page.get_by_role("link", name="one", exact=True).click()
    expect(heading).to_have_text("one")
    expect(tab.page).to_have_title("one · SAE Studio")
    expect(tab.page).to_have_url(re.compile(f"training={one}$"))
    tab.idle()
    tab.page.get_by_role("link", name="← Trainings").click()
    expect(heading).to_have_text("Trainings")
    tab.idle()
    tab.page.get_by_role("link", name="other", exact=True).click()
    expect(heading).to_have_text("other")
    tab.page.go_back()
    expect(heading).to_have_text("Trainings")
    tab.page.go_back()
    expect(heading).to_have_text("one")
    tab.page.go_forward()
    tab.page.go_forward()
    expect(heading).to_have_text("other")
    tab.page.reload()
    expect(heading).to_have_text("other")
    assert other in tab.page.url
    assert tab.page.evaluate("performance.getEntriesByType('navigation').length") == 1


def test_a_late_word_about_an_address_that_was_left_changes_nothing(dashboard: Dashboard, tab_at: TabAt) -> None:
    dashboard.studio.create("address0000001")
    tab = tab_at("about:blank")
    held = Held(tab.page)
    tab.page.goto(dashboard.url)
    search = tab.page.get_by_role("searchbox", name="Search")
    expect(search).to_be_visible()
    tab.idle()
    held.hold('"replace"')
    search.fill("address")
    wait_until(lambda: tab.page.evaluate("true") and held.messages, "the address of the search")
    tab.page.get_by_role("link", name="Templates", exact=True).click()
    expect(tab.page).to_have_url(re.compile(r"\?page=templates$"))
    held.release()
    expect(tab.page.get_by_role("heading", level=1, name="Templates")).to_be_visible()
    expect(tab.page).to_have_url(re.compile(r"\?page=templates$"))


def test_names_are_text_whatever_they_contain(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    names = ["<img src=x onerror=alert(1)>", "🦀" * 255, "‮عربي ‏right to left", '"><script>alert(2)</script>']
    for number, name in enumerate(names):
        studio.create(f"escape0000000{number}", name=name)
    studio.say("escape00000000", "<img src=x onerror=alert(3)>")
    tab = tab_at(dashboard.url)
    tab.page.on("dialog", lambda dialog: tab.wrong.append("a script ran"))
    for name in names:
        expect(tab.page.get_by_role("link", name=name, exact=True)).to_have_text(name)
    studio.emit("escape00000000", TrainingRenamed(name=names[3]), stream="control")
    tab.page.get_by_role("link", name=names[0], exact=True).click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(names[0])
    expect(tab.page.get_by_text("<img src=x onerror=alert(3)>")).to_be_visible()
    for number, name in enumerate(names):
        tab.page.goto(f"{dashboard.url}?training=escape0000000{number}")
        expect(tab.page.get_by_role("heading", level=1)).to_have_text(name)
        expect(tab.page.locator(".log section")).to_be_visible()
        tab.idle()
        assert tab.page.locator(".main-content").evaluate("page => page.scrollWidth <= page.clientWidth")


@pytest.mark.parametrize(("dark", "colours"), [(False, LIGHT), (True, DARK)])
def test_the_title_is_visible_and_the_choice_of_theme_is_remembered(
    dashboard: Dashboard, tab_at: TabAt, dark: bool, colours: Colours
) -> None:
    tab = tab_at(dashboard.url, dark=dark)
    title = tab.page.locator("header .title")
    expect(title).to_have_text("SAE Studio")

    header = title.locator("xpath=ancestor::header")
    # What the browser draws itself: boxes, sliders and lists.
    box = tab.page.get_by_label("Search trainings")

    def expect_theme(theme: Colours, scheme: str) -> None:
        expect(title).to_have_css("color", rgb(theme.text))
        expect(header).to_have_css("background-color", rgb(theme.surface))
        expect(box).to_have_css("color-scheme", scheme)
        expect(box).to_have_css("accent-color", rgb(theme.primary))

    expect_theme(colours, "dark" if dark else "light")
    tab.page.get_by_role("button", name="Toggle theme").click()
    other, scheme = (LIGHT, "light") if dark else (DARK, "dark")
    expect_theme(other, scheme)
    wait_until(lambda: f"saestudio_theme={scheme}" in tab.page.evaluate("document.cookie"), "the cookie")
    tab.page.reload()
    expect_theme(other, scheme)


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


def test_the_page_works_below_a_path_prefix(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("prefix00000001", name="prefixed")
    studio.start(one)
    studio.train(one, 1, 12)
    tab = tab_at(f"{dashboard.url}under/a/prefix/")
    tab.page.get_by_role("link", name="prefixed", exact=True).click()
    wait_until(lambda: tab.steps() == list(range(1, 13)), "the charts")
    expect(tab.page).to_have_url(f"{dashboard.url}under/a/prefix/?training={one}")
    tab.page.get_by_role("link", name="← Trainings").click()
    expect(tab.page).to_have_url(f"{dashboard.url}under/a/prefix/")


def test_a_phone_shows_everything_within_its_width(dashboard: Dashboard, tab_at: TabAt) -> None:
    studio = dashboard.studio
    one = studio.create("phone000000001", name="a-training-with-a-rather-long-name_TopK_L0-31")
    studio.start(one)
    studio.train(one, 1, 12)
    studio.say(one, "a line that is a good deal longer than a phone is wide, and goes on and on and on and on")
    for number, status in enumerate(("queued", "paused", "interrupted", "failed", "stopped", "completed")):
        studio.set(studio.create(f"phone00000001{number}"), status=status, tags=[f"a longer tag {number}"])
    tab = tab_at(dashboard.url, width=390, height=844)
    first = tab.page.get_by_role("link", name="a-training-with")
    expect(first).to_be_visible()
    tab.idle()
    assert tab.page.locator(".main-content").evaluate("page => page.scrollWidth") <= 390
    # Filters and tags take a line each, however many there are, and are pushed along.
    for strip in ("Status", "Tags"):
        assert tab.place(tab.page.get_by_role("group", name=strip, exact=True))["height"] < 50
    filters = tab.page.get_by_role("group", name="Status", exact=True)
    filters.get_by_role("button", name=re.compile("^Completed")).click()
    expect(first).to_be_hidden()
    filters.get_by_role("button", name=re.compile("^All")).click()
    first.click()
    wait_until(lambda: tab.steps() == list(range(1, 13)), "the charts")
    expect(tab.page.get_by_text("a line that is a good deal longer")).to_be_visible()
    tab.idle()
    assert tab.page.locator(".main-content").evaluate("page => page.scrollWidth") <= 390
    # All at once: a button may be drawn anew at any time.
    sides = tab.page.locator("button:visible").evaluate_all(
        "buttons => buttons.map(button => button.getBoundingClientRect()).map(({left, right}) => [left, right])"
    )
    assert len(sides) > 10
    assert all(left >= 0 and right <= 390 for left, right in sides)
