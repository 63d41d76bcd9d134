"""The dialog that shows what became of a template, and makes it again what it was."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from ..answers import Template, TemplateVersion
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Session
from ..state.news import toast
from ..state.template_history import history_view


class TemplateHistory:
    """One template's history at a time, live. `show` draws the page anew.

    Its actions are `restore` (`version`, and the `newest` one that was seen) and `history_close`.
    """

    def __init__(self, session: Session, show: Callable[[], None]) -> None:
        self._session = session
        self._show = show
        self._refresh = Refresh(session, self._ask, pause=0.5)
        self._id = ""
        self._opened = ""
        self._name = ""
        self._versions: tuple[TemplateVersion, ...] | None = None
        self._said = ""
        self._problem = ""
        self._failed = ""
        self._busy = False

    def open(self, template: Template) -> None:
        """Show the history of `template`."""
        self._id, self._name, self._opened = template.id, template.name, uuid.uuid4().hex
        self._versions, self._said, self._problem, self._failed, self._busy = None, "", "", "", False
        self._show()
        self._refresh.want(now=True)

    def look_again(self) -> None:
        """The template may have changed."""
        if self._id:
            self._refresh.want()

    def stop(self) -> None:
        """Ask no more."""
        self._refresh.stop()
        self._id = ""

    def view(self) -> dict[str, Any] | None:
        """What the dialog shows; None while it is closed."""
        if not self._id:
            return None
        return {
            "opened": self._opened,
            "name": self._name,
            "entries": None if self._versions is None else history_view(self._versions, time.time()),
            "said": self._said,
            "problem": self._problem or self._failed,
            "busy": self._busy,
        }

    def act(self, kind: str, message: dict[str, Any]) -> bool:
        """Do what was asked for; False where it is none of the dialog's actions."""
        version, newest = message.get("version"), message.get("newest")
        match kind:
            case "restore" if self._id and not self._busy and isinstance(version, int) and isinstance(newest, int):
                self._busy, self._said, self._problem = True, "", ""
                self._session.spawn(self._restore(self._id, self._name, version, newest))
            case "history_close":
                self._id = ""
            case _:
                return False
        self._show()
        return True

    async def _ask(self) -> None:
        template_id = self._id
        if not template_id:
            return
        versions, failed = None, ""
        try:
            versions = await self._session.gateway.template_history(template_id)
        except ApiError as error:
            failed = f"The history could not be loaded: {error}"

        def take() -> None:
            if template_id != self._id:
                return
            if versions:
                self._versions, self._name = versions, versions[0].name
            self._failed = failed
            self._show()

        self._session.change(take)

    async def _restore(self, template_id: str, name: str, version: int, newest: int) -> None:
        said = problem = ""
        try:
            template = await self._session.gateway.restore_template(template_id, version, expected_version=newest)
            said = f"{template.name} is again what it was at version {version}."
        except ApiError as error:
            fields = error.fields if isinstance(error, ApiRefused) else ()
            problem = " ".join(one.message for one in fields) or str(error)

        def take() -> None:
            if template_id == self._id:
                self._busy, self._said, self._problem = False, said, f"Not restored. {problem}" if problem else ""
                self._refresh.want(now=True)
                self._show()
            elif problem:
                # The dialog that would say it has been closed.
                self._session.toasts.say(toast("warn", f"{name} was not restored", problem))

        self._session.change(take)
