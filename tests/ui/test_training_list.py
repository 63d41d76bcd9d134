"""The list of trainings: what it shows, what is sent of it, and what an action on several of them touches."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from one_tab import Tab

from events.training import TrainingConfig
from ui.answers import Training
from ui.components.training_list import TrainingList
from ui.pages.trainings import TrainingsPage
from ui.state import training_list as state
from ui.state.training_list import ListView

CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), training_layers=(6, 8), k=32)


def training(id: str, status: str = "completed", **fields: Any) -> Training:
    return Training(id=id, name=f"run {id}", status=status, config=CONFIG, **fields)


def test_the_address_says_all_that_is_shown_and_nothing_that_cannot_be() -> None:
    view = ListView(
        status="failed",
        q="wide",
        where=("k>=32", "model~gpt2"),
        tags=("keep", "a,b 50%2C"),
        group="model",
        sort="-loss",
    )
    assert ListView.of(view.route()) == view
    assert not any(ListView().route().values())
    assert ListView.of({"status": "asleep", "group": "mood", "sort": "-mood"}) == ListView()


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("latent_dim>=4096", "Latent dim ≥ 4096"),
        ("k!=none", "k is not none"),
        ("model~a=b", "Model contains a=b"),
        ("what is this", "what is this"),
    ],
)
def test_a_condition_is_said_in_words(said: str, label: str) -> None:
    assert state.condition(said) == label


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("status", "Completed"),
        ("tag", "no tag"),
        ("k", "32"),
        ("training_layers", "6, 8"),
        ("target_l0", "not set"),
        ("architecture_type", "TopK"),
    ],
)
def test_a_row_is_grouped_under_words(group: str, said: str) -> None:
    assert state.group_of(training("a"), group) == said
    assert state.group_of(training("a", tags=("wide", "old")), "tag") == "wide"


def test_an_action_names_exactly_what_it_touches_and_why_it_leaves_the_rest() -> None:
    chosen = [training("a", "running"), training("b", "completed"), training("c", "paused"), training("d", "running")]
    asked = state.question(state.plan("pause", chosen))
    assert [one["name"] for one in asked["does"]] == ["run a", "run d"]
    assert asked["text"].startswith("Pause 2 trainings?")
    assert asked["skips"] == [{"name": "run b", "why": "is completed"}, {"name": "run c", "why": "is paused"}]
    assert [one.id for one in state.plan("delete", chosen).does] == ["b", "c"]
    assert len(state.plan("tag", chosen).does) == 4
    assert state.plan("everything", chosen).does == ()


async def test_what_a_filter_has_hidden_is_not_touched_by_a_question_that_was_open_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, asked = [training("a"), training("b")], list[tuple[str, str]]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path.rpartition("/")[2]))
        if request.method == "DELETE":
            return httpx.Response(200, json={"removed": [], "bytes_freed": 0})
        return httpx.Response(200, json={"data": msgspec.to_builtins(rows), "counts": {"completed": 2}})

    tab = Tab(answer)
    page = TrainingsPage(tab.session, {})
    shown: list[dict[str, Any]] = []
    [component] = page.body()
    monkeypatch.setattr(component, "present", shown.append)
    page.open()
    await tab.until(lambda: len(shown[-1].get("rows", ())) == 2)
    component._act("select", {"ids": ["a", "b"], "on": True})
    component._act("bulk", {"action": "delete"})
    assert [one["name"] for one in shown[-1]["asking"]["does"]] == ["run a", "run b"]
    del rows[1]
    component._act("search", {"q": "a"})
    await tab.until(lambda: len(shown[-1]["rows"]) == 1)
    assert [one["name"] for one in shown[-1]["asking"]["does"]] == ["run a"]
    component._act("do", {})
    await tab.until(lambda: not shown[-1]["busy"] and shown[-1]["asking"] is None)
    assert [id for method, id in asked if method == "DELETE"] == ["a"]
    component._act("select", {"ids": ["a"], "on": True})
    component._act("bulk", {"action": "tag"})
    del rows[0]
    component._act("search", {"q": "b"})
    await tab.until(lambda: not shown[-1]["rows"])
    assert shown[-1]["asking"] is None


def test_only_what_can_be_done_is_offered_with_how_many_it_is_for() -> None:
    offered = state.selection([training("a", "running"), training("b")])
    assert offered is not None
    assert [one["label"] for one in offered["actions"]] == ["Pause 1…", "Stop 1…", "Tag…", "Delete 1…"]
    assert offered["compare"] == "?page=compare&ids=a,b"
    many = state.selection([training(str(number)) for number in range(11)])
    assert many is not None
    assert (many["compare"], many["export"]) == ("", "")
    assert "At most 10" in many["compare_title"]
    assert state.selection([]) is None


def test_the_outcome_says_how_many_and_every_refusal() -> None:
    assert said(state.outcome("delete", ["a"], [])) == ("plain", "1 training deleted.", "")
    refused = state.outcome("pause", ["a", "b"], [("c", "It is completed.")])
    assert said(refused) == ("warn", "2 trainings pausing.", "Refused: c: It is completed.")
    # A refusal stays until it has been seen.
    assert refused["seconds"] == 0
    assert said(state.outcome("tag", [], [("c", "Gone.")])) == ("warn", "Nothing was done.", "Refused: c: Gone.")


def said(toast: dict[str, Any]) -> tuple[str, str, str]:
    return toast["tone"], toast["title"], toast["text"]


def test_a_name_that_was_not_saved_is_told_with_the_training_that_it_is_about() -> None:
    toast = state.not_described("wide", "Nothing was changed: It is away.")
    assert said(toast) == ("warn", "Name and note of wide were not saved", "Nothing was changed: It is away.")


def test_the_tab_of_the_list_says_how_many_run() -> None:
    assert state.tab_title({"running": 2, "pausing": 1, "completed": 9}) == "3 running"
    assert state.tab_title({"completed": 9}) == "Trainings"


def test_of_five_hundred_rows_only_those_that_changed_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = [training(str(number)) for number in range(500)]
    sent: list[dict[str, Any]] = []
    component = TrainingList()
    monkeypatch.setattr(component, "send", lambda message: sent.append(message["view"]))

    def present(rows: list[Training]) -> None:
        component.present(state.list_page(ListView(limit=500), rows, {"completed": 500}, now=0))

    present(trainings)
    assert len(sent[-1]["rows"]) == len(sent[-1]["order"]) == 500
    trainings[7] = msgspec.structs.replace(trainings[7], loss=0.5)
    present(trainings)
    assert [row["id"] for row in sent[-1]["rows"]] == ["7"]
    assert len(sent[-1]["order"]) == 500
    present(trainings)
    assert len(sent) == 2
    present(trainings[::-1])
    assert (sent[-1]["rows"], sent[-1]["order"][0]) == ([], "499")
    # A browser that has drawn the list anew gets all of it.
    component.drawn()
    assert len(sent[-1]["rows"]) == 500
