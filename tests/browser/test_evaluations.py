"""What a training's SAEs are worth, on its page, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from harness import Dashboard, Tab, retry
from playwright.sync_api import expect
from scripted_studio import Studio, evaluation_of

from events.control import TrainingRenamed

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]


def test_evaluations_arrive_live_with_verdict_reasons_figures_and_density(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one = studio.create("worth000000001", name="judged")
    studio.start(one)
    studio.train(one, 1, 190)
    tab = tab_at(f"{dashboard.url}?training={one}")
    section = tab.page.get_by_role("region", name="Evaluation")
    expect(section.get_by_text("The first evaluation comes at step 200")).to_be_visible()
    studio.emit(one, evaluation_of(200, 0), evaluation_of(200, 1, verdict="watch", reasons=("L0 is <b>31</b>.",)))
    second = section.get_by_role("article", name="Evaluation of L2.resid_post")
    expect(second).to_contain_text("watch")
    # What a trainer says is text, whatever it holds.
    expect(second.get_by_role("listitem")).to_have_text("L0 is <b>31</b>.")
    expect(section.get_by_text("The first evaluation")).to_be_hidden()
    first = section.get_by_role("article", name="Evaluation of L1.resid_post")
    fvu = first.locator("[data-figure=fvu]")
    expect(fvu).to_contain_text("0.474")
    expect(fvu.locator("svg")).to_have_count(0)
    density = first.get_by_role("img")
    expect(density).to_have_accessible_name(re.compile(silent(200)))
    expect(density.locator(".bin")).to_have_count(61)
    expect(tab.page.get_by_text("Evaluation: watch")).to_be_visible()

    studio.emit(one, evaluation_of(400, 0), evaluation_of(400, 1))
    expect(fvu).to_contain_text("0.370")
    expect(fvu.locator("svg polyline")).to_have_count(1)
    expect(fvu.locator(".trend")).to_have_text("▼")
    expect(tab.page.get_by_text("Evaluation: good")).to_be_visible()


def silent(step: int) -> str:
    histogram = evaluation_of(step).density_histogram
    return f"{sum(histogram):,} latents; {histogram[-1]:,} never fired"


def test_evaluations_that_cannot_be_loaded_say_why_and_are_asked_for_again(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    one = studio.create("worth000000002", name="unlucky")
    studio.start(one)
    studio.emit(one, evaluation_of(200, 0))
    studio.fail["evaluations"] = "The disk is on fire."
    tab = tab_at(f"{dashboard.url}?training={one}")
    tab.allowed.append("500")
    section = tab.page.get_by_role("region", name="Evaluation")
    expect(section.get_by_role("alert")).to_contain_text("The disk is on fire.")
    retry(section, studio, "evaluations")
    expect(section.get_by_role("article")).to_have_count(1)
    expect(section.get_by_role("alert")).to_be_hidden()


def test_a_queued_training_says_what_it_waits_for_and_notices_when_the_queue_moves(
    dashboard: Dashboard, studio: Studio, tab_at: TabAt
) -> None:
    before, one = studio.create("worth000000003", name="first"), studio.create("worth000000004", name="second")
    studio.set(one, reason="Waits for a slot: 1 of 1 slots is taken, by first; 1 before it in the queue.")
    tab = tab_at(f"{dashboard.url}?training={one}")
    expect(tab.page.get_by_text("1 before it in the queue")).to_be_visible()
    studio.set(one, reason="Waits for a slot: 1 of 1 slots is taken, by someone else.")
    # Only the other training's streams tell of it.
    studio.emit(before, TrainingRenamed(name="someone else"), stream="control")
    expect(tab.page.get_by_text("by someone else.")).to_be_visible()
