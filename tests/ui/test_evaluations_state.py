"""What the page says of a training's evaluations, and of those that are still to come."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.training import Sae, TrainingConfig
from ui.answers import Evaluation, Training
from ui.state import evaluations
from ui.state.trainings import card

CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=2_000, batch_size=1_000, latent_dim=600, k=16)
TRAINING = Training(
    id="t", name="t", status="running", step=450, total_steps=2_000, config=CONFIG, tokens_per_second=10_000.0,
    saes=(Sae(layer=1, hook="resid_post"), Sae(layer=2, hook="resid_post")),
)  # fmt: skip
LABELS = ["L1.resid_post", "L2.resid_post"]


def made(step: int, sae: int = 0, **figures: Any) -> Evaluation:
    given: dict[str, Any] = {"fvu": 0.2, "l0": 16.0, "loss_recovered": 0.97, "verdict": "good", "tokens": 16_384}
    return Evaluation(step=step, sae=sae, **{**given, **figures})


def figures(*made: Evaluation, sae: int = 0) -> dict[str, dict[str, Any]]:
    panel = next(one for one in evaluations.panels(TRAINING, made, LABELS, 16.0) if one["index"] == sae)
    return {figure["name"]: figure for figure in panel["figures"]}


def after(**changes: Any) -> Training:
    return msgspec.structs.replace(TRAINING, **changes)


def test_every_sae_is_shown_by_its_newest_evaluation_with_verdict_and_reasons() -> None:
    found = [made(200, 0), made(200, 1), made(400, 0, verdict="bad", reasons=("61% of the latents are dead.",))]
    first, second = evaluations.panels(TRAINING, found, LABELS, 16.0)
    assert (first["label"], first["at"], first["verdict"]) == (
        "L1.resid_post",
        "step 400",
        {"label": "bad", "tone": "bad"},
    )
    assert first["reasons"] == ["61% of the latents are dead."]
    assert (second["at"], second["verdict"]["label"]) == ("step 200", "good")


def test_every_figure_is_said_with_what_it_is_to_be_compared_with() -> None:
    shown = figures(
        made(
            400, ce_clean=3.4, ce_spliced=3.65, kl_spliced=0.21, shrinkage=0.93, dead_latents=12, dense_latents=3,
            duplicate_latents=1, density_histogram=(0,) * 40 + (588,) + (0,) * 19 + (12,),
        )
    )  # fmt: skip
    assert {name: (one["value"], one["note"]) for name, one in shown.items()} == {
        "fvu": ("0.200", "variance unexplained"),
        "l0": ("16.0", "target 16"),
        "loss_recovered": ("97.0 %", "of the model's loss"),
        "ce_increase": ("0.250", "3.400 → 3.650 nats"),
        "kl": ("0.210", "nats per token"),
        "shrinkage": ("0.930", "1 is none"),
        "dead": ("12", "2.0 % of 600"),
        "dense": ("3", "0.5 % of 600"),
        "duplicates": ("1", "0.2 % of 600"),
    }


def test_a_figure_that_was_not_measured_says_so_and_does_not_break_its_course() -> None:
    shown = figures(made(200, kl_spliced=0.5), made(400, kl_spliced=None), made(600, kl_spliced=None))
    assert (shown["kl"]["value"], shown["kl"]["note"]) == ("–", "not measured")
    assert shown["kl"]["course"] == [0.5]
    assert shown["ce_increase"]["course"] == []


@pytest.mark.parametrize(
    ("name", "before", "now", "trend"),
    [
        ("fvu", {"fvu": 0.3}, {"fvu": 0.2}, ("▼", "good")),
        ("fvu", {"fvu": 0.2}, {"fvu": 0.3}, ("▲", "bad")),
        ("loss_recovered", {"loss_recovered": 0.9}, {"loss_recovered": 0.95}, ("▲", "good")),
        ("l0", {"l0": 20.0}, {"l0": 16.0}, ("▼", "quiet")),
        ("fvu", {"fvu": 0.20001}, {"fvu": 0.20002}, ("=", "quiet")),
    ],
)
def test_a_figure_tells_whether_it_got_better(name: str, before: Any, now: Any, trend: tuple[str, str]) -> None:
    shown = figures(made(200, **before), made(400, **now))[name]
    assert (shown["trend"]["sign"], shown["trend"]["tone"]) == trend
    assert "step 200" in shown["trend"]["title"]
    assert shown["steps"] == [200, 400]


def test_the_density_has_a_bar_for_every_bin_and_the_silent_latents_apart() -> None:
    shown = evaluations.density((0,) * 30 + (10, 40) + (0,) * 22 + (5,) + (0,) * 5 + (20,))
    assert shown is not None
    assert len(shown["bars"]) == 60
    assert [index for index, bar in enumerate(shown["bars"]) if bar["height"]] == [30, 31, 54]
    assert (shown["bars"][31]["height"], shown["never"]["height"], shown["never"]["cut"]) == (1.0, 0.5, False)
    assert shown["bars"][31]["title"] == "40 latents on 0.041 % to 0.054 % of tokens"
    assert [index for index, bar in enumerate(shown["bars"]) if bar["dense"]] == list(range(52, 60))
    assert shown["summary"].startswith("75 latents; 20 never fired")


def test_many_silent_latents_are_cut_off_and_counted() -> None:
    shown = evaluations.density((0,) * 59 + (4, 10_000))
    assert shown is not None
    assert (shown["never"]["height"], shown["never"]["cut"], shown["never"]["label"]) == (1.0, True, "10,000")


@pytest.mark.parametrize("histogram", [(), (0,) * 61])
def test_a_density_that_is_not_known_is_not_drawn(histogram: tuple[int, ...]) -> None:
    assert evaluations.density(histogram) is None


def test_the_card_has_the_worst_verdict_with_every_reason_and_the_means() -> None:
    found = [made(400, 0, loss_recovered=0.96), made(400, 1, loss_recovered=0.9, verdict="watch", reasons=("Low.",))]
    worth = evaluations.worth(found, LABELS)
    shown = card(TRAINING, worth=worth)
    assert shown["verdict"] == {"label": "watch", "tone": "warn", "title": "L2.resid_post: Low."}
    facts = {fact["label"]: fact for fact in shown["facts"]}
    assert (facts["Loss recovered"]["value"], facts["Loss recovered"]["note"]) == ("93 %", "at step 400")
    assert facts["FVU"]["note"] == "evaluated 0.200"
    # What has diverged takes nothing from what the others say, but is judged.
    worse = evaluations.worth([made(400, 0), made(400, 1, fvu=5.0, verdict="bad", diverged=True)], LABELS)
    assert worse is not None and worse.verdict is not None
    assert (worse.fvu, worse.verdict["label"]) == (0.2, "bad")
    alone = evaluations.worth([made(400, 0, fvu=5.0, diverged=True)], LABELS)
    assert alone is not None and alone.fvu == 5.0
    # Activations of a folder have no language model to measure it on.
    unmeasured = card(TRAINING, worth=evaluations.worth([made(400, 0, loss_recovered=None)], LABELS))
    assert {fact["label"]: fact["note"] for fact in unmeasured["facts"]}["Loss recovered"] == "not measured"


def test_before_the_first_evaluation_the_page_says_when_it_comes() -> None:
    said = evaluations.waiting
    young = after(step=150)
    assert said(young) == "The first evaluation comes at step 200, in about 5 s."
    assert said(after(step=0, status="queued")) == "The first evaluation comes at step 200."
    only_last = msgspec.structs.replace(CONFIG, eval_interval=0)
    assert said(after(config=only_last, status="paused")) == "The evaluation comes at the end, after step 2,000."
    assert said(after(status="failed")) == "This training ended before it was evaluated."
    assert said(after(config=None)) == "Nothing has been evaluated yet."
    assert card(young)["verdict"] is None


def test_the_summary_says_when_the_next_one_comes() -> None:
    assert evaluations.summary([made(400)], TRAINING) == "step 400 · 16,384 held-out tokens · next at step 600"
    ended = after(status="completed", step=2_000)
    assert evaluations.summary([made(2_000)], ended) == "step 2,000 · 16,384 held-out tokens"


def test_a_queued_training_says_once_what_it_waits_for() -> None:
    reason = "Waits for a slot: 1 of 1 slots is taken, by other."
    shown = card(after(status="queued", step=0, reason=reason))
    assert shown["alert"] == {"tone": "plain", "text": reason}
    assert reason not in " ".join(shown["times"])
