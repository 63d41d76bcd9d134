"""The new-training form: templates, fields, what a start would need."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec

from events.training import TrainingConfig

from ..answers import Check, FieldProblem
from ..components.training_form import TrainingForm
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Route, Session, unparse
from ..state.form import Form

TEMPLATE = "template-"


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
        self._starting = False
        self._key = ""
        self._saving: dict[str, Any] | None = None
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
            if self._over:
                return
            form = self._form
            form.models, form.datasets, form.devices = models, datasets, devices
            form.take_templates(templates.data)
            self._cursor.position = max(self._cursor.position, templates.position)
            wanted = self._route.get("template", "")
            if training is not None and training.config is not None:
                form.use(training.config)
            elif wanted and (self._route.get("fresh") or form.template is None or form.template.id != wanted):
                form.load(wanted)
            if model := self._route.get("model"):
                form.edit("model", model)
            if dataset := self._route.get("dataset"):
                form.edit("datasets", [dataset])
            self._ready = True
            self._address()
            self._changed()
            if self._route.get("save"):
                self._ask_to_save()

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
            self._form.take_templates(page.data)
            self._address()
            self._keep()
            self._show()

        self._session.change(take)

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
        if not self._ready:
            return
        match kind:
            case "edit":
                if form.edit(str(message.get("field")), message.get("value", "")):
                    self._address()
                    self._changed()
            case "name":
                form.name = str(message.get("name", ""))[:255]
                self._keep()
            case "load" if form.load(str(message.get("template"))):
                self._address()
                self._changed()
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
            case "ask_save":
                self._ask_to_save()
            case "cancel_save":
                self._saving = None
                self._show()
            case "save" if self._saving is not None and not self._saving["busy"]:
                self._saving = {**self._saving, "busy": True, "problem": "", "name_problem": ""}
                self._show()
                self._session.spawn(self._save(str(message.get("name", "")), str(message.get("description", ""))))
            case "update" if form.template is not None:
                self._session.spawn(self._update())

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
        except ApiError:
            self._session.change(lambda: self._look(""))
            return

        def take() -> None:
            form.take_check(check, revision)
            self._checked = revision
            self._looking_at = ""
            self._show()

        self._session.change(take)

    def _look(self, unknown: str) -> None:
        self._looking_at = unknown
        self._show()

    # Starting

    def _start(self) -> None:
        self._form.try_to_start()
        self._starting = True
        self._refusal = ""
        # The same request sent twice creates one training.
        self._key = self._key or uuid.uuid4().hex
        self._show()
        self._session.spawn(self._create())

    async def _create(self) -> None:
        form = self._form
        revision = form.revision
        template = form.template.id if form.template is not None else None
        try:
            created = await self._session.gateway.create_training(
                form.config(), name=form.name.strip(), template_id=template, key=self._key
            )
        except ApiError as error:
            refused = error

            def take() -> None:
                self._starting = False
                self._key = ""
                self._refusal = f"Not started. {refused}"
                if isinstance(refused, ApiRefused) and refused.fields:
                    form.take_check(Check(problems=refused.fields), revision)
                    if form.revision == revision:
                        self._refusal = "Not started: what is wrong stands above and at its field."
                self._show()

            self._session.change(take)
            return
        self._session.change(lambda: self._session.go(unparse({"training": created.id})))

    # Templates

    def _ask_to_save(self) -> None:
        self._session.spawn(self._suggest())

    async def _suggest(self) -> None:
        name = description = problem = ""
        try:
            suggestion = await self._session.gateway.suggest_template(self._form.to_describe())
            name, description = suggestion.name, suggestion.description
        except ApiError as error:
            problem = f"Name and description could not be suggested: {error}"

        def take() -> None:
            self._saving = {
                "opened": uuid.uuid4().hex,
                "name": name,
                "description": description,
                "name_problem": "",
                "problem": problem,
                "busy": False,
            }
            self._show()

        self._session.change(take)

    async def _save(self, name: str, description: str) -> None:
        gateway = self._session.gateway
        try:
            created = await gateway.save_template(name, description, self._form.to_save())
            page = await gateway.templates()
        except ApiError as error:
            fields = error.fields if isinstance(error, ApiRefused) else ()
            at_name = next((one.message for one in fields if one.field == "name"), "")
            problem = "" if at_name else f"Not saved. {error}"

            def fail() -> None:
                if self._saving is not None:
                    self._saving = {**self._saving, "busy": False, "name_problem": at_name, "problem": problem}
                self._show()

            self._session.change(fail)
            return

        def take() -> None:
            self._saving = None
            self._form.take_templates(page.data)
            saved = next((one for one in page.data if one.id == created.id), None)
            if saved is not None:
                self._form.saved_as(saved)
            self._address()
            self._keep()
            self._show()

        self._session.change(take)

    async def _update(self) -> None:
        template = self._form.template
        if template is None:
            return
        gateway = self._session.gateway
        config = self._form.to_save()
        try:
            suggestion = await gateway.suggest_template(self._form.to_describe())
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
            self._session.change(lambda: self._refuse(refusal))
            return

        def take() -> None:
            self._form.saved_as(edited)
            self._keep()
            self._show()

        self._session.change(take)

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
                "starting": self._starting,
                "save": self._saving,
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
        problems = self._form.problems()
        return "Ready to start." if not problems else "Not ready to start."
