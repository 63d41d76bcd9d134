"""The templates page between a click and its answer: what is answered late or refused undoes nothing else."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
from one_tab import Tab

from events.training import TrainingConfig
from ui.answers import Template, TemplateVersion
from ui.pages.templates import TemplatesPage

TEMPLATES = [Template(id=id, version=3, name=id, config=TrainingConfig()) for id in "ab"]
HISTORY = [
    TemplateVersion(version=number, timestamp=number, type="TemplateEdited", name="a", config=TrainingConfig(k=number))
    for number in (3, 2, 1)
]


class Api:
    """Answers as told in `refuses`, by method and the end of the path; keeps what it was asked."""

    def __init__(self) -> None:
        self.refuses: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.sent: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what = (request.method, request.url.path.removeprefix("/api/v1/templates"))
        self.asked.append(what)
        self.sent.append(json.loads(request.content or "{}"))
        if what in self.refuses:
            return httpx.Response(409, json={"title": "Conflict", "detail": "Somebody was faster."})
        if what == ("GET", ""):
            return httpx.Response(200, json={"data": msgspec.to_builtins(TEMPLATES), "position": 0})
        if what == ("GET", "/a/history"):
            return httpx.Response(200, json={"data": [msgspec.to_builtins(one) for one in HISTORY]})
        if what == ("POST", "/import/preview"):
            names = json.loads(request.content)["document"]["names"]
            return httpx.Response(200, json={"data": [{"index": 0, "name": one, "outcome": "new"} for one in names]})
        return httpx.Response(200, json=msgspec.to_builtins(TEMPLATES[0]))


class Opened:
    """A templates page with its list, and what it shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = Api()
        self.tab = Tab(self.api)
        self.page = TemplatesPage(self.tab.session, {})
        self.shown: dict[str, Any] = {}
        [component] = self.page.body()
        monkeypatch.setattr(component, "present", self._present)
        self.toasts: list[dict[str, Any]] = []
        monkeypatch.setattr(self.tab.session.toasts, "say", self.toasts.append)
        self.act = component._act
        self.page.open()

    def _present(self, view: dict[str, Any]) -> None:
        self.shown = view

    async def until(self, **view: Any) -> None:
        """Until the page shows this, by the view's keys."""
        await self.tab.until(lambda: {name: self.shown.get(name) for name in view} == view)


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened(monkeypatch)
    await opened.until(loading=False)
    return opened


async def test_a_deleted_template_can_be_brought_back_whatever_else_is_marked_or_refused(opened: Opened) -> None:
    opened.api.refuses = {("DELETE", "/b"), ("PATCH", "/b")}
    opened.act("delete", {"template": "a"})
    await opened.until(said="a was deleted.", undo=True)
    opened.act("delete", {"template": "b"})
    await opened.until(said="Nothing was changed. Somebody was faster.", tone="bad", undo=True)
    opened.api.refuses = {("PATCH", "/b")}
    opened.act("favourite", {"template": "a"})
    await opened.until(said="a was deleted.", tone="", undo=True)
    # The same one again is only asked for when what is shown is newer, or when it was refused.
    opened.act("favourite", {"template": "a"})
    opened.act("favourite", {"template": "b"})
    await opened.until(tone="bad", undo=True)
    opened.api.refuses = set()
    opened.act("favourite", {"template": "b"})
    await opened.until(said="a was deleted.", tone="", undo=True)
    assert [path for method, path in opened.api.asked if method == "PATCH"] == ["/a", "/b", "/b"]


async def test_the_answer_to_one_form_leaves_the_next_one_open(opened: Opened) -> None:
    for refuses in ({("PATCH", "/a")}, set[tuple[str, str]]()):
        opened.api.refuses = refuses
        opened.act("edit", {"template": "a"})
        opened.act("save", {"name": "new"})
        opened.act("cancel", {})
        opened.act("edit", {"template": "b"})
        asked = opened.api.asked.count(("GET", ""))
        if refuses:
            await opened.until(tone="bad", said="Not saved. Somebody was faster.")
        else:
            await opened.tab.until(lambda: opened.api.asked.count(("GET", "")) > asked)  # noqa: B023
        edit = opened.shown["edit"]
        assert (edit["id"], edit["version"], edit["problem"], edit["busy"]) == ("b", 3, "", False)


async def test_a_refused_import_says_so_beside_a_preview_that_is_asked_for_again(opened: Opened) -> None:
    opened.api.refuses = {("POST", "/import")}
    opened.act("import", {"name": "x.json", "content": '{"names": ["n"]}'})
    await opened.tab.until(lambda: "entries" in (opened.shown["import"] or {}))
    opened.act("import_now", {})
    await opened.tab.until(lambda: opened.api.asked.count(("POST", "/import/preview")) == 2)
    await opened.tab.until(lambda: not opened.shown["import"]["busy"])
    assert opened.shown["import"]["problem"] == "Nothing was imported. Somebody was faster."
    # While one look is going on, and for a moment after it, all that is wanted is one more.
    for _ in range(20):
        opened.page._import.look_again()
        opened.tab.turn()
    opened.act("import", {"name": "y.json", "content": '{"names": []}'})
    await opened.tab.until(lambda: opened.shown["import"].get("entries") == [])
    assert opened.api.asked.count(("POST", "/import/preview")) == 3


async def test_an_import_that_fails_after_it_was_cancelled_or_left_is_told_at_the_edge(opened: Opened) -> None:
    opened.api.refuses = {("POST", "/import")}
    for leave in (lambda: opened.act("import_cancel", {}), opened.page.close):
        opened.toasts.clear()
        opened.act("import", {"name": "x.json", "content": '{"names": ["n"]}'})
        await opened.tab.until(lambda: "entries" in (opened.shown["import"] or {}))
        opened.act("import_now", {})
        leave()
        await opened.tab.until(lambda: bool(opened.toasts))
        [told] = opened.toasts
        assert (told["tone"], told["title"]) == ("warn", "x.json was not imported")
        assert told["text"] == "Nothing was imported. Somebody was faster."


async def test_what_was_asked_for_on_a_page_that_was_left_is_told_at_the_edge(opened: Opened) -> None:
    opened.api.refuses = {("DELETE", "/b")}
    opened.act("delete", {"template": "a"})
    opened.act("delete", {"template": "b"})
    opened.page.close()
    await opened.tab.until(lambda: len(opened.toasts) == 2)
    assert {(one["tone"], one["title"]) for one in opened.toasts} == {
        ("plain", "a was deleted."),
        ("warn", "Nothing was changed. Somebody was faster."),
    }


async def test_a_restored_version_replaces_only_what_was_seen(opened: Opened) -> None:
    opened.act("history", {"template": "a"})
    await opened.tab.until(lambda: bool((opened.shown["history"] or {}).get("entries")))
    opened.act("restore", {"version": 1, "newest": 3})
    await opened.tab.until(lambda: ("POST", "/a/restore") in opened.api.asked)
    assert opened.api.sent[opened.api.asked.index(("POST", "/a/restore"))] == {"version": 1, "expected_version": 3}
    await opened.tab.until(lambda: bool(opened.shown["history"]["said"]))
    opened.api.refuses = {("POST", "/a/restore")}
    opened.act("restore", {"version": 2, "newest": 3})
    await opened.tab.until(lambda: opened.shown["history"]["problem"] == "Not restored. Somebody was faster.")
    opened.act("restore", {"version": 2, "newest": 3})
    opened.act("history_close", {})
    await opened.tab.until(lambda: bool(opened.toasts))
    assert opened.toasts[0]["title"] == "a was not restored"
