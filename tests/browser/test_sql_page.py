"""The page for questions in SQL, before the real server."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Server, Tab, wait_until
from playwright.sync_api import WebSocketRoute, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

TabAt = Callable[..., Tab]


def test_a_question_is_written_asked_and_answered_and_its_link_shows_it(
    server: Server, tab_at: TabAt, tmp_path: Path
) -> None:
    tab = tab_at(server.url)
    tab.idle()
    tab.page.get_by_role("link", name="SQL").click()
    expect(tab.page.get_by_role("heading", name="SQL", exact=True)).to_be_visible()
    expect(tab.page).to_have_title("SQL · SAE Studio")
    editor = tab.page.get_by_role("textbox", name="Statement")
    editor.fill(
        "SELECT type, count(*) AS n, NULL AS nothing\n"
        "FROM events WHERE type LIKE '%Registered' GROUP BY type ORDER BY type"
    )
    editor.press("Control+Enter")
    answer = tab.page.get_by_role("table", name="Answer")
    # The first question starts the process that answers.
    expect(answer.get_by_role("row")).to_have_count(3, timeout=60_000)
    expect(answer.get_by_role("row").nth(2)).to_have_text("ModelRegistered1NULL")
    expect(tab.page.get_by_text(re.compile(r"2 rows in .* true at position \d+"))).to_be_visible()
    with tab.page.expect_download() as saving:
        tab.page.get_by_role("button", name="Download CSV").click()
    saving.value.save_as(tmp_path / "answer.csv")
    kept = list(csv.reader((tmp_path / "answer.csv").read_text().splitlines()))
    assert kept == [["type", "n", "nothing"], ["DatasetRegistered", "1", ""], ["ModelRegistered", "1", ""]]
    expect(tab.page).to_have_url(re.compile(r"page=sql&q=SELECT"))
    tab.page.reload()
    tab.idle()
    expect(editor).to_have_value(re.compile("^SELECT type, count"))
    # What a link shows is not asked before somebody wants it.
    expect(answer).to_be_hidden()
    history = tab.page.get_by_role("combobox", name="History")
    expect(history.locator("option")).to_have_count(2)


def test_what_is_wrong_is_said_with_its_place_and_the_answer_before_stays(server: Server, tab_at: TabAt) -> None:
    tab = tab_at(f"{server.url}?page=sql")
    tab.idle()
    editor = tab.page.get_by_role("textbox", name="Statement")
    run = tab.page.get_by_role("button", name="Run")
    editor.fill("VALUES (42)")
    run.click()
    # The first question starts the process that answers.
    expect(tab.page.get_by_role("cell", name="42")).to_be_visible(timeout=60_000)
    editor.fill("SELECT los FROM metrics")
    run.click()
    expect(tab.page.get_by_role("alert")).to_contain_text("Line 1, column 8: Binder Error")
    editor.fill("DELETE FROM raw.logs")
    run.click()
    expect(tab.page.get_by_role("alert")).to_contain_text("Only questions are answered")
    expect(tab.page.get_by_role("cell", name="42")).to_be_visible()
    editor.fill("SELECT '<img src=x onerror=alert(1)>' AS \"<b>\" FROM range(2000)")
    run.click()
    expect(tab.page.get_by_text("Only the first 1,000 rows are here")).to_be_visible()
    expect(tab.page.get_by_role("cell", name="<img src=x onerror=alert(1)>").first).to_be_visible()


def test_what_is_typed_before_the_page_has_heard_anything_stays(server: Server, tab_at: TabAt) -> None:
    tab = tab_at(server.url)
    tab.idle()
    held: list[str | bytes] = []
    gates: list[WebSocketRoute] = []
    opened: list[bool] = []

    def gate(socket: WebSocketRoute) -> None:
        """From the first message for the editor on, nothing comes from the server until it is let through."""
        gates.append(socket)

        def coming(message: str | bytes) -> None:
            if not opened and (held or (isinstance(message, str) and '"statement"' in message)):
                held.append(message)
            else:
                socket.send(message)

        socket.connect_to_server().on_message(coming)

    tab.page.route_web_socket(re.compile("/ws"), gate)
    tab.page.goto(f"{server.url}?page=sql&q=VALUES+(1)")
    editor = tab.page.get_by_role("textbox", name="Statement")
    editor.fill("VALUES (42)")
    views = tab.page.get_by_role("navigation", name="Views").get_by_text("metrics", exact=True)
    expect(views).to_have_count(0)
    wait_until(lambda: tab.page.evaluate("true") and held, "a message for the editor")
    opened.append(True)
    for message in held:
        gates[-1].send(message)
    expect(views).to_be_visible()
    expect(editor).to_have_value("VALUES (42)")


def test_samples_and_columns_are_there_to_begin_with_and_a_question_can_be_given_up(
    server: Server, tab_at: TabAt
) -> None:
    tab = tab_at(f"{server.url}?page=sql", dark=True, width=420)
    tab.idle()
    editor = tab.page.get_by_role("textbox", name="Statement")
    tab.page.get_by_role("combobox", name="Samples").select_option("What does the log hold, by type?")
    expect(editor).to_have_value(re.compile("^SELECT type, count"))
    tab.page.get_by_role("button", name="Run").click()
    expect(tab.page.get_by_role("cell", name="DatasetRegistered")).to_be_visible(timeout=60_000)
    views = tab.page.get_by_role("navigation", name="Views")
    views.get_by_text("metrics", exact=True).click()
    editor.fill("")
    views.get_by_role("button", name="dead_latents").click()
    expect(editor).to_have_value("dead_latents")
    editor.fill("SELECT count(*) FROM range(1000000000) a, range(1000000000) b")
    tab.page.get_by_role("button", name="Run").click()
    tab.page.get_by_role("button", name="Cancel").click()
    expect(tab.page.get_by_role("alert")).to_contain_text("given up")
    editor.fill("VALUES (7)")
    tab.page.get_by_role("button", name="Run").click()
    expect(tab.page.get_by_role("cell", name="7", exact=True)).to_be_visible()
    wide = tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert wide
