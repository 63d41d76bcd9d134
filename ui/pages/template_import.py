"""The dialog that imports templates: a file, what an import of it would do, and then the import."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from .. import text
from ..answers import ImportEntry
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Session
from ..state import template_import as state
from ..state.news import toast


class TemplateImport:
    """One import at a time. `show` draws the page anew, `done` is told in a sentence what became of an import.

    What becomes of one whose dialog or page has been left meanwhile is told at the edge of whatever page there is.

    Its actions are `import` (`name`, `content`: of the file that was chosen) or `too_long` (`name`, `size`), `choose`
    (`choice`, and `index`, or none for all that conflict), `import_now` and `import_cancel`.
    """

    def __init__(self, session: Session, show: Callable[[], None], done: Callable[[str], None]) -> None:
        self._session = session
        self._show = show
        self._done = done
        self._refresh = Refresh(session, self._preview, pause=0.5)
        self._opened = ""
        self._name = ""
        self._document: dict[str, Any] | None = None
        self._entries: tuple[ImportEntry, ...] | None = None
        self._chosen: dict[int, str] = {}
        self._problem = ""
        self._refused = ""
        self._busy = False
        self._left = False

    def view(self) -> dict[str, Any] | None:
        """What the dialog shows; None while it is closed."""
        if not self._opened:
            return None
        shown: dict[str, Any] = {
            "opened": self._opened,
            "file": self._name,
            "problem": self._refused or self._problem,
            "busy": self._busy,
            "loading": self._entries is None and not self._problem,
        }
        if self._entries is not None:
            shown |= state.preview(self._entries, self._chosen)
        return shown

    def look_again(self) -> None:
        """Templates have changed: what an import would do may be something else now."""
        if self._opened:
            self._refresh.want()

    def stop(self) -> None:
        """Ask no more."""
        self._refresh.stop()
        self._opened, self._left = "", True

    def act(self, kind: str, message: dict[str, Any]) -> bool:
        """Do what was asked for; False where it is none of the dialog's actions."""
        match kind:
            case "import":
                self._open(_named(message), *state.read_document(_named(message), str(message.get("content", ""))))
            case "too_long":
                size = text.size(float(message.get("size") or 0))
                self._open(_named(message), {}, f"It has {size}; at most 4 MB can be imported.")
            case "choose" if self._opened and message.get("choice") in state.CHOICES:
                self._choose(message.get("index"), str(message["choice"]))
            case "import_now" if self._entries and self._document is not None and not self._busy:
                self._busy, self._refused = True, ""
                self._session.spawn(self._import(self._opened, self._name, self._document))
            case "import_cancel":
                self._opened = ""
            case _:
                return False
        self._show()
        return True

    def _open(self, name: str, document: dict[str, Any], problem: str) -> None:
        self._opened = uuid.uuid4().hex
        self._name, self._document, self._problem = name, None if problem else document, problem
        self._entries, self._chosen, self._refused, self._busy = None, {}, "", False
        self._refresh.want(now=True)

    def _choose(self, index: Any, choice: str) -> None:
        conflicting = [one.index for one in self._entries or () if one.outcome == "conflicting"]
        self._chosen |= {one: choice for one in conflicting if index in (None, one)}

    async def _preview(self) -> None:
        opened, document = self._opened, self._document
        if not opened or document is None or self._busy:
            return
        entries, problem = None, ""
        try:
            entries = await self._session.gateway.preview_import(document)
        except ApiError as error:
            problem = _reason(error)

        def take() -> None:
            if opened == self._opened:
                self._entries = entries if entries is not None else self._entries
                self._problem = problem
                self._show()

        self._session.change(take)

    async def _import(self, opened: str, name: str, document: dict[str, Any]) -> None:
        entries = self._entries or ()
        choices = state.choices_of(entries, self._chosen)
        versions = {str(one.index): one.version for one in entries if one.version is not None}
        imported, problem = None, ""
        try:
            imported = await self._session.gateway.import_templates(document, choices, versions)
        except ApiError as error:
            problem = f"Nothing was imported. {_reason(error)}"

        def take() -> None:
            seen = opened == self._opened
            if imported is None and seen:
                self._busy, self._refused = False, problem
                # What has changed since the preview may be what is refused.
                self._refresh.want(now=True)
                self._show()
            elif imported is None:
                self._session.toasts.say(toast("warn", f"{name} was not imported", problem))
            elif self._left:
                self._session.toasts.say(toast("plain", state.outcome(name, imported)))
            else:
                self._opened = "" if seen else self._opened
                self._done(state.outcome(name, imported))

        self._session.change(take)


def _named(message: dict[str, Any]) -> str:
    return str(message.get("name") or "The file")[:200]


def _reason(error: ApiError) -> str:
    """What is wrong with a document stands at its fields."""
    fields = error.fields if isinstance(error, ApiRefused) else ()
    return " ".join(one.message for one in fields) or str(error)
