"""What somebody does and what happens reaches every page that is open, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from harness import Dashboard, Tab, wait_until
from playwright.sync_api import expect
from scripted_studio import Studio

from events.control import PauseRequested, TrainingInterrupted, TrainingNoted
from events.training import TrainingCompleted, TrainingFailed

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]

STAYS = 8.0
"""Seconds that no news stays for less."""

NOTE = """## Why

*wide* and **deep**, see [the other](?training=news0000000002) and [that](javascript:alert(1))

<img src=x onerror=alert(2)>
"""


def followed(tab: Tab, studio: Studio) -> None:
    """Wait until the dashboard has heard of everything that has happened."""
    expect(tab.page.locator(".connection .status")).to_contain_text(f"position {studio.head:,}")


def test_name_and_note_are_changed_in_the_list_and_on_the_page_and_seen_in_every_browser(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    studio.trainings.clear()
    one = studio.create("news0000000001", name="first")
    studio.set(one, verdict="watch", reasons=["L1.resid_post: dense latents"], tags=["a, b"])
    studio.set(studio.create("news0000000002", name="second"), status="failed")
    listed, page = tab_at(dashboard.url), tab_at(f"{dashboard.url}?training={one}")
    for tab in (listed, page):
        tab.page.on("dialog", lambda dialog: listed.wrong.append("a script ran"))
    row = listed.page.get_by_role("row").filter(
        has=listed.page.get_by_role("checkbox", name=re.compile("^Select (first|renamed)$"))
    )
    expect(row.locator(".verdict")).to_have_attribute("title", "L1.resid_post: dense latents")
    row.get_by_role("button", name="Rename or note first").press("Enter")
    form = listed.page.locator("form.describe")
    expect(form.get_by_role("textbox", name="Name")).to_be_focused()
    form.get_by_role("textbox", name="Name").fill("renamed")
    form.get_by_role("textbox", name="Note").fill(NOTE)
    studio.refuse = "The disk is full."
    listed.page.keyboard.press("Control+Enter")
    expect(form.get_by_role("alert")).to_contain_text("The disk is full.")
    expect(form.get_by_role("textbox", name="Note")).to_have_value(NOTE)
    # What is typed outlasts that its row is filtered away.
    statuses = listed.page.get_by_role("group", name="Status")
    statuses.get_by_role("button", name="Failed 1").click()
    expect(form).to_have_count(0)
    statuses.get_by_role("button", name="All 2").click()
    expect(form.get_by_role("textbox", name="Name")).to_have_value("renamed")
    expect(form.get_by_role("textbox", name="Note")).to_have_value(NOTE)
    form.get_by_role("textbox", name="Note").press("Control+Enter")
    expect(form).to_be_hidden()
    row.get_by_role("button", name="Why wide and deep, see the other").click()
    for tab in (listed, page):
        note = tab.page.get_by_role("group", name="Note")
        expect(note.locator("strong")).to_have_text("deep")
        expect(note.get_by_role("link")).to_have_text(["the other"])
        expect(note).to_contain_text("<img src=x onerror=alert(2)>")
        expect(note.locator("img")).to_have_count(0)
    expect(page.page.get_by_role("heading", name="renamed")).to_be_visible()
    page.page.get_by_role("button", name="Edit note").click()
    page.page.get_by_role("textbox", name="Note").fill("short")
    page.page.get_by_role("button", name="Save", exact=True).click()
    expect(page.page.get_by_role("group", name="Note")).to_have_text("short")
    expect(listed.page.get_by_role("group", name="Note")).to_have_text("short")
    listed.page.get_by_role("group", name="Tags").get_by_role("button", name="a, b 1").click()
    expect(listed.page).to_have_url(re.compile(r"\?tags=a%252C\+b$"))
    wait_until(lambda: listed.page.locator(".c-name a").all_inner_texts() == ["renamed"], "the one with the tag")
    listed.page.reload()
    wait_until(lambda: listed.page.locator(".c-name a").all_inner_texts() == ["renamed"], "the same after a reload")


def test_a_first_note_closes_its_form_also_where_the_row_tells_of_it_before_the_answer(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one = studio.create("firstnote00001", name="noted at once")
    page = tab_at(dashboard.url).page
    page.get_by_role("button", name="Rename or note noted at once").click()
    form = page.locator("form.describe")
    form.get_by_role("textbox", name="Note").fill("why")
    studio.hold()
    form.get_by_role("textbox", name="Note").press("Control+Enter")
    studio.set(one, note="why")
    studio.emit(one, TrainingNoted(note="why"), stream="control")
    shown = page.get_by_role("button", name="why", exact=True)
    expect(shown).to_be_visible()
    expect(form).to_be_visible()
    studio.let_go()
    expect(form).to_be_hidden()
    expect(page.get_by_role("group", name="Note")).to_be_hidden()
    # One that was open before the form is open after it.
    shown.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    form.get_by_role("textbox", name="Note").fill("why not")
    form.get_by_role("textbox", name="Note").press("Control+Enter")
    expect(page.get_by_role("group", name="Note")).to_have_text("why not")
    expect(form).to_be_hidden()


def test_an_end_is_told_once_on_whatever_page_and_tabs_say_how_far_a_training_is(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    studio.trainings.clear()
    found = [studio.create(f"toast000000000{number}", name=f"run {number}") for number in range(6)]
    before = studio.create("toast0000before", name="before")
    studio.emit(before, TrainingCompleted(step=2_000))
    for one in found[:2]:
        studio.start(one)
    studio.train(found[0], 1, 840)
    # What happened before somebody came is no news to them.
    followed(tab_at(f"{dashboard.url}?page=activity"), studio)
    listed, page = tab_at(dashboard.url), tab_at(f"{dashboard.url}?training={found[0]}")
    expect(listed.page).to_have_title("2 running · SAE Studio")
    expect(page.page).to_have_title("42 % · run 0 · SAE Studio")
    for tab in (listed, page):
        tab.idle()
        tab.hold_waits(STAYS)
    toasts = [tab.page.get_by_role("region", name="News").locator(".toast") for tab in (listed, page)]
    studio.set(found[0], status="completed")
    studio.emit(found[0], TrainingCompleted(step=2_000))
    for told in toasts:
        expect(told).to_have_count(1)
        expect(told).to_contain_text("run 0 is completed")
    expect(listed.page).to_have_title("1 running · SAE Studio")
    expect(page.page).to_have_title("Completed · run 0 · SAE Studio")
    studio.set(found[1], status="failed")
    studio.emit(found[1], TrainingFailed(error="<b>No memory.</b>"))
    expect(toasts[0].last).to_contain_text("run 1 has failed<b>No memory.</b>")
    toasts[0].last.get_by_role("link", name="Open").click()
    expect(listed.page).to_have_url(re.compile(f"training={found[1]}$"))
    expect(listed.page.get_by_role("heading", name="run 1")).to_be_visible()
    # They do not pile up, and what was told is not told again on the next page.
    for one in found[2:]:
        studio.emit(one, TrainingInterrupted(reason="Its process is gone."), stream="control")
    expect(toasts[0]).to_have_count(4)
    expect(toasts[0].last).to_contain_text("run 5 was interrupted")
    toasts[0].last.get_by_role("button", name="Dismiss").click()
    expect(toasts[0]).to_have_count(3)
    assert not toasts[0].filter(has_text="before").count()
    # In the end each goes by itself, but not under the eyes of who is at it.
    toasts[0].first.hover()
    listed.end_waits()
    expect(toasts[0]).to_have_count(1)
    listed.page.mouse.move(0, 0)
    listed.end_waits()
    expect(toasts[0]).to_have_count(0)


def test_a_bulk_actions_outcome_is_told_where_one_has_gone_meanwhile(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    studio.trainings.clear()
    for number in range(2):
        studio.set(studio.create(f"bulk0000000000{number}", name=f"run {number}"), status="completed")
    tab = tab_at(dashboard.url)
    tab.idle()
    tab.hold_waits(STAYS)
    tab.page.get_by_role("checkbox", name="Select all 2").click()
    tab.page.get_by_role("button", name="Delete…").click()
    studio.hold()
    tab.page.get_by_role("button", name="Delete for good").click()
    tab.page.get_by_role("link", name="Activity", exact=True).click()
    expect(tab.page.get_by_role("heading", name="Activity")).to_be_visible()
    studio.refuse = "It is busy."
    studio.let_go()
    news = tab.page.get_by_role("region", name="News").locator(".toast")
    expect(news).to_contain_text("1 training deleted.")
    # What was refused is there until it is dismissed: other news give way before it.
    [left] = studio.trainings
    for number in range(5):
        studio.emit(left, TrainingInterrupted(reason=f"gone {number}"), stream="control")
    expect(news.last).to_contain_text("gone 4")
    expect(news).to_have_count(4)
    expect(news.first).to_contain_text("It is busy.")
    tab.end_waits()
    expect(news).to_have_count(1)
    news.get_by_role("button", name="Dismiss").press("Enter")
    expect(news).to_have_count(0)


def test_activity_tells_of_everything_newest_first_live_by_whom_and_as_far_back_as_it_goes(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one = studio.create("done0000000001", name="<b>one</b>")
    for number in range(120):
        studio.emit(one, PauseRequested(), stream="control", actor="user:ada" if number % 2 else "token:ci")
    tab = tab_at(f"{dashboard.url}?page=activity")
    rows = tab.page.locator(".deeds li")
    expect(rows.first).to_have_text(re.compile(r"Paused<b>one</b>by ada$"))
    tab.page.get_by_text("This is where the log begins.").wait_for(state="hidden")

    def at_the_beginning() -> bool:
        tab.page.evaluate(
            "() => { const box = Bokeh.index.roots.map(root => root.shadow_el?.querySelector('.main-content'))"
            ".find(Boolean); box.scrollTop = box.scrollHeight }"
        )
        return tab.page.get_by_text("This is where the log begins.").is_visible()

    wait_until(at_the_beginning, "the beginning of the log", 60)
    expect(rows).to_have_count(len(studio.deeds(lambda raw: True)))
    expect(rows.last).to_contain_text("Created")
    tab.page.get_by_role("combobox", name="By").select_option("user:ada")
    expect(tab.page).to_have_url(re.compile(r"actor=user%3Aada$"))

    def by_ada_alone() -> bool:
        shown = rows.all_inner_texts()
        return len(shown) >= 50 and not any("by token:ci" in row for row in shown)

    wait_until(by_ada_alone, "a whole page of what ada did")
    studio.emit(one, TrainingInterrupted(reason="gone"), stream="control", actor="user:ada")
    expect(rows.first).to_contain_text("Found interrupted: gone")
    rows.first.get_by_role("link", name="<b>one</b>").click()
    expect(tab.page.get_by_role("heading", name="<b>one</b>")).to_be_visible()
