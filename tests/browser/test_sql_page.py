"""The page for questions in SQL, before the real server."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow.ipc
import pyarrow.parquet
import pytest
from harness import Held, Server, Tab, wait_until
from playwright.sync_api import expect

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
    for form, read in (("CSV", read_csv), ("Parquet", read_parquet), ("Arrow", read_arrow)):
        with tab.page.expect_download() as saving:
            tab.page.get_by_role("button", name=f"Download {form}").click()
        saving.value.save_as(tmp_path / form)
        assert read(tmp_path / form) == [("DatasetRegistered", 1, None), ("ModelRegistered", 1, None)], form
        assert saving.value.suggested_filename == f"answer.{form.lower()}"
    expect(tab.page).to_have_url(re.compile(r"page=sql&q=SELECT"))
    tab.page.reload()
    tab.idle()
    expect(editor).to_have_value(re.compile("^SELECT type, count"))
    # What a link shows is not asked before somebody wants it: when the page has all else, nothing is on its way.
    expect(tab.page.get_by_role("navigation", name="Views").get_by_text("metrics", exact=True)).to_be_visible()
    expect(tab.page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(answer).to_be_hidden()
    history = tab.page.get_by_role("combobox", name="History")
    expect(history.locator("option")).to_have_count(2)


def read_csv(file: Path) -> list[tuple[str, int, None]]:
    head, *rows = csv.reader(file.read_text().splitlines())
    assert head == ["type", "n", "nothing"]
    return [(type_, int(n), nothing or None) for type_, n, nothing in rows]  # type: ignore[misc]


def read_parquet(file: Path) -> list[tuple[str, int, None]]:
    return list(zip(*pyarrow.parquet.read_table(file).to_pydict().values(), strict=True))


def read_arrow(file: Path) -> list[tuple[str, int, None]]:
    return list(zip(*pyarrow.ipc.open_stream(file.read_bytes()).read_all().to_pydict().values(), strict=True))


def test_an_answer_is_drawn_as_its_types_suggest_and_as_somebody_chooses_which_its_link_shows(
    server: Server, tab_at: TabAt
) -> None:
    asked = "SELECT i AS step, i % 2 = 0 AS even, i * i AS a, 5000 - i AS b FROM range(12000) AS t(i)"
    tab = tab_at(f"{server.url}?page=sql&q={quote(asked)}")
    tab.idle()
    chart = tab.page.get_by_role("region", name="Chart")
    expect(tab.page.get_by_role("textbox", name="Statement")).to_have_value(asked)
    expect(chart).to_be_hidden()
    tab.page.get_by_role("button", name="Run").click()
    expect(chart).to_be_visible(timeout=60_000)
    drawn = [{"x": "x", "y": "y", "points": 5_000, "type": "Line"}] * 2
    wait_until(lambda: answer_chart(tab) == drawn, "two lines")
    expect(tab.page.get_by_text("Only the first 1,000 rows are here; a download has all of them.")).to_be_visible()
    expect(chart.get_by_text("This is drawn from the first 10,000 rows")).to_be_visible()
    chart.get_by_role("button", name="Points").click()
    wait_until(lambda: {one["type"] for one in answer_chart(tab)} == {"Scatter"}, "points")
    chart.get_by_role("button", name="b", exact=True).click()
    wait_until(lambda: len(answer_chart(tab)) == 4, "two columns of two kinds")
    chart.get_by_role("combobox", name="Colour").select_option("none")
    wait_until(lambda: len(answer_chart(tab)) == 2, "two columns")
    expect(tab.page).to_have_url(re.compile("chart=points&x=step&y=a%2Cb$"))
    tab.page.reload()
    tab.idle()
    run = tab.page.get_by_role("button", name="Run")
    expect(tab.page.get_by_role("textbox", name="Statement")).to_have_value(asked)
    run.click()
    wait_until(lambda: [one["type"] for one in answer_chart(tab)] == ["Scatter"] * 2, "the same chart")
    expect(chart.get_by_role("button", name="Points")).to_have_attribute("aria-pressed", "true")
    # What has no number is a table only.
    tab.page.get_by_role("textbox", name="Statement").fill("SELECT 'x' AS only")
    run.click()
    expect(tab.page.get_by_role("cell", name="x", exact=True)).to_be_visible()
    expect(chart).to_be_hidden()


def answer_chart(tab: Tab) -> list[dict[str, object]]:
    """What the answer's chart draws."""
    return tab.page.evaluate("""() => {
        const plot = [...(window.Bokeh?.documents[0]?.all_models ?? [])]
            .find(one => one.name === "answer" && Bokeh.index.find_one_by_id(one.id)?.el.isConnected)
        return (plot?.renderers ?? []).map(({glyph, data_source}) => ({
            x: glyph.x.field, y: glyph.y.field, points: data_source.get_length(), type: glyph.type,
        }))
    }""")


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
    # A file that cannot be made says why, and the browser's console that it was refused.
    tab.allowed.append("422")
    editor.fill("SELECT [1] AS many")
    run.click()
    expect(tab.page.get_by_role("cell", name="[1]")).to_be_visible()
    tab.page.get_by_role("button", name="Download CSV").click()
    expect(tab.page.get_by_text("Column many has lists or structs, which CSV has not")).to_be_visible()


def test_what_is_typed_before_the_page_has_heard_anything_stays(server: Server, tab_at: TabAt) -> None:
    tab = tab_at(server.url)
    tab.idle()
    held = Held(tab.page)
    held.hold('"statement"')
    tab.page.goto(f"{server.url}?page=sql&q=VALUES+(1)")
    editor = tab.page.get_by_role("textbox", name="Statement")
    editor.fill("VALUES (42)")
    views = tab.page.get_by_role("navigation", name="Views").get_by_text("metrics", exact=True)
    expect(views).to_have_count(0)
    wait_until(lambda: tab.page.evaluate("true") and held.messages, "a message for the editor")
    held.release()
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
    expect(tab.page.get_by_role("cell", name="7", exact=True)).to_be_visible(timeout=60_000)
    tab.page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
