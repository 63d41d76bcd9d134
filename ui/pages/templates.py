"""The list of templates."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from ..components.template_list import TemplateList
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused, Template, TemplatePage
from ..session import Refresh, Route, Session, unparse
from ..state.templates import templates_page

TEMPLATE = "template-"


class TemplatesPage:
    """Every template, live; the search is part of the address."""

    title = "Templates"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._q = route.get("q", "")
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=0.2)
        self._answer: TemplatePage | None = None
        self._failed = ""
        self._said = ""
        self._tone = ""
        self._deleted: Template | None = None
        self._edit: dict[str, Any] | None = None
        self._list = TemplateList(sizing_mode="stretch_width")
        self._list.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._list]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        events = self._cursor.take()
        if events is None:
            self._cursor.position = self._session.feed.position
        changed = events is None or any(recorded.stream.startswith(TEMPLATE) for recorded in events)
        if changed or (self._failed and self._session.feed.away is None):
            self._refresh.want()

    def close(self) -> None:
        self._refresh.stop()

    async def _ask(self) -> None:
        q = self._q
        try:
            answer = await self._session.gateway.templates(q=q)
        except ApiError as error:
            reason = f"The templates could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(answer, q))

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _take(self, answer: TemplatePage, q: str) -> None:
        if q == self._q:
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
        }
        if self._answer is not None:
            shown |= templates_page(self._q, self._answer.data)
        self._list.present(shown)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        gateway = self._session.gateway
        template = self._found(message.get("template"))
        match kind:
            case "search":
                self._q = str(message.get("q", "")).strip()[:200]
                self._session.router.replace(unparse({"page": "templates", "q": self._q}))
                self._refresh.want(now=True)
            case "retry":
                self._refresh.want(now=True)
            case "dismiss":
                self._say("")
            case "undo" if self._deleted is not None:
                deleted = self._deleted
                self._do(lambda: gateway.restore_template(deleted.id), f"{deleted.name} is back.")
            case "favourite" if template is not None:
                self._do(
                    lambda: gateway.edit_template(template.id, template.version, favourite=not template.favourite), ""
                )
            case "duplicate" if template is not None:
                self._do(lambda: gateway.duplicate_template(template.id), f"{template.name} was duplicated.")
            case "delete" if template is not None:
                self._do(lambda: gateway.delete_template(template.id), f"{template.name} was deleted.", template)
            case "edit" if template is not None:
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
            case "cancel":
                self._edit = None
                self._show()
            case "save" if self._edit is not None and not self._edit["busy"]:
                self._edit = {**self._edit, "busy": True, "name_problem": "", "problem": ""}
                self._show()
                changes = {"name": str(message.get("name", "")), "description": str(message.get("description", ""))}
                self._session.spawn(self._save(self._edit["id"], self._edit["version"], changes))

    def _found(self, template_id: Any) -> Template | None:
        known = self._answer.data if self._answer is not None else ()
        return next((one for one in known if one.id == template_id), None)

    def _say(self, said: str, *, tone: str = "", deleted: Template | None = None) -> None:
        self._said = said
        self._tone = tone
        self._deleted = deleted
        self._show()

    def _do(self, work: Callable[[], Awaitable[Any]], said: str, deleted: Template | None = None) -> None:
        """Ask for `work` and say that it was done, or why not. `deleted` can be brought back afterwards."""

        async def run() -> None:
            try:
                await work()
            except ApiError as error:
                sentence = f"Nothing was changed. {error}"
                self._session.change(lambda: self._say(sentence, tone="bad"))
            else:
                self._session.change(lambda: self._say(said, deleted=deleted))
            self._refresh.want(now=True)

        self._session.spawn(run())

    async def _save(self, template_id: str, version: int, changes: dict[str, str]) -> None:
        try:
            await self._session.gateway.edit_template(template_id, version, **changes)
        except ApiError as error:
            fields = error.fields if isinstance(error, ApiRefused) else ()
            at_name = next((one.message for one in fields if one.field == "name"), "")
            problem = "" if at_name else f"Not saved. {error}"

            def fail() -> None:
                if self._edit is not None:
                    self._edit = {**self._edit, "busy": False, "name_problem": at_name, "problem": problem}
                self._show()

            self._session.change(fail)
            return

        def take() -> None:
            self._edit = None
            self._show()
            self._refresh.want(now=True)

        self._session.change(take)
