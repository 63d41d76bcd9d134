"""What the pages show is what the API and the events say."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest

from core.decide import Action, Refused, decide
from events.control import PauseRequested
from events.event import Event, Recorded, event_type
from events.log import LogWritten
from events.status import PROCESS_EXPECTED, Status, TrainingState
from events.training import Sae, StepTrained, TrainingConfig, TrainingPaused
from ui.answers import Training
from ui.state import training_list
from ui.state import trainings as state

CONFIG = TrainingConfig(
    model="openai-community/gpt2",
    datasets=("stdlib",),
    training_layers=(6, 8),
    hook_types=("resid_post",),
    latent_dim=1000,
    k=32,
    total_steps=1000,
    batch_size=4096,
)
SAES = (Sae(layer=6, hook="resid_post"), Sae(layer=8, hook="resid_post"))
NOW = 2_000.0


def training(status: str = "running", **fields: Any) -> Training:
    known: dict[str, Any] = {
        "id": "one",
        "name": "a run",
        "status": status,
        "config": CONFIG,
        "saes": SAES,
        "total_steps": 1000,
        "started_at": int(1_000e6),
        **fields,
    }
    return Training(**known)


def step(number: int, sae: int = 0, *, loss: float = 0.5) -> StepTrained:
    return StepTrained(
        step=number,
        sae=sae,
        loss=loss,
        loss_reconstruction=loss,
        l0=32,
        l0_fraction=0.032,
        fvu=loss,
        dead_latents=10,
        learning_rate=1e-3,
        grad_norm=0.0,
        tokens=number * 4096,
        tokens_per_second=8192,
    )


def recorded(position: int, event: Event) -> Recorded:
    return Recorded(
        position=position,
        stream="training-one",
        version=position,
        type=event_type(event),
        occurred_at=0,
        recorded_at=0,
        data=event,
    )


@pytest.mark.parametrize("status", get_args(Status))
def test_every_status_has_its_words_its_tone_and_a_filter(status: str) -> None:
    assert state.LABELS[status]
    assert state.TONES[status]
    assert sum(status in statuses for statuses in training_list.FILTERS.values()) == 1


@pytest.mark.parametrize("status", get_args(Status))
def test_what_is_offered_is_exactly_what_the_server_would_do(status: Status) -> None:
    wanted: set[str] = set()
    for action in get_args(Action):
        with contextlib.suppress(Refused):
            decide(TrainingState(status=status, launched=status in PROCESS_EXPECTED), action)
            wanted.add(action)
    offered = {button["name"] for button in state.actions(training(status)) if button["enabled"]}
    assert offered - {"again"} == wanted


@pytest.mark.parametrize(
    ("status", "label"), [("pausing", "Pausing…"), ("stopping", "Stopping…"), ("resuming", "Resuming…")]
)
def test_what_is_under_way_is_said_on_a_button_that_does_nothing(status: str, label: str) -> None:
    (button,) = [button for button in state.actions(training(status)) if button["busy"]]
    assert button["label"] == label
    assert not button["enabled"]


def test_live_steps_move_the_figures_and_ask_for_nothing() -> None:
    live = state.LiveTraining(training(step=1), position=10)
    ask = live.apply([recorded(11, step(2, 0, loss=0.4)), recorded(12, step(2, 1, loss=0.6))])
    assert not ask
    assert live.training.step == 2
    assert live.training.loss == pytest.approx(0.5)
    assert live.training.dead_latents == 20
    assert live.training.tokens == 2 * 4096


def test_what_the_answer_already_holds_changes_nothing() -> None:
    live = state.LiveTraining(training(step=5, loss=0.1), position=10)
    assert not live.apply([recorded(9, step(3)), recorded(10, TrainingPaused(step=3))])
    assert (live.training.step, live.training.loss) == (5, 0.1)


def test_an_answer_from_before_the_last_steps_takes_no_figure_back() -> None:
    live = state.LiveTraining(training(step=1, loss=0.9), position=10)
    live.apply([recorded(11, step(2, loss=0.8)), recorded(12, step(3, loss=0.7))])
    live.load(training("pausing", step=2, loss=0.8), position=11)
    assert (live.training.status, live.training.step, live.training.loss) == ("pausing", 3, 0.7)
    live.load(training("paused", step=3, loss=0.6), position=13)
    assert (live.training.status, live.training.step, live.training.loss) == ("paused", 3, 0.6)


@pytest.mark.parametrize(
    ("status", "event", "ask"),
    [
        ("running", TrainingPaused(step=3), True),
        ("running", PauseRequested(), True),
        ("running", LogWritten(level="INFO", logger="x", message="y"), False),
        ("starting", step(1), True),
        ("interrupted", step(9), True),
        ("pausing", step(9), False),
    ],
)
def test_the_api_is_asked_again_when_the_status_may_have_changed(status: str, event: Event, ask: bool) -> None:
    live = state.LiveTraining(training(status), position=1)
    assert live.apply([recorded(2, event)]) == ask
    assert live.training.status == status


def test_an_sae_of_an_earlier_attempt_does_not_spoil_the_mean() -> None:
    live = state.LiveTraining(training(), position=1)
    live.apply([recorded(2, step(900, 1, loss=100.0)), recorded(3, step(901, 0, loss=0.2))])
    live.load(training(), position=3)
    live.apply([recorded(4, step(41, 0, loss=0.2)), recorded(5, step(41, 1, loss=0.4))])
    assert live.training.loss == pytest.approx(0.3)


def test_the_card_says_how_far_and_how_long() -> None:
    shown = state.card(training(step=624, tokens=624 * 4096, tokens_per_second=8192.0, dead_latents=62), now=NOW)
    assert shown["times"] == ["624 / 1,000 steps", "62 %", "16 min elapsed", "3 min left"]
    facts = {fact["label"]: (fact["value"], fact["note"]) for fact in shown["facts"]}
    assert facts["Dead latents"] == ("3.1 %", "62 of 2,000")
    assert facts["L0"][1] == "target 32"
    assert facts["Tokens/s"] == ("8.19 k", "2.56 M of 4.1 M tokens")
    assert [chip["label"] for chip in shown["chips"]] == [
        "TopK",
        "openai-community/gpt2",
        "stdlib",
        "layers 6, 8",
        "resid_post",
    ]


def test_time_stands_still_for_what_has_ended() -> None:
    ended = training("completed", step=1000, ended_at=int(1_090e6))
    assert state.card(ended, now=NOW)["times"] == ["1,000 / 1,000 steps", "100 %", "1 min 30 s elapsed"]
    assert state.list_row(ended, now=NOW)["standing"] == "took 1 min 30 s"


def test_a_training_without_a_configuration_is_shown_as_well() -> None:
    foreign = training(config=None, saes=(), total_steps=None, step=7, dead_latents=3)
    assert state.card(foreign, now=NOW)["times"][0] == "7 steps"
    assert state.list_row(foreign, now=NOW)["dead"] == "3"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"k": 32}, 32.0),
        ({"top_k_sparsity": 5.0}, 50.0),
        ({"target_l0": 0.02, "architecture_type": "standard"}, 20.0),
        ({"architecture_type": "standard"}, None),
    ],
)
def test_the_target_line_is_what_the_configuration_wants(fields: dict[str, Any], wanted: float | None) -> None:
    config = msgspec.structs.replace(CONFIG, **{"k": None, **fields})
    assert state.target_l0(config) == wanted


def test_filters_count_all_that_is_found_and_what_is_on_its_way_is_running() -> None:
    counts = {"running": 2, "pausing": 1, "failed": 1, "completed": 40}
    shown = training_list.list_page(training_list.ListView(status="running"), [training()], counts, now=NOW)
    assert [(one["label"], one["count"]) for one in shown["filters"]] == [
        ("All", 44),
        ("Running", 3),
        ("Failed", 1),
        ("Completed", 40),
    ]
    assert shown["matching"] == 3


def test_a_filter_that_nothing_passes_stays_in_sight() -> None:
    shown = training_list.list_page(training_list.ListView(status="paused"), [], {"running": 1}, now=NOW)
    assert ("Paused", 0) in [(one["label"], one["count"]) for one in shown["filters"]]
    assert shown["matching"] == 0
    assert shown["searching"]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_how_a_training_broke_off_says_what_can_be_done_now(status: str) -> None:
    broken = training(status, reason="no memory")
    said = state.card(broken, NOW)["alert"]["text"]
    offered = [button["label"] for button in state.actions(broken)]
    assert "no memory. " in said
    for label in ("Resume", "Retry") if status == "failed" else ("Resume",):
        assert f" {label} " in said
        assert label in offered
    assert "newest checkpoint" in said
    assert ("log" in said) == (status == "failed")
    foreign = training(status, config=None)
    assert "Retry" not in state.card(foreign, NOW)["alert"]["text"]
    # In a file there is nothing to press.
    assert "Resume" not in (state.alert(broken, advice=False) or {})["text"]


def test_what_is_wrong_while_a_training_runs_is_on_its_card_and_in_its_line() -> None:
    said = "The checkpoint of step 40 could not be saved (No space left on device); training goes on."
    troubled = training(reason=said, total_steps=1_000)
    assert state.card(troubled, NOW)["alert"] == {"tone": "warn", "text": said}
    assert state.list_row(troubled, NOW)["standing"] == said
    assert state.card(training(), NOW)["alert"] is None
    assert state.card(training("completed", reason=said), NOW)["alert"] is None
