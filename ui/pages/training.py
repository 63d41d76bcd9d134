"""A training's page: its card, its live metrics, its evaluations, its log, and what is folded away below them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Coroutine
from typing import Any
from urllib.parse import quote

from events.control import TrainingDeleted
from events.log import LogWritten
from events.training import StepTrained

from ..answers import Training
from ..components.card import Card
from ..feed import Cursor
from ..gateway import ApiAway, ApiError, ApiRefused
from ..session import Refresh, Session
from ..state.checkpoints import what_deleting_removes, what_was_deleted
from ..state.trainings import LiveTraining, card, retry_name, tab_title
from .evaluation import EvaluationSection
from .log import LogSection
from .metrics import MetricsSection
from .sections import ActivitySection, CheckpointsSection, HyperparametersSection

_NOT_FOUND = 404


class TrainingPage:
    """One training. Its status is what the API says, asked again at every event that may change it."""

    title = "Training"

    def __init__(self, session: Session, training_id: str) -> None:
        self._session = session
        self._id = training_id
        self._cursor = Cursor(session.feed, (f"training-{training_id}", f"control-{training_id}"))
        self._elsewhere = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=0.1)
        self._live: LiveTraining | None = None
        self._failed = ""
        self._refusal = ""
        self._sending = False
        self._deleting = ""
        self._gone = ""
        self._over = False
        self._heard_at = time.time()
        self._retry_key = secrets.token_hex(16)
        self._card = Card(sizing_mode="stretch_width")
        self._card.on_action(self._act)
        self._metrics = MetricsSection(session, training_id)
        self._evaluation = EvaluationSection(session, training_id, self._show)
        self._log = LogSection(session, training_id)
        self._folded = (
            HyperparametersSection(session, training_id),
            CheckpointsSection(session, training_id),
            ActivitySection(session, training_id),
        )
        self._sections = (self._metrics, self._evaluation, self._log, *self._folded)
        # Nothing stands below a card that is still loading.
        self._reveal(False)

    def body(self) -> list[Any]:
        return [self._card, *(section.root for section in self._sections)]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        if self._gone:
            return
        if self._live is None:
            if self._failed and self._session.feed.away is None:
                self._refresh.want()
            return
        events = self._cursor.take()
        if events is None:
            self._cursor.position = self._session.feed.position
            self._refresh.want()
        elif self._live.apply(events) or (self._failed and self._session.feed.away is None) or self._queue_moved():
            self._refresh.want()
        for recorded in events or ():
            if isinstance(recorded.data, TrainingDeleted):
                self._say_gone(len(recorded.data.removed), recorded.data.bytes_freed, recorded.actor)
                return
        self._show()
        self._metrics.push()
        self._evaluation.push(events, self._live.training)
        self._log.push()
        for section in self._folded:
            section.push(events)

    def _queue_moved(self) -> bool:
        """Whether something happened elsewhere that may change what this training waits for."""
        assert self._live is not None
        if self._live.training.status not in ("queued", "resuming"):
            return False
        self._elsewhere.position = max(self._elsewhere.position, self._live.position)
        events = self._elsewhere.take()
        if events is None:
            self._elsewhere.position = self._session.feed.position
            return True
        return any(not isinstance(recorded.data, StepTrained | LogWritten) for recorded in events)

    def close(self) -> None:
        self._over = True
        self._refresh.stop()
        for section in self._sections:
            section.close()

    async def _ask(self) -> None:
        try:
            training, position = await self._session.gateway.training(self._id)
        except ApiError as error:
            reason = self._reason(error)
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(training, position))

    def _reason(self, error: ApiError) -> str:
        if isinstance(error, ApiRefused) and error.status == _NOT_FOUND:
            return "There is no training with this id. It may have been deleted, or the address is mistyped."
        return f"The training could not be loaded: {error}"

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _reveal(self, visible: bool) -> None:
        for section in self._sections:
            section.root.visible = visible

    def _say_gone(self, removed: int, bytes_freed: int, actor: str | None) -> None:
        self._gone = what_was_deleted(removed, bytes_freed, actor)
        self.close()
        self._reveal(False)
        self._show()

    def _take(self, training: Training, position: int) -> None:
        if self._gone:
            return
        before = self._live
        self._failed = ""
        if before is None:
            self._live = LiveTraining(training, position)
            self._cursor.position = position
        else:
            if training.status != before.training.status:
                self._refusal = self._deleting = ""
            before.load(training, position)
        self._metrics.show(training)
        self._evaluation.show(training)
        for section in self._folded:
            section.show(training)
        self._reveal(True)
        self._show()
        if before is None:
            self._metrics.open()
            self._evaluation.open()
            self._log.open()

    def _show(self) -> None:
        if self._gone:
            self._card.present({"gone": self._gone})
            return
        shown: dict[str, Any] = {"failed": self._failed, "loading": self._live is None and not self._failed}
        if self._live is not None:
            if self._session.feed.away is None:
                self._heard_at = time.time()
            # Nobody knows how long it goes on while the server is away.
            shown |= card(self._live.training, self._heard_at, worth=self._evaluation.worth)
            shown |= {"refusal": self._refusal, "deleting": self._deleting}
            if self._sending:
                shown["actions"] = [{**button, "enabled": False} for button in shown["actions"]]
            if not self._over:
                self._session.name(tab_title(self._live.training))
        note = {name: shown.pop(name) for name in ("note", "note_tree") if name in shown}
        self._card.present(shown)
        if note:
            self._card.present_note(note)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "control":
                self._begin(self._do(str(message.get("action", ""))))
            case "rename":
                self._session.spawn(self._rename(str(message.get("name", ""))))
            case "describe" if isinstance(message.get("note"), str):
                self._session.spawn(self._describe(message["note"]))
            case "delete":
                self._begin(self._delete())
            case "keep":
                self._deleting = ""
                self._show()
            case "dismiss":
                self._refusal = ""
                self._show()
            case "retry":
                self._refresh.want(now=True)

    def _begin(self, request: Coroutine[Any, Any, None]) -> None:
        self._sending = True
        self._refusal = self._deleting = ""
        self._show()
        self._session.spawn(self._end(request))

    async def _end(self, request: Coroutine[Any, Any, None]) -> None:
        refusal = ""
        try:
            await request
        except ApiAway as error:
            refusal = f"Nothing was asked of the training: {error}"
        except ApiError as error:
            refusal = str(error)
        self._session.change(lambda: self._sent(refusal))

    async def _do(self, action: str) -> None:
        match action:
            case "again":
                await self._again()
            case "delete":
                await self._ask_to_delete()
            case _:
                await self._session.gateway.control(self._id, action)

    async def _again(self) -> None:
        assert self._live is not None
        training = self._live.training
        name = retry_name(training.name or training.id)
        new = await self._session.gateway.retry_training(training, name=name, key=self._retry_key)
        self._session.change(lambda: self._session.go(f"?training={quote(new, safe='')}"))

    async def _ask_to_delete(self) -> None:
        assert self._live is not None
        page = await self._session.gateway.checkpoints(self._id)
        training = self._live.training
        question = what_deleting_removes(training.name or training.id, page.data)
        self._session.change(lambda: self._confirm(question))

    def _confirm(self, question: str) -> None:
        self._deleting = question
        self._show()

    async def _delete(self) -> None:
        deleted = await self._session.gateway.delete_training(self._id)
        self._session.change(lambda: self._say_gone(len(deleted.removed), deleted.bytes_freed, None))

    async def _rename(self, name: str) -> None:
        problem = ""
        try:
            await self._session.gateway.rename_training(self._id, name)
        except ApiError as error:
            problem = f"The name was not changed: {error}"
        self._session.change(lambda: self._renamed(problem))

    def _renamed(self, problem: str) -> None:
        self._card.renamed(problem)
        if not self._over:
            self._refresh.want(now=True)

    async def _describe(self, note: str) -> None:
        problem = ""
        try:
            await self._session.gateway.edit_training(self._id, note=note)
        except ApiError as error:
            problem = f"The note was not changed: {error}"
        self._session.change(lambda: self._described(problem))

    def _described(self, problem: str) -> None:
        self._card.described(problem)
        if not self._over:
            self._refresh.want(now=True)

    def _sent(self, refusal: str) -> None:
        self._sending = False
        self._refusal = refusal
        if not self._over:
            self._refresh.want(now=True)
            self._show()
