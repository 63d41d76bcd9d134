"""What stands around a training's charts, in a real browser: its card's deeds, its folded sections, its log's tools."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable

import msgspec
import pytest
from harness import Dashboard, Tab, retry, wait_until
from playwright.sync_api import Locator, expect
from scripted_studio import CONFIG, Studio, evaluation_of

from events.control import CheckpointRequested, PauseRequested, TrainingCreated
from events.training import CheckpointDeleted, TrainingConfig

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]
TRACEBACK = 'Traceback (most recent call last):\n  File "loop.py", line 7, in step\nRuntimeError: <b>no memory</b>'
SAID = 2.0
"""Seconds for which a button says that something is copied."""


def opened(tab: Tab, title: str) -> Locator:
    """The folded section of this title, opened."""
    fold = tab.page.get_by_role("button", name=title, exact=True)
    fold.click()
    expect(fold).to_have_attribute("aria-expanded", "true")
    return tab.page.locator(".section section", has=fold)


def armed(button: Locator) -> None:
    """Ask a button for what it does only when it is clicked once more."""
    button.click()
    expect(button).to_have_text("Really delete?")


def asked(studio: Studio, what: str) -> int:
    return sum(what in request for request in list(studio.requests))


def copied(tab: Tab) -> str:
    return tab.page.evaluate("navigator.clipboard.readText()")


def overflow(tab: Tab) -> int:
    """How many pixels the page is wider than its window."""
    return tab.page.evaluate(
        """() => {
            const box = Bokeh.index.roots.map(root => root.shadow_el?.querySelector(".main-content")).find(Boolean)
            return box.scrollWidth - box.clientWidth
        }"""
    )


def scrolled(tab: Tab, to: int | None = None) -> int:
    """Where the page is scrolled to, after it was scrolled `to` there."""
    return tab.page.evaluate(
        """to => {
            const roots = window.Bokeh?.index?.roots ?? []
            const box = roots.map(root => root.shadow_el?.querySelector(".main-content")).find(Boolean)
            if (box && to !== null) box.scrollTop = to
            return Math.round(box?.scrollTop ?? 0)
        }""",
        to,
    )


@pytest.fixture
def training(studio: Studio, request: pytest.FixtureRequest) -> str:
    """A running training of the test's own."""
    one = studio.create(f"sect{abs(hash(request.node.name)) % 10**10:010}")
    studio.start(one)
    studio.train(one, 1, 20)
    return one


def test_folded_sections_ask_for_nothing_until_they_are_opened(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    checked = asked(studio, "trainings/check")
    tab = tab_at(f"{dashboard.url}?training={training}")
    wait_until(lambda: tab.steps(), "the page")
    studio.save_checkpoint(training, 20)
    studio.train(training, 21, 22)
    wait_until(lambda: tab.steps()[-1:] == [22], "what came after the checkpoint")
    assert asked(studio, f"{training}/checkpoints") == asked(studio, f"{training}/activity") == 0
    assert asked(studio, "trainings/check") == checked
    expect(opened(tab, "Checkpoints").get_by_role("row", name="20")).to_be_visible()
    assert asked(studio, f"{training}/checkpoints") == 1


def test_the_whole_configuration_is_there_with_what_was_set_marked_and_can_be_copied(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    studio.defaults = {name: value for name, value in msgspec.to_builtins(CONFIG).items() if value is not None}
    config = msgspec.structs.replace(CONFIG, model="<img src=x onerror=alert(1)>", k=48, weight_decay=0.5)
    one = studio.create("hyper000000001", config=config)
    tab = tab_at(f"{dashboard.url}?training={one}")
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    section = opened(tab, "Hyperparameters")
    tab.hold_waits(SAID)
    expect(section.get_by_text("<img src=x onerror=alert(1)>", exact=True)).to_be_visible()
    field = section.locator("[data-field=learning_rate]")
    expect(field).to_contain_text("0.0003")
    assert "Adam's step size" in (field.get_attribute("title") or "")
    expect(section.locator(".differs dt")).to_have_text(["k", "Total steps", "Batch size", "Weight decay"])
    for label, read in (("TOML", tomllib.loads), ("JSON", json.loads)):
        section.get_by_role("button", name=f"Copy as {label}").click()
        expect(section.get_by_role("button", name="Copied")).to_be_visible()
        assert msgspec.convert(read(copied(tab)), TrainingConfig) == config
        tab.end_waits()
        expect(section.get_by_role("button", name=f"Copy as {label}")).to_be_visible()
    form = section.get_by_role("link", name="Use as form")
    expect(form).to_have_attribute("href", f"?page=new&from={one}")
    expect(section.get_by_role("link", name="Save as template")).to_have_attribute(
        "href", f"?page=new&from={one}&save=1"
    )
    # Beside another run: where they differ.
    studio.create("hyper000000002", name="wider by far", config=msgspec.structs.replace(config, k=64))
    # Before anything is typed all runs are found, this one too: only one of them is left when it has been looked for.
    studio.create("hyper000000003", name="not looked for")
    section.get_by_role("link", name="Compare with another run").click()
    add = tab.page.get_by_role("combobox", name="Add a run")
    add.fill("wider by far")
    expect(tab.page.get_by_role("listbox", name="Runs found").get_by_role("option")).to_have_count(1)
    add.press("ArrowDown")
    add.press("Enter")
    expect(tab.page.locator("[data-row=k] td")).to_have_text(["48", "64"])


def test_checkpoints_come_and_go_live_and_are_deleted_with_a_second_click(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    tab = tab_at(f"{dashboard.url}?training={training}")
    section = opened(tab, "Checkpoints")
    expect(section.get_by_text("No checkpoint has been saved yet.")).to_be_visible()
    section.get_by_role("button", name="Save now").click()
    wait_until(lambda: (training, "checkpoint") in studio.controls, "the request")
    studio.emit(training, CheckpointRequested(), stream="control")
    expect(section.get_by_role("button", name="Saving…")).to_be_disabled()
    studio.save_checkpoint(training, 20, reason="request")
    expect(section.get_by_role("button", name="Save now")).to_be_enabled()
    studio.save_checkpoint(training, 1_000)
    rows = section.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("1,000")
    # The best one is that with the lowest FVU of an evaluation, which may come after it.
    expect(section.locator(".best")).to_have_count(0)
    download = rows.first.get_by_role("link", name="Download the checkpoint")
    download.focus()
    studio.emit(training, evaluation_of(1_000))
    expect(rows.first.locator(".best")).to_have_text("best")
    # The rows were drawn anew for that, and who is at the keyboard has not lost the place.
    expect(download).to_be_focused()
    studio.emit(training, evaluation_of(20, fvu=0.01))
    expect(rows.nth(1).locator(".best")).to_have_text("best")
    expect(section.locator(".best")).to_have_count(1)
    expect(download).to_have_attribute("href", f"api/v1/trainings/{training}/checkpoints/1000/download")
    delete = rows.first.locator("button")
    armed(delete)
    tab.page.keyboard.press("Escape")
    expect(delete).to_have_text("Delete")
    armed(delete)
    # The question stands while the list is drawn anew around it.
    studio.save_checkpoint(training, 1_500)
    expect(rows).to_have_count(3)
    again = rows.nth(1).locator("button")
    expect(again).to_have_text("Really delete?")
    studio.refuse = "This training is running and would go on from its newest checkpoint."
    again.click()
    expect(section.get_by_role("alert").filter(has_text="would go on from")).to_be_visible()
    expect(rows).to_have_count(3)
    armed(again)
    again.click()
    expect(rows).to_have_count(2)
    studio.emit(training, CheckpointDeleted(step=20))
    expect(rows).to_have_count(1)
    expect(section.locator(".summary")).to_have_text("1 checkpoint, 6.37 MB")


def test_activity_says_who_did_what_newest_first_and_as_it_happens(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.emit(training, CheckpointRequested(), stream="control", actor="user:<b>eve</b>")
    tab = tab_at(f"{dashboard.url}?training={training}")
    rows = opened(tab, "Activity").locator("tbody .c-what")
    expect(rows).to_have_text(["Checkpoint asked for by user:<b>eve</b>", "Created"])
    studio.emit(training, PauseRequested(), stream="control", actor="user:root")
    expect(rows.first).to_have_text("Paused by user:root")
    studio.emit(training, *(PauseRequested() for _ in range(60)), stream="control")
    expect(rows).to_have_count(50)
    tab.page.get_by_role("button", name="Show older").click()
    expect(rows).to_have_count(63)


def test_a_section_that_fails_says_why_and_comes_with_a_retry(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.save_checkpoint(training, 20)
    tab = tab_at(f"{dashboard.url}?training={training}")
    for title, word in (("Checkpoints", "checkpoints"), ("Activity", "activity"), ("Hyperparameters", "check")):
        studio.fail[word] = f"The {word} cannot be read."
        section = opened(tab, title)
        expect(section.get_by_text(f"The {word} cannot be read.")).to_be_visible()
        retry(section, studio, word)
        expect(section.get_by_text(f"The {word} cannot be read.")).to_be_hidden()
    expect(tab.page.locator("tbody tr").first).to_be_visible()


def test_sections_say_that_they_are_reconnecting_and_catch_up(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.save_checkpoint(training, 10)
    tab = tab_at(f"{dashboard.url}?training={training}")
    section = opened(tab, "Checkpoints")
    expect(section.locator("tbody tr")).to_have_count(1)
    dashboard.api_down()
    try:
        expect(section.locator(".summary")).to_have_text("reconnecting…")
        studio.save_checkpoint(training, 20)
    finally:
        dashboard.api_up()
    expect(section.locator("tbody tr")).to_have_count(2, timeout=60_000)
    expect(section.locator(".summary")).to_have_text("2 checkpoints, 12.7 MB")


def test_retry_starts_a_new_training_linked_to_the_old_and_goes_there(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.set(training, status="failed", name="a run")
    tab = tab_at(f"{dashboard.url}?training={training}")
    studio.refuse = "The device cuda:0 is gone."
    tab.page.get_by_role("button", name="Retry", exact=True).click()
    expect(tab.page.get_by_text("The device cuda:0 is gone.")).to_be_visible()
    tab.page.get_by_role("button", name="Retry", exact=True).click()
    expect(tab.page.get_by_role("heading", name="a run (retry)")).to_be_visible()
    body = studio.created[-1]
    assert body["retry_of"] == training
    assert msgspec.convert(body["config"], TrainingConfig) == CONFIG
    link = tab.page.get_by_role("link", name=f"retry of {training}")
    link.click()
    expect(tab.page.get_by_role("heading", name="a run", exact=True)).to_be_visible()
    tab.page.go_back()
    expect(tab.page.get_by_role("heading", name="a run (retry)")).to_be_visible()


def test_deleting_asks_with_what_goes_and_says_it_in_every_tab(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.save_checkpoint(training, 10)
    tab, other = (tab_at(f"{dashboard.url}?training={training}") for _ in range(2))
    for one in (tab, other):
        expect(one.page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    expect(tab.page.get_by_role("button", name="Delete", exact=True)).to_have_count(0)
    studio.set(training, status="stopped")
    studio.emit(training, PauseRequested(), stream="control")
    delete = tab.page.get_by_role("button", name="Delete", exact=True)
    delete.click()
    question = tab.page.get_by_role("alertdialog")
    expect(question).to_contain_text("Its 1 checkpoint (6.37 MB) will be removed")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    tab.page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(delete).to_be_focused()
    delete.click()
    question.get_by_role("button", name="Delete for good").click()
    for one in (tab, other):
        expect(one.page.get_by_text("1 checkpoint (6.37 MB) was removed from disk.")).to_be_visible()
        expect(one.page.get_by_role("heading", name="Log")).to_be_hidden()
    expect(other.page.get_by_text("This training was deleted by user:ada.")).to_be_visible()
    tab.page.get_by_role("link", name="All trainings").click()
    expect(tab.page.get_by_role("heading", name="Trainings")).to_be_visible()


def test_a_name_is_edited_in_place_and_a_failure_keeps_what_was_typed(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    tab = tab_at(f"{dashboard.url}?training={training}")
    rename = tab.page.get_by_role("button", name="Rename")
    typed = tab.page.get_by_role("textbox", name="Name")
    rename.click()
    expect(typed).to_have_value(training)
    typed.fill("never")
    typed.press("Escape")
    expect(tab.page.get_by_role("heading", name=training)).to_be_visible()
    rename.click()
    typed.fill("<img src=x onerror=alert(1)>")
    studio.refuse = "This name is taken."
    typed.press("Enter")
    expect(tab.page.get_by_text("This name is taken.")).to_be_visible()
    expect(typed).to_have_value("<img src=x onerror=alert(1)>")
    typed.press("Enter")
    expect(tab.page.get_by_role("heading", name="<img src=x onerror=alert(1)>")).to_be_visible()
    expect(tab.page).to_have_title(re.compile(r"<img src=x onerror=alert\(1\)> · SAE Studio$"))


def test_log_lines_are_copied_all_or_as_selected_and_a_traceback_stays_whole(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.say(training, "one", "two", "three")
    studio.say(training, TRACEBACK, level="ERROR")
    tab = tab_at(f"{dashboard.url}?training={training}")
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(tab.page.get_by_text("RuntimeError: <b>no memory</b>", exact=True)).to_be_visible()
    tab.hold_waits(SAID)
    log = tab.page.locator(".log section")
    log.get_by_role("button", name="Copy").click()
    expect(log.get_by_role("button", name="Copied 6 lines")).to_be_visible()
    lines = copied(tab).split("\n")
    assert [line.partition(" trainer: ")[2] for line in lines[:3]] == ["one", "two", "three"]
    assert "\n".join(lines[3:]).endswith(TRACEBACK)
    # It is one line until it is unfolded, by keyboard too.
    fold = log.get_by_role("button", name="Traceback, 2 lines")
    expect(log.get_by_text('File "loop.py"')).to_have_count(0)
    fold.press("Enter")
    expect(log.get_by_text('File "loop.py"')).to_be_visible()
    expect(log.get_by_role("button", name="Fold")).to_be_focused()
    tab.page.keyboard.press("Enter")
    expect(fold).to_be_focused()
    expect(log.get_by_text('File "loop.py"')).to_have_count(0)
    tab.page.evaluate(
        """() => {
            const model = [...Bokeh.documents[0].all_models].find(model => model.class_name === "Log"
                && Bokeh.index.find_one_by_id(model.id)?.el.isConnected)
            const root = Bokeh.index.find_one_by_id(model.id).shadow_el
            const lines = [...root.querySelectorAll(".line .text")]
            getSelection().setBaseAndExtent(lines[1].firstChild, 1, lines[2].firstChild, 2)
        }"""
    )
    # A line that arrives leaves the selection as it is.
    studio.say(training, "four")
    expect(tab.page.get_by_text("four", exact=True)).to_be_visible()
    tab.end_waits()
    log.get_by_role("button", name="Copy", exact=True).click()
    expect(log.get_by_role("button", name="Copied 2 lines")).to_be_visible()
    assert [line.partition(" trainer: ")[2] for line in copied(tab).split("\n")] == ["two", "three"]


def test_a_log_is_copied_without_a_clipboard_too(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.say(training, "one")
    tab = tab_at(f"{dashboard.url}?training={training}")
    expect(tab.page.get_by_text("one", exact=True)).to_be_visible()
    tab.hold_waits(SAID)
    tab.page.evaluate(
        """() => {
            Object.defineProperty(navigator, "clipboard", {value: undefined})
            window.taken = ""
            addEventListener("copy", event => { window.taken = event.target.value ?? "" })
        }"""
    )
    tab.page.locator(".log section").get_by_role("button", name="Copy").click()
    expect(tab.page.get_by_role("button", name="Copied 1 line")).to_be_visible()
    assert tab.page.evaluate("window.taken").endswith("trainer: one")


def test_the_log_is_downloaded_with_what_is_looked_for(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.say(training, "an apple & more")
    tab = tab_at(f"{dashboard.url}?training={training}")
    download = tab.page.locator(".log section").get_by_role("link", name="Download")
    path = f"api/v1/trainings/{training}/logs?format=text"
    expect(download).to_have_attribute("href", path)
    tab.page.get_by_role("searchbox", name="Search the log").fill("apple & more")
    tab.page.get_by_role("combobox", name="Level").select_option("INFO")
    expect(download).to_have_attribute("href", f"{path}&level=INFO&q=apple+%26+more")


def test_a_reload_keeps_the_place_and_which_sections_are_open(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt
) -> None:
    studio.save_checkpoint(training, 10)
    other = studio.create("elsewhere00001")
    tab = tab_at(f"{dashboard.url}?training={training}", height=700)
    section = opened(tab, "Checkpoints")
    expect(opened(tab, "Hyperparameters").locator("dd").first).to_be_visible()
    tab.page.locator(".log section").get_by_role("button", name="Hide").click()
    expect(section.locator("tbody tr")).to_have_count(1)
    expect(tab.page.locator(".log .tools")).to_be_hidden()
    wait_until(lambda: tab.steps(), "the charts")
    tab.idle()
    place = 600
    wait_until(lambda: scrolled(tab, place) == place, "a page that is high enough")
    tab.page.reload()
    expect(section.locator("tbody tr")).to_have_count(1)
    expect(tab.page.get_by_role("button", name="Hyperparameters", exact=True)).to_have_attribute(
        "aria-expanded", "true"
    )
    expect(tab.page.get_by_role("button", name="Activity", exact=True)).to_have_attribute("aria-expanded", "false")
    expect(tab.page.get_by_role("button", name="Show log")).to_be_visible()
    wait_until(lambda: scrolled(tab) == place, "the place")
    # Another training is another page: it begins at its top, with its own sections.
    tab.page.goto(f"{dashboard.url}?training={other}")
    expect(tab.page.get_by_role("button", name="Checkpoints", exact=True)).to_have_attribute("aria-expanded", "false")
    assert scrolled(tab) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_on_a_phone(
    dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt, dark: bool
) -> None:
    studio.set(training, status="failed", name="W" * 255)
    studio.save_checkpoint(training, 123_456)
    studio.say(training, "x" * 400)
    studio.emit(training, TrainingCreated(name="x", template_id="y" * 200), stream="control", actor="user:" + "z" * 200)
    tab = tab_at(f"{dashboard.url}?training={training}", width=390, height=844, dark=dark)
    for title in ("Hyperparameters", "Checkpoints", "Activity"):
        section = opened(tab, title)
        expect(section.locator("dd, td").first).to_be_visible()
    tab.idle()
    wait_until(lambda: overflow(tab) == 0, "a page that is no wider than its window")
    wide = tab.page.locator(".section section :is(dd, td, button, a)").evaluate_all(
        "nodes => nodes.filter(node => node.getBoundingClientRect().right > innerWidth).map(node => node.textContent)"
    )
    assert wide == []


def test_what_is_folded_is_used_by_keyboard(dashboard: Dashboard, studio: Studio, training: str, tab_at: TabAt) -> None:
    studio.save_checkpoint(training, 10)
    tab = tab_at(f"{dashboard.url}?training={training}")
    fold = tab.page.get_by_role("button", name="Checkpoints", exact=True)
    fold.focus()
    tab.page.keyboard.press("Enter")
    section = tab.page.locator(".section section", has=fold)
    expect(section.locator("tbody tr")).to_have_count(1)
    expect(section.get_by_role("button", name="Save now")).to_be_enabled()
    for name in ("Save now", "Download", "Export", "Delete"):
        tab.page.keyboard.press("Tab")
        control = section.locator(":focus")
        expect(control).to_contain_text(name)
        assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
