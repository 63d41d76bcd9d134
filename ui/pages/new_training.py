"""The new-training form: templates, fields, what a start would need."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from events.training import TrainingConfig

from ..answers import Check, FieldProblem, Template, TemplatePage
from ..components.training_form import TrainingForm
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Route, Session, unparse
from ..state.form import Form
from ..state.news import toast
from .template_saving import TemplateSaving

TEMPLATE = "template-"

_PATIENCE = 2.0
"""Seconds that the defaults of what is typed are waited for before it is described without them."""


class NewTrainingPage:
    """What is typed is kept by the browser tab and checked by the server after every change.

    Its address names the loaded template. `from=ID` fills the form with a training's configuration, `model` and
    `dataset` choose these, `save` opens the dialog that saves it, and `fresh` loads the address's template anew
    whatever the draft says; all of these are left out of the address again.
    """

    title = "New training"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._route = route
        self._form = Form()
        self._cursor = Cursor(session.feed)
        self._templates = Refresh(session, self._ask_templates, pause=0.2)
        self._checks = Refresh(session, self._ask_check, pause=0.25)
        self._ready = False
        self._over = False
        self._drafted = asyncio.Event()
        self._failed = ""
        self._refusal = ""
        self._looking_at = ""
        self._checked = -1
        self._unchecked = ""
        self._heard = 0
        self._known_at = 0
        self._starting = False
        self._key = ""
        self._asked: Any = None
        self._saving = TemplateSaving(session, self._form, self._defaults, self._show, self._take_saved, self._refuse)
        self._component = TrainingForm(sizing_mode="stretch_width")
        self._component.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._component]

    def open(self) -> None:
        self._show()
        self._session.spawn(self._begin())

    def push(self) -> None:
        if not self._ready:
            if self._failed and self._session.feed.away is None:
                self._session.spawn(self._begin())
            return
        if self._cursor.has_news(lambda recorded: recorded.stream.startswith(TEMPLATE)):
            self._templates.want()

    def close(self) -> None:
        self._over = True
        self._saving.stop()
        self._templates.stop()
        self._checks.stop()

    # Beginning: catalogue, templates, and what the form holds

    async def _begin(self) -> None:
        gateway, source = self._session.gateway, self._route.get("from")
        self._failed = ""
        try:
            models, datasets, devices, templates = await asyncio.gather(
                gateway.models(), gateway.datasets(), gateway.devices(), gateway.templates()
            )
            training = (await gateway.training(source))[0] if source else None
        except ApiError as error:
            reason = f"The form could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
            return
        await self._drafted.wait()

        def take() -> None:
            if self._over or self._ready:
                return
            form = self._form
            form.models, form.datasets, form.devices = models, datasets, devices
            drafted = form.draft()["template"]
            self._take_templates(templates)
            self._cursor.position = max(self._cursor.position, templates.position)
            wanted = self._route.get("template", "")
            if training is not None and training.config is not None:
                form.use(training.config)
            elif wanted and (self._route.get("fresh") or drafted != wanted):
                # What was typed since it was loaded is in the draft, also where it has been changed or is gone.
                form.load(wanted)
            if model := self._route.get("model"):
                form.edit("model", model)
            if dataset := self._route.get("dataset"):
                form.edit("datasets", [dataset])
            self._ready = True
            self._address()
            self._changed()
            if self._route.get("save"):
                self._saving.ask()

        self._session.change(take)

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    async def _ask_templates(self) -> None:
        try:
            page = await self._session.gateway.templates()
        except ApiError:
            # The chip in the header says that the server is away; the next event asks again.
            return

        def take() -> None:
            if self._over:
                return
            self._take_templates(page)
            self._address()
            self._keep()
            self._show()

        self._session.change(take)

    def _take_templates(self, page: TemplatePage) -> None:
        # In an answer from before one was saved here, that one would seem to be deleted.
        if page.position >= self._known_at:
            self._known_at = page.position
            self._form.take_templates(page.data)

    # What a person does

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        form = self._form
        if kind == "draft":
            # A component that is drawn anew tells again what the form holds already.
            if not self._drafted.is_set():
                form.restore(message.get("draft"))
                self._drafted.set()
            return
        if kind == "retry":
            self._session.spawn(self._begin())
        if not self._ready or self._saving.act(kind, message):
            return
        match kind:
            case "edit":
                self._hear(message)
                if form.edit(str(message.get("field")), message.get("value", "")):
                    self._address()
                    self._changed()
                else:
                    self._show()
            case "name":
                self._hear(message)
                form.name = str(message.get("name", ""))[:255]
                self._keep()
            case "load":
                if form.load(str(message.get("template"))):
                    self._address()
                    self._changed()
                else:
                    self._show()
            case "unload":
                form.unload()
                self._address()
                self._changed()
            case "revert":
                form.revert()
                self._changed()
            case "reset":
                form.use(TrainingConfig())
                form.name = ""
                self._address()
                self._changed()
            case "advanced":
                form.advanced = not form.advanced
                self._keep()
                self._show()
            case "start" if not self._starting:
                self._start()

    def _hear(self, message: dict[str, Any]) -> None:
        number = message.get("number")
        self._heard = number if isinstance(number, int) else self._heard

    def _changed(self) -> None:
        self._refusal = ""
        self._keep()
        self._show()
        self._checks.want()

    def _keep(self) -> None:
        self._component.keep(self._form.draft())

    def _address(self) -> None:
        template = self._form.template
        self._session.router.replace(unparse({"page": "new", "template": template.id if template is not None else ""}))

    # What the server says of it

    async def _ask_check(self) -> None:
        form = self._form
        revision, config = form.revision, form.config()
        registered = {one.model_id for one in form.models} | {one.source for one in form.models}
        unknown = form.model if form.model and form.facts is None and form.model not in registered else ""
        self._session.change(lambda: self._look(unknown))
        gateway = self._session.gateway
        try:
            check = await gateway.check(config)
            if unknown and not any(one.field == "model" for one in check.problems):
                form.inspected = await gateway.inspect_model(unknown)
        except ApiRefused as error:
            check = Check(problems=error.fields or (FieldProblem("", str(error)),))
        except ApiError as error:
            said = f"Not checked. {error}"
            self._session.change(lambda: self._leave_unchecked(said, revision))
            return

        def take() -> None:
            form.take_check(check, revision)
            self._leave_unchecked("", revision)

        self._session.change(take)

    def _leave_unchecked(self, said: str, revision: int) -> None:
        """The configuration of `revision` is checked, or (`said`) cannot be: the next change asks again."""
        self._unchecked, self._checked, self._looking_at = said, revision, ""
        self._show()

    def _look(self, unknown: str) -> None:
        self._looking_at = unknown
        self._show()

    # Starting

    def _start(self) -> None:
        form = self._form
        form.try_to_start()
        self._starting = True
        self._refusal = ""
        template = form.template.id if form.template is not None else None
        asked = (form.config(), form.name.strip(), template)
        if asked != self._asked:
            # The same request sent twice creates one training, also where the answer to the first has been lost.
            self._asked, self._key = asked, uuid.uuid4().hex
        self._show()
        self._session.spawn(self._create(*asked, form.revision))

    async def _create(self, config: dict[str, Any], name: str, template: str | None, revision: int) -> None:
        form = self._form
        try:
            created = await self._session.gateway.create_training(
                config, name=name, template_id=template, key=self._key
            )
        except ApiError as error:
            refused = error

            def take() -> None:
                self._starting = False
                self._refusal = f"Not started. {refused}"
                if isinstance(refused, ApiRefused):
                    self._asked = None
                    if refused.fields:
                        form.take_check(Check(problems=refused.fields), revision)
                        if form.revision == revision:
                            self._refusal = "Not started: what is wrong stands above and at its field."
                if self._over:
                    self._session.toasts.say(toast("warn", f"{name or 'The training'} was not started", str(refused)))
                self._show()

            self._session.change(take)
            return
        href = unparse({"training": created.id})

        def started() -> None:
            if self._over:
                # Whoever has gone elsewhere is not fetched away from there.
                self._session.toasts.say(toast("plain", f"{name or 'The training'} was started", href=href))
            else:
                self._session.go(href)

        self._session.change(started)

    # Templates

    async def _defaults(self) -> Check | None:
        """What the server says of what is typed now; None where that takes longer than somebody would wait for it."""
        if self._checked == self._form.revision and not self._unchecked:
            return self._form.check
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._session.gateway.check(self._form.config())
        except (ApiError, TimeoutError):
            return None

    def _take_saved(self, page: TemplatePage | None, saved: Template | None) -> None:
        """What is typed has been saved: in the list as it is now, which may not be known."""
        if page is None:
            self._templates.want()
        else:
            self._take_templates(page)
        if saved is not None:
            self._form.saved_as(saved)
        self._address()
        self._keep()
        self._show()

    def _refuse(self, refusal: str) -> None:
        self._refusal = refusal
        self._templates.want()
        self._show()

    # What is seen

    def _show(self) -> None:
        shown: dict[str, Any] = {"failed": self._failed, "loading": not self._ready and not self._failed}
        if self._ready:
            shown |= self._form.view()
            busy = self._checked != self._form.revision
            shown |= {
                "stand": self._stand(busy, shown["missing"]),
                "busy": busy or bool(self._looking_at),
                "refusal": self._refusal,
                "heard": self._heard,
                "starting": self._starting,
                "save": self._saving.view(),
            }
        self._component.present(shown)

    def _stand(self, busy: bool, missing: list[str]) -> str:
        if self._looking_at:
            return f"Looking at {self._looking_at}…"
        if missing == ["activations"]:
            return "Choose a folder of activations."
        if len(missing) == 2:
            return "Choose a model and a data set."
        if missing:
            return "Choose a model." if missing == ["model"] else "Choose a data set."
        if busy:
            return "Checking…"
        if self._unchecked:
            return self._unchecked
        problems = self._form.problems()
        return "Ready to start." if not problems else "Not ready to start."
