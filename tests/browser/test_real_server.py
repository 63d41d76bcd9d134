"""The page before the real server and real trainers: what a person who trains sees, also when things are killed."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import Server, Tab, processes_of, wait_until
from playwright.sync_api import Route, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TabAt = Callable[..., Tab]

CONFIG: dict[str, Any] = {
    "model": "demo",
    "architecture_type": "topk",
    "k": 8,
    "latent_dim": 4096,
    "training_layers": [1, 2],
    "batch_size": 128,
    # More than a machine makes while it is looked at; a twentieth of what they read is measured before the first.
    "total_steps": 60_000,
    "checkpoint_interval": 500,
    "log_interval": 20,
    "eval_interval": 0,
    "device": "cpu",
}


CUT_OFF = ["net::ERR_", "WebSocket", "503", "not connected so cannot send"]
"""What the browser and Bokeh write into the console while nobody answers."""


def grown(tab: Tab, beyond: float, what: str) -> list[float]:
    """The steps of the charts once they have got one behind `beyond`."""
    # Charts that are made anew are away for a moment.
    return wait_until(lambda: (steps := tab.steps())[-1:] > [beyond] and steps, what, 120)


def status(server: Server, training: str) -> str:
    return server.ask(f"trainings/{training}")["status"]


@pytest.fixture(scope="module")
def training(server: Server) -> str:
    """A training that runs for as long as the tests like, on a corpus that is soon read."""
    corpus = server.data_dir.parent / "corpus.txt"
    corpus.write_text("\n\n".join(inspect.getsource(module) for module in (argparse, subprocess)), "utf-8")
    config = {**CONFIG, "datasets": [str(corpus)]}
    one = server.ask("trainings", {"name": "watched", "config": config})["id"]
    wait_until(lambda: server.ask(f"trainings/{one}")["step"] > 20, "the first steps", 240)
    return one


def test_a_running_training_shows_its_history_at_once_and_grows(server: Server, training: str, tab_at: TabAt) -> None:
    tab = tab_at(server.url)
    row = tab.page.get_by_role("row").filter(has_text="watched")
    expect(row).to_contain_text("Running")
    tab.page.get_by_role("link", name="watched").click()
    first = wait_until(lambda: tab.steps(), "the history")
    assert first[0] == 1
    steps = grown(tab, first[-1] + 10, "live steps")
    # A longer history comes in buckets.
    if steps[-1] <= 1_000:
        assert steps == list(range(1, int(steps[-1]) + 1))
        rows = server.ask(f"trainings/{training}/metrics?sae=1&limit=20")["data"]
        losses = [row["loss"] for row in rows]
        wait_until(lambda: tab.steps("loss_1")[:20] == losses, "the losses that the API tells")
    expect(tab.page.get_by_role("button", name="L2.resid_post")).to_be_visible()
    shown = tab.whole_log()
    written = [line["version"] for line in server.ask(f"trainings/{training}/logs?limit=1000&order=asc")["data"]]
    assert shown == [version for version in written if shown[0] <= version <= shown[-1]]


def test_pause_and_resume_are_what_the_trainer_did(server: Server, training: str, tab_at: TabAt) -> None:
    """And a second browser sees it as it happens."""
    tab = tab_at(f"{server.url}?training={training}")
    page, other = tab.page, tab_at(f"{server.url}?training={training}").page
    expect(other.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=150_000)
    expect(other.get_by_role("button", name="Resume")).to_be_visible()
    assert status(server, training) == "paused"
    paused_at = server.ask(f"trainings/{training}")["step"]
    wait_until(lambda: tab.steps()[-1:] == [paused_at], "the last step before the pause")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".title .status")).to_have_text("Running", timeout=150_000)
    steps = grown(tab, paused_at + 5, "steps after the resume")
    assert steps == sorted(set(steps))
    page.get_by_role("button", name="Save checkpoint").click()
    wait_until(
        lambda: any(one["reason"] == "request" for one in server.ask(f"trainings/{training}/checkpoints")["data"]),
        "the checkpoint",
        120,
    )


@pytest.mark.crash
def test_a_killed_server_is_said_at_once_and_the_page_comes_back_by_itself(
    server: Server, training: str, tab_at: TabAt
) -> None:
    tab = tab_at(f"{server.url}?training={training}")
    server.ask("templates", {"name": "kept", "config": {"model": "demo", "datasets": ["stdlib"], "total_steps": 321}})
    form = tab_at(f"{server.url}?page=new")
    form.page.get_by_label("Load template").select_option(label="kept")
    loaded = form.page.locator(".hint").get_by_text("Loaded: kept · 1 field changed", exact=True)
    expect(form.page.get_by_label("Total steps", exact=True)).to_have_value("321")
    tab.allowed = form.allowed = CUT_OFF
    wait_until(lambda: tab.steps() and tab.log_lines(), "history and log")
    lines = tab.whole_log()
    form.page.get_by_label("Total steps", exact=True).fill("777")
    form.page.get_by_label("Total steps", exact=True).press("Tab")
    expect(loaded).to_be_visible()
    wait_until(lambda: "777" in form.page.evaluate("sessionStorage['saestudio:draft'] ?? ''"), "the draft")
    server.kill()
    expect(tab.page.locator(".banner")).to_be_visible()
    before = wait_until(lambda: tab.steps(), "the steps that have come")[-1]
    server.up()
    steps = grown(tab, before, "the charts with newer steps")
    expect(tab.page.locator(".connection .status")).to_contain_text("live · position")
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert f"training={training}" in tab.page.url
    again = tab.whole_log()
    assert again == sorted(set(again))
    assert set(lines[-10:]) <= set(again)
    expect(form.page.get_by_label("Total steps", exact=True)).to_have_value("777", timeout=60_000)
    expect(loaded).to_be_visible()
    expect(form.page.locator(".connection .status")).to_contain_text("live · position")


@pytest.mark.crash
def test_a_killed_dashboard_comes_back_and_the_api_never_notices(server: Server, training: str, tab_at: TabAt) -> None:
    tab = tab_at(f"{server.url}?training={training}")
    tab.allowed = CUT_OFF
    wait_until(lambda: tab.steps(), "the history")
    # Where the server was killed before, its dashboard may still be on its way out.
    words = ("-m\0ui\0", server.url.rstrip("/"))
    (child,) = wait_until(lambda: (found := processes_of(*words)) and len(found) == 1 and found, "the one dashboard")
    # Whether anybody answers is asked by the page again and again: it is told when it has been looked at.
    asked: list[Route] = []
    looked = threading.Event()
    # The route stays to the end: Playwright loses its hold of a request that comes just when one is taken away.
    tab.page.route(
        re.compile(r"static/js/bokeh\.min\.js"),
        lambda route: route.fallback() if looked.is_set() else asked.append(route),
    )
    os.kill(child, signal.SIGKILL)
    expect(tab.page.locator(".banner")).to_be_visible()
    before = wait_until(lambda: tab.steps(), "the steps that have come")[-1]
    wait_until(lambda: server.ask(f"trainings/{training}")["step"] >= before, "the API to go on")
    looked.set()
    for route in asked:
        route.fallback()
    grown(tab, before, "the page with newer steps")
