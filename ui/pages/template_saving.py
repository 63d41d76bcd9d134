"""Saving the form of a new training: as a new template, in a dialog, or in the template that is loaded."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..answers import Check, Template, TemplatePage
from ..gateway import ApiError, ApiRefused
from ..session import Session
from ..state.form import Form
from ..state.news import toast


class TemplateSaving:
    """What is saved is what stands in `form` when it is saved; `check` says which defaults it has.

    `show` draws the page anew. `saved` gets the list that there is afterwards (None: it is not known) and the template
    that the form is now, if it is still what was saved; `refuse` gets the sentence of an update that was refused. What
    fails after its dialog or page was left is told at the edge of whatever page there is.

    Its actions are `ask_save`, `save` (`name`, `description`), `cancel_save` and `update`.
    """

    def __init__(
        self,
        session: Session,
        form: Form,
        check: Callable[[], Awaitable[Check | None]],
        show: Callable[[], None],
        saved: Callable[[TemplatePage | None, Template | None], None],
        refuse: Callable[[str], None],
    ) -> None:
        self._session = session
        self._form = form
        self._check = check
        self._show = show
        self._saved = saved
        self._refuse = refuse
        self._dialog: dict[str, Any] | None = None
        self._suggesting = self._updating = self._left = False

    def view(self) -> dict[str, Any] | None:
        """What the dialog shows; None while it is closed."""
        return self._dialog

    def stop(self) -> None:
        """The page is left."""
        self._left, self._dialog = True, None

    def ask(self) -> None:
        """Open the dialog, as soon as name and description are known."""
        if self._dialog is None and not self._suggesting:
            self._suggesting = True
            self._session.spawn(self._suggest())

    def act(self, kind: str, message: dict[str, Any]) -> bool:
        """Do what was asked for; False where it is none of the actions of this."""
        match kind:
            case "ask_save":
                self.ask()
            case "save" if self._dialog is not None and not self._dialog["busy"]:
                self._dialog = {**self._dialog, "busy": True, "problem": "", "name_problem": ""}
                name, description = str(message.get("name", "")), str(message.get("description", ""))
                config, revision = self._form.to_save(), self._form.revision
                self._session.spawn(self._save(self._dialog["opened"], name, description, config, revision))
                self._show()
            case "cancel_save":
                self._dialog = None
                self._show()
            case "update" if self._form.template is not None and not self._updating:
                self._updating = True
                self._session.spawn(self._update(self._form.template, self._form.to_save()))
            case _:
                return False
        return True

    async def _suggest(self) -> None:
        name = description = problem = ""
        try:
            suggestion = await self._session.gateway.suggest_template(self._form.to_describe(await self._check()))
            name, description = suggestion.name, suggestion.description
        except ApiError as error:
            problem = f"Name and description could not be suggested: {error}"

        def take() -> None:
            self._suggesting = False
            if self._left:
                return
            self._dialog = {
                "opened": uuid.uuid4().hex,
                "name": name,
                "description": description,
                "name_problem": "",
                "problem": problem,
                "busy": False,
            }
            self._show()

        self._session.change(take)

    async def _save(self, opened: str, name: str, description: str, config: dict[str, Any], revision: int) -> None:
        gateway = self._session.gateway
        page = None
        try:
            created = await gateway.save_template(name, description, config)
        except ApiError as error:
            fields = error.fields if isinstance(error, ApiRefused) else ()
            at_name = next((one.message for one in fields if one.field == "name"), "")
            problem = "" if at_name else f"Not saved. {error}"
            self._session.change(lambda: self._not_saved(opened, name, at_name, problem))
            return
        with contextlib.suppress(ApiError):
            # It is saved whether or not the list comes.
            page = await gateway.templates()

        def take() -> None:
            if self._left:
                return
            if self._dialog is not None and self._dialog["opened"] == opened:
                self._dialog = None
            known = page.data if page is not None else ()
            made = next((one for one in known if one.id == created.id), None)
            # The form may be another one since the dialog was cancelled.
            self._saved(page, made if self._form.revision == revision else None)

        self._session.change(take)

    def _not_saved(self, opened: str, name: str, at_name: str, problem: str) -> None:
        if self._dialog is not None and self._dialog["opened"] == opened:
            self._dialog = {**self._dialog, "busy": False, "name_problem": at_name, "problem": problem}
            self._show()
        else:
            # The dialog that would say it has been closed.
            self._session.toasts.say(toast("warn", f"{name or 'The template'} was not saved", at_name or problem))

    async def _update(self, template: Template, config: dict[str, Any]) -> None:
        gateway = self._session.gateway
        refusal, edited = "", None
        try:
            suggestion = await gateway.suggest_template({**self._form.to_describe(await self._check()), **config})
            # A description that somebody wrote stays; one that was generated is generated anew.
            before = await gateway.suggest_template(msgspec.to_builtins(template.config))
            kept = template.description != before.description
            edited = await gateway.edit_template(
                template.id,
                template.version,
                config=config,
                description=template.description if kept else suggestion.description,
            )
        except ApiError as error:
            refusal = f"{template.name} was not changed. {error}"

        def take() -> None:
            self._updating = False
            if edited is None and self._left:
                self._session.toasts.say(toast("warn", refusal))
            elif edited is None:
                self._refuse(refusal)
            elif not self._left:
                # Another one may have been loaded meanwhile.
                loaded = self._form.template
                self._saved(None, edited if loaded is not None and loaded.id == edited.id else None)

        self._session.change(take)
