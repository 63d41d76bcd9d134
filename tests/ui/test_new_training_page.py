"""The new-training form between what a person does and its answer: what comes late undoes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from one_tab import Tab

from events.catalog import ModelRegistered
from events.training import TrainingConfig
from ui.answers import Check, Template
from ui.pages.new_training import NewTrainingPage

TOPK = Template(id="a", version=1, name="wide", config=TrainingConfig(k=16))
OTHER = Template(id="b", version=1, name="other", config=TrainingConfig(k=32))
MODEL = ModelRegistered(
    model_id="m", source="/models/m", hidden_dim=128, layers=4, hooks=("resid_post",), context_size=128
)


class Api:
    """An API with some templates. `answers` stand before its own, by method and path: an answer, or what is raised."""

    def __init__(self) -> None:
        self.templates = [TOPK, OTHER]
        self.position = 5
        self.answers: dict[tuple[str, str], httpx.Response | Exception] = {}
        self.asked: list[tuple[str, str, Any, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path.removeprefix("/api/v1/")
        body = json.loads(request.content or "{}")
        self.asked.append((method, path, body, request.headers.get("Idempotency-Key", "")))
        told = self.answers.get((method, path))
        if isinstance(told, Exception):
            raise told
        if told is not None:
            return told
        match method, path:
            case "GET", "templates":
                answer: Any = {"data": msgspec.to_builtins(self.templates), "position": self.position}
            case "POST", "templates":
                config = msgspec.convert(body["config"], TrainingConfig)
                made = f"t{len(self.templates)}"
                self.templates.append(Template(id=made, version=1, name=body["name"], config=config))
                self.position += 1
                answer = {"id": made, "position": self.position}
            case "PATCH", "templates/a":
                answer = msgspec.to_builtins(msgspec.structs.replace(TOPK, version=2))
            case "POST", "templates/suggestion":
                answer = {"name": "suggested", "description": "a description"}
            case "POST", "trainings/check":
                config = msgspec.convert(body["config"], TrainingConfig)
                answer = msgspec.to_builtins(Check(config=msgspec.structs.replace(config, latent_dim=2048)))
            case "GET", "models":
                answer = {"data": [msgspec.to_builtins(MODEL)]}
            case "POST", "trainings":
                answer = {"id": "made", "position": 9}
            case _:
                answer = {"data": [], "position": self.position}
        return httpx.Response(200, json=answer)

    def bodies(self, path: str) -> list[Any]:
        return [body for method, asked, body, _ in self.asked if (method, asked) == ("POST", path)]


class Opened:
    """The form in a tab, and what it shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, draft: Any = None, **route: str) -> None:
        self.api = Api()
        self.tab = Tab(self.api)
        self.page = NewTrainingPage(self.tab.session, route)
        self.shown: dict[str, Any] = {}
        self.times = 0
        [component] = self.page.body()
        monkeypatch.setattr(component, "present", self._present)
        self.toasts: list[dict[str, Any]] = []
        monkeypatch.setattr(self.tab.session.toasts, "say", self.toasts.append)
        self.gone: list[str] = []
        monkeypatch.setattr(self.tab.session, "go", self.gone.append)
        self._component = component
        self._draft = draft

    async def begin(self) -> Opened:
        self.page.open()
        self.act("draft", draft=self._draft)
        await self.until(lambda: self.shown.get("stand", "").startswith("Choose") and not self.shown["busy"])
        return self

    def _present(self, view: dict[str, Any]) -> None:
        self.shown = view
        self.times += 1

    def act(self, kind: str, **message: Any) -> None:
        self._component._act(kind, message)

    def edit(self, field: str, value: Any, number: int = 1) -> None:
        self.act("edit", field=field, value=value, number=number)

    async def until(self, there: Callable[[], bool]) -> None:
        await self.tab.until(there)

    @property
    def hint(self) -> str:
        return self.shown["template"]["hint"]["text"]

    def value(self, name: str) -> Any:
        return next(one["value"] for group in self.shown["groups"] for one in group["fields"] if one["name"] == name)


@pytest.fixture
async def form(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return await Opened(monkeypatch).begin()


async def test_a_view_tells_which_edit_it_has_heard_last(form: Opened) -> None:
    form.edit("k", "12", 4)
    assert (form.shown["heard"], form.value("k")) == (4, "12")
    form.act("name", name="mine", number=5)
    form.edit("no field", "12", 6)
    assert (form.shown["heard"], form.shown["name"]) == (6, "mine")


async def test_what_is_saved_late_is_not_shown_to_be_loaded(form: Opened) -> None:
    async def save(name: str, meanwhile: Callable[[], None]) -> str:
        form.act("ask_save")
        # A second click opens no second dialog.
        form.act("ask_save")
        await form.until(lambda: form.shown["save"] is not None)
        form.act("save", name=name, description="")
        form.act("cancel_save")
        meanwhile()
        await form.until(lambda: name in [label for _, label in form.shown["template"]["fitting"]])
        assert form.shown["save"] is None
        return form.hint

    assert await save("first", lambda: form.act("load", template="b")) == "Loaded: other"
    assert await save("second", lambda: None) == "Loaded: second"
    assert len(form.api.bodies("templates/suggestion")) == 2


async def test_a_save_that_fails_late_is_told_at_the_edge_and_not_in_another_dialog(form: Opened) -> None:
    form.api.answers["POST", "templates"] = httpx.Response(409, json={"title": "Conflict", "detail": "Not now."})
    for leave in (lambda: form.act("cancel_save"), form.page.close):
        form.toasts.clear()
        form.act("ask_save")
        await form.until(lambda: form.shown["save"] is not None)
        form.act("save", name="mine", description="my words")
        leave()
        await form.until(lambda: bool(form.toasts))
        assert (form.toasts[0]["title"], form.toasts[0]["text"]) == ("mine was not saved", "Not saved. Not now.")


async def test_what_is_saved_is_not_called_unsaved_because_the_list_does_not_come(form: Opened) -> None:
    form.act("ask_save")
    await form.until(lambda: form.shown["save"] is not None)
    form.api.answers["GET", "templates"] = httpx.Response(503, json={"title": "Busy"})
    form.act("save", name="mine", description="")
    await form.until(lambda: form.shown["save"] is None)
    assert len(form.api.bodies("templates")) == 1


async def test_a_list_from_before_a_save_deletes_nothing(form: Opened) -> None:
    before = httpx.Response(200, json={"data": msgspec.to_builtins(form.api.templates), "position": 5})
    form.act("ask_save")
    await form.until(lambda: form.shown["save"] is not None)
    form.act("save", name="mine", description="")
    await form.until(lambda: form.hint == "Loaded: mine")
    form.api.answers["GET", "templates"] = before
    shown = form.times
    form.page._templates.want(now=True)
    await form.until(lambda: form.times > shown)
    assert form.hint == "Loaded: mine"


async def test_an_update_that_ends_late_selects_nothing_that_was_not_loaded(form: Opened) -> None:
    form.act("load", template="a")
    form.edit("k", "20")
    form.act("update")
    form.act("load", template="b")
    shown = form.times
    await form.until(lambda: form.times > shown and not form.page._saving._updating)
    assert ("PATCH", "templates/a") in [one[:2] for one in form.api.asked]
    assert form.hint == "Loaded: other"


async def test_a_description_tells_the_defaults_of_what_is_typed_now(form: Opened) -> None:
    form.act("load", template="a")
    await form.until(lambda: not form.shown["busy"])
    form.edit("architecture_type", "jumprelu")
    form.act("ask_save")
    await form.until(lambda: form.shown["save"] is not None)
    [described] = form.api.bodies("templates/suggestion")
    assert (described["config"]["architecture_type"], described["config"]["latent_dim"]) == ("jumprelu", 2048)
    assert "k" not in described["config"]


async def test_the_draft_wins_over_the_template_that_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    first = await Opened(monkeypatch).begin()
    first.act("load", template="a")
    first.edit("model", "mine")
    first.edit("k", "21")
    draft = msgspec.json.decode(msgspec.json.encode(first.page._form.draft()))
    assert draft["template"] == "a"
    # While the tab was closed somebody made it one of another model.
    again = Opened(monkeypatch, draft, page="new", template="a")
    again.api.templates[0] = msgspec.structs.replace(TOPK, config=TrainingConfig(model="theirs"))
    await again.begin()
    assert again.hint == "wide no longer applies: it is for theirs"
    assert (again.value("k"), again.value("model")) == ("21", "mine")


async def test_the_same_start_is_sent_under_the_same_key_until_it_is_answered(form: Opened) -> None:
    form.edit("k", "8")
    for failure in (httpx.ReadTimeout("late"), httpx.ReadTimeout("late"), httpx.Response(409, json={"title": "No."})):
        form.api.answers["POST", "trainings"] = failure
        form.act("start")
        await form.until(lambda: form.shown["refusal"].startswith("Not started."))
    form.edit("k", "9", 2)
    del form.api.answers["POST", "trainings"]
    form.act("start")
    await form.until(lambda: form.gone == ["?training=made"])
    keys = [key for method, path, _, key in form.api.asked if (method, path) == ("POST", "trainings")]
    assert keys[0] == keys[1] == keys[2] != keys[3]


async def test_who_has_left_the_page_is_not_fetched_away_by_a_start(form: Opened) -> None:
    form.act("name", name="my run", number=1)
    form.act("start")
    form.page.close()
    await form.until(lambda: bool(form.toasts))
    assert (form.toasts[0]["title"], form.toasts[0]["href"]) == ("my run was started", "?training=made")
    assert form.gone == []


async def test_what_could_not_be_checked_says_so_and_the_next_change_asks_again(form: Opened) -> None:
    form.act("load", template="a")
    form.edit("model", "m")
    form.edit("datasets", ["d"], 2)
    form.api.answers["POST", "trainings/check"] = httpx.ReadTimeout("late")
    await form.until(lambda: form.shown["stand"] == "Not checked. The server did not answer in time.")
    assert not form.shown["busy"]
    del form.api.answers["POST", "trainings/check"]
    form.edit("k", "9", 3)
    await form.until(lambda: form.shown["stand"] == "Ready to start.")
