"""The folded sections below a training's charts: its hyperparameters, its checkpoints, what was done with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from events.control import CheckpointRequested
from events.event import Recorded
from events.training import CheckpointDeleted, CheckpointSaved, EvaluationMade, TrainingResumed

from ..answers import Checkpoint, Deed, Training
from ..components.section import Section
from ..gateway import ApiAway, ApiError
from ..session import Refresh, Session
from ..state import activity, checkpoints, hyperparameters

DEEDS = 50
"""What was done that is shown at once; as much again at every *Show older*."""


class FoldedSection(ABC):
    """A section that asks for nothing until it is opened, and again whenever what it shows may have changed."""

    key: str
    title: str

    def __init__(self, session: Session, training_id: str) -> None:
        self._session = session
        self._id = training_id
        self._refresh = Refresh(session, self._ask, pause=0.3)
        self._open = False
        self._failed = ""
        self._refusal = ""
        self._away = False
        self.training: Training | None = None
        self.root = Section(sizing_mode="stretch_width")
        self.root.on_action(self._act)

    def show(self, training: Training) -> None:
        """Take the training as it is now."""
        if self.training is None and self._open:
            # The tab remembered it as open before there was anything to ask about.
            self._refresh.want(now=True)
        self.training = training
        self._show()

    def push(self, events: Sequence[Recorded] | None) -> None:
        """What happened in the training's streams; None where some of that is not known."""
        if not self._open:
            return
        away = self._session.feed.away is not None
        back = self._away and not away
        self._away = away
        if events is None or (back and self._failed) or any(map(self._concerns, events or ())):
            self._refresh.want()
        self._show()

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    # What each section says

    @abstractmethod
    def _concerns(self, recorded: Recorded) -> bool:
        """Whether the API has to be asked again after this."""

    @abstractmethod
    async def _ask(self) -> None:
        """Ask the API; ends in `_answer`."""

    @abstractmethod
    def _view(self) -> dict[str, Any]:
        """What is particular to the section."""

    def _do(self, kind: str, message: dict[str, Any]) -> None:  # noqa: B027 (some sections are only read)
        """What a person wants of what the section shows."""

    # What they share

    def _answer(self, failed: str = "") -> None:
        self._failed = failed
        self._show()

    def _show(self) -> None:
        view: dict[str, Any] = {"tools": [], "groups": None, "table": None, "more": False, "note": "", "loading": False}
        view |= self._view()
        if self._open and self._session.feed.away is not None:
            view["summary"] = "reconnecting…"
        self.root.present(
            view
            | {
                "place": self._id,
                "key": self.key,
                "title": self.title,
                "open": self._open,
                "failed": self._failed,
                "refusal": self._refusal,
            }
        )

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "toggle" if bool(message.get("open")) != self._open:
                self._open = not self._open
                self._failed = self._refusal = ""
                if self._open:
                    self._refresh.want(now=True)
                self._show()
            case "dismiss":
                self._refusal = ""
                self._show()
            case "retry":
                self._refresh.want(now=True)
            case _:
                self._do(kind, message)


class HyperparametersSection(FoldedSection):
    """The whole configuration. The fields are there at once; what differs from the defaults is asked of the API."""

    key = "hyperparameters"
    title = "Hyperparameters"

    def __init__(self, session: Session, training_id: str) -> None:
        super().__init__(session, training_id)
        self._differing: set[str] | None = None

    def _concerns(self, recorded: Recorded) -> bool:
        return False

    async def _ask(self) -> None:
        config = self.training.config if self.training is not None else None
        if config is None or self._differing is not None:
            self._session.change(self._answer)
            return
        asked = hyperparameters.fixed(config)
        found: list[str] = []
        try:
            while (defaults := (await self._session.gateway.check(asked)).config) is not None:
                name = hyperparameters.next_set(config, defaults, asked)
                if name is None:
                    break
                asked[name] = getattr(config, name)
                found.append(name)
        except ApiError as error:
            reason = f"Which fields differ from the defaults could not be found out: {error}"
            self._session.change(lambda: self._answer(reason))
        else:
            self._session.change(lambda: self._take(hyperparameters.changed(config, found)))

    def _take(self, differing: set[str]) -> None:
        self._differing = differing
        self._answer()

    def _view(self) -> dict[str, Any]:
        config = self.training.config if self.training is not None else None
        if config is None:
            return {"summary": "", "note": "The configuration of this training is not known to the studio."}
        summary = hyperparameters.summary(config, self._differing)
        if not self._open:
            return {"summary": summary}
        id = quote(self._id, safe="")
        form = f"?page=new&from={id}"
        return {
            "summary": summary,
            "groups": hyperparameters.groups(config, self._differing or ()),
            "tools": [
                {"name": "toml", "label": "Copy as TOML", "copy": hyperparameters.in_toml(config)},
                {"name": "json", "label": "Copy as JSON", "copy": hyperparameters.in_json(config)},
                {"name": "form", "label": "Use as form", "href": form},
                {"name": "template", "label": "Save as template", "href": f"{form}&save=1"},
                {"name": "differences", "label": "Compare with another run", "href": f"?page=compare&ids={id}"},
            ],
        }


class CheckpointsSection(FoldedSection):
    """The checkpoints on disk: save one now, download one, delete one."""

    key = "checkpoints"
    title = "Checkpoints"

    def __init__(self, session: Session, training_id: str) -> None:
        super().__init__(session, training_id)
        self._checkpoints: tuple[Checkpoint, ...] | None = None
        self._saving = False
        self._deleting = False

    def push(self, events: Sequence[Recorded] | None) -> None:
        for recorded in events or ():
            if isinstance(recorded.data, CheckpointRequested):
                self._saving = True
            elif isinstance(recorded.data, CheckpointSaved):
                self._saving = False
        if events is None:
            self._saving = False
        super().push(events)

    def _concerns(self, recorded: Recorded) -> bool:
        return isinstance(recorded.data, CheckpointSaved | CheckpointDeleted | TrainingResumed | EvaluationMade)

    async def _ask(self) -> None:
        try:
            page = await self._session.gateway.checkpoints(self._id)
        except ApiError as error:
            reason = f"The checkpoints could not be loaded: {error}"
            self._session.change(lambda: self._answer(reason))
        else:
            self._session.change(lambda: self._take(page.data))

    def _take(self, found: tuple[Checkpoint, ...]) -> None:
        self._checkpoints = found
        self._answer()

    def _view(self) -> dict[str, Any]:
        found = self._checkpoints
        running = self.training is not None and self.training.status == "running"
        if not running:
            self._saving = False
        save = {
            "name": "save",
            "label": "Saving…" if self._saving else "Save now",
            "title": "Save a checkpoint of the present step" if running else "Only a running training can save one",
            "busy": self._saving,
            "enabled": running and not self._saving,
        }
        return {
            "summary": "" if found is None else checkpoints.summary(found),
            "loading": found is None and not self._failed,
            "note": "No checkpoint has been saved yet." if found is not None and not found else "",
            "table": checkpoints.table(self._id, found) if found else None,
            "tools": [save],
        }

    def _do(self, kind: str, message: dict[str, Any]) -> None:
        match kind, message.get("name"):
            case "tool", "save" if not self._saving:
                self._saving = True
                self._refusal = ""
                self._show()
                self._session.spawn(self._save())
            case "row", "delete" if not self._deleting and str(message.get("key")).isdecimal():
                self._deleting = True
                self._refusal = ""
                self._show()
                self._session.spawn(self._delete(int(message["key"])))
            case _:
                pass

    async def _save(self) -> None:
        try:
            await self._session.gateway.control(self._id, "checkpoint")
        except ApiError as error:
            refusal = _refusal("No checkpoint was asked for", error)
            self._session.change(lambda: self._not_saved(refusal))

    def _not_saved(self, refusal: str) -> None:
        self._saving = False
        self._refusal = refusal
        self._show()

    async def _delete(self, step: int) -> None:
        refusal = ""
        try:
            await self._session.gateway.delete_checkpoint(self._id, step)
        except ApiError as error:
            refusal = _refusal("Nothing was deleted", error)
        self._session.change(lambda: self._deleted(refusal))

    def _deleted(self, refusal: str) -> None:
        self._deleting = False
        self._refusal = refusal
        self._refresh.want(now=True)
        self._show()


class ActivitySection(FoldedSection):
    """Who did what, the newest first."""

    key = "activity"
    title = "Activity"

    def __init__(self, session: Session, training_id: str) -> None:
        super().__init__(session, training_id)
        self._deeds: tuple[Deed, ...] | None = None
        self._limit = DEEDS

    def _concerns(self, recorded: Recorded) -> bool:
        return activity.concerns(recorded)

    async def _ask(self) -> None:
        limit = self._limit
        try:
            # One more than is shown tells whether there are older ones.
            page = await self._session.gateway.activity(self._id, limit=limit + 1)
        except ApiError as error:
            reason = f"What was done could not be loaded: {error}"
            self._session.change(lambda: self._answer(reason))
        else:
            self._session.change(lambda: self._take(page.data))

    def _take(self, found: tuple[Deed, ...]) -> None:
        self._deeds = found
        self._answer()

    def _view(self) -> dict[str, Any]:
        found = self._deeds
        return {
            "summary": "",
            "loading": found is None and not self._failed,
            "note": "Nothing has been done yet." if found is not None and not found else "",
            "table": activity.table(found[: self._limit]) if found else None,
            "more": found is not None and len(found) > self._limit,
        }

    def _do(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "more":
            self._limit += DEEDS
            self._refresh.want(now=True)


def _refusal(nothing: str, error: ApiError) -> str:
    return f"{nothing}: {error}" if isinstance(error, ApiAway) else str(error)
