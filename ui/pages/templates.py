"""The list of templates."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..answers import Template, TemplatePage
from ..components.template_list import TemplateList
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Route, Session, unparse
from ..state.news import toast
from ..state.templates import EXPORT, TemplatesView, templates_page
from .template_history import TemplateHistory
from .template_import import TemplateImport

TEMPLATE = "template-"


class TemplatesPage:
    """Every template, live; what the list shows is part of its address, what is selected in it is not.

    As with trainings, only rows that are shown are selected.
    """

    title = "Templates"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._view = TemplatesView.of(route)
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=0.2)
        self._answer: TemplatePage | None = None
        self._failed = ""
        self._said = ""
        self._tone = ""
        self._deleted: Template | None = None
        self._marking: dict[str, int] = {}
        self._selected: set[str] = set()
        self._edit: dict[str, Any] | None = None
        self._left = False
        self._import = TemplateImport(session, self._show, self._imported)
        self._history = TemplateHistory(session, self._show)
        self._list = TemplateList(sizing_mode="stretch_width")
        self._list.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._list]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        if self._cursor.has_news(lambda recorded: recorded.stream.startswith(TEMPLATE)):
            self._refresh.want()
            self._import.look_again()
            self._history.look_again()
        elif self._failed and self._session.feed.away is None:
            self._refresh.want()

    def close(self) -> None:
        self._left = True
        self._refresh.stop()
        self._import.stop()
        self._history.stop()

    async def _ask(self) -> None:
        view = self._view
        try:
            answer = await self._session.gateway.templates(q=view.q, sort=view.sort)
        except ApiError as error:
            reason = f"The templates could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(answer, view))

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _take(self, answer: TemplatePage, asked: TemplatesView) -> None:
        if (asked.q, asked.sort) == (self._view.q, self._view.sort):
            self._failed = ""
            self._answer = answer
            self._show()

    def _show(self) -> None:
        shown: dict[str, Any] = {
            "failed": self._failed,
            "loading": self._answer is None and not self._failed,
            "said": self._said,
            "tone": self._tone,
            "undo": self._deleted is not None,
            "edit": self._edit,
            "import": self._import.view(),
            "history": self._history.view(),
            "export": EXPORT,
        }
        if self._answer is not None:
            self._selected &= {one.id for one in self._answer.data if self._view.finds(one)}
            shown |= templates_page(self._view, self._answer.data, selected=self._selected)
        self._list.present(shown)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if self._import.act(kind, message) or self._history.act(kind, message):
            return
        template = self._found(message.get("template"))
        if template is not None:
            self._act_on(template, kind)
            return
        gateway = self._session.gateway
        said = {name: str(value) for name, value in message.items() if isinstance(value, str)}
        match kind:
            case "search":
                self._look(q=said.get("q", "").strip()[:200])
            case "sort":
                self._look(sort=said.get("sort", ""))
            case "filter" if said.get("kind") in ("architecture", "model", "dataset"):
                self._look(**{said["kind"]: said.get("key", "")})
            case "clear":
                self._look(q="", architecture="", model="", dataset="")
            case "select":
                self._select(message.get("ids"), on=message.get("on") is True)
            case "retry":
                self._refresh.want(now=True)
            case "dismiss":
                self._say("")
            case "undo" if self._deleted is not None:
                deleted = self._deleted
                self._do(lambda: gateway.restore_template(deleted.id), f"{deleted.name} is back.")
            case "cancel":
                self._edit = None
                self._show()
            case "save" if self._edit is not None and not self._edit["busy"]:
                self._edit = {**self._edit, "busy": True, "name_problem": "", "problem": ""}
                self._show()
                changes = {"name": said.get("name", ""), "description": said.get("description", "")}
                self._session.spawn(self._save(self._edit, changes))

    def _act_on(self, template: Template, kind: str) -> None:
        gateway = self._session.gateway
        match kind:
            case "favourite" if self._marking.get(template.id) != template.version:
                # A second click on what the first one is about to change would only be refused.
                self._marking[template.id] = template.version
                self._do(lambda: self._mark(template), "")
            case "duplicate":
                self._do(lambda: gateway.duplicate_template(template.id), f"{template.name} was duplicated.")
            case "delete":
                self._do(lambda: gateway.delete_template(template.id), _was_deleted(template), template)
            case "history":
                self._history.open(template)
            case "edit":
                self._edit = {
                    "opened": uuid.uuid4().hex,
                    "id": template.id,
                    "version": template.version,
                    "name": template.name,
                    "description": template.description,
                    "name_problem": "",
                    "problem": "",
                    "busy": False,
                }
                self._show()

    def _look(self, **changes: str) -> None:
        view = TemplatesView.of(msgspec.structs.replace(self._view, **changes).route())
        if view == self._view:
            return
        ask = (view.q, view.sort) != (self._view.q, self._view.sort)
        self._view = view
        self._session.router.replace(unparse(view.route()))
        if ask:
            self._refresh.want(now=True)
        else:
            self._show()

    def _select(self, ids: Any, *, on: bool) -> None:
        wanted = {id for id in ids if isinstance(id, str)} if isinstance(ids, list) else set[str]()
        self._selected = self._selected | wanted if on else self._selected - wanted
        self._show()

    def _found(self, template_id: Any) -> Template | None:
        known = self._answer.data if self._answer is not None else ()
        return next((one for one in known if one.id == template_id), None)

    def _say(self, said: str, *, tone: str = "", deleted: Template | None = None) -> None:
        if self._left:
            if said:
                self._session.toasts.say(toast("warn" if tone else "plain", said))
            return
        self._said = said
        self._tone = tone
        self._deleted = deleted
        self._show()

    def _imported(self, said: str) -> None:
        self._say(said)
        self._refresh.want(now=True)

    async def _mark(self, template: Template) -> None:
        gateway = self._session.gateway
        try:
            await gateway.edit_template(template.id, template.version, favourite=not template.favourite)
        except ApiError:
            self._marking.pop(template.id, None)
            raise

    def _do(self, work: Callable[[], Awaitable[Any]], said: str, deleted: Template | None = None) -> None:
        """Ask for `work` and say that it was done, or why not. `deleted` can be brought back afterwards.

        What was deleted before can be brought back until something else is said to be done.
        """

        def succeed() -> None:
            if said:
                self._say(said, deleted=deleted)
            elif self._tone:
                # What was refused has been done by now.
                self._say(_was_deleted(self._deleted) if self._deleted else "", deleted=self._deleted)

        async def run() -> None:
            try:
                await work()
            except ApiError as error:
                sentence = f"Nothing was changed. {error}"
                self._session.change(lambda: self._say(sentence, tone="bad", deleted=self._deleted))
            else:
                self._session.change(succeed)
            self._refresh.want(now=True)

        self._session.spawn(run())

    async def _save(self, edit: dict[str, Any], changes: dict[str, str]) -> None:
        template_id, version, opened = edit["id"], edit["version"], edit["opened"]
        try:
            await self._session.gateway.edit_template(template_id, version, **changes)
        except ApiError as error:
            fields = error.fields if isinstance(error, ApiRefused) else ()
            at_name = next((one.message for one in fields if one.field == "name"), "")
            problem = "" if at_name else f"Not saved. {error}"

            def fail() -> None:
                if self._left or self._edit is None or self._edit["opened"] != opened:
                    # Cancelled meanwhile, and perhaps another one is open.
                    self._say(at_name or problem, tone="bad", deleted=self._deleted)
                else:
                    again, now = "", self._found(template_id)
                    if now is not None and now.version > version:
                        # Who has read that somebody else changed it may still want this.
                        self._edit = {**self._edit, "version": now.version}
                        again = " Save again to put this in its place."
                    self._edit = {**self._edit, "busy": False, "name_problem": at_name, "problem": problem + again}
                self._show()

            self._session.change(fail)
            return

        def take() -> None:
            if self._edit is not None and self._edit["opened"] == opened:
                self._edit = None
            self._show()
            self._refresh.want(now=True)

        self._session.change(take)


def _was_deleted(template: Template) -> str:
    return f"{template.name} was deleted."
