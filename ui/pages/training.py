"""A training's page: its card, its live metrics, its log."""

from __future__ import annotations

from typing import Any

from ..components.card import Card
from ..feed import Cursor
from ..gateway import ApiAway, ApiError, ApiRefused, Training
from ..session import Refresh, Session
from ..state.trainings import LiveTraining, card
from .log import LogSection
from .metrics import MetricsSection

_NOT_FOUND = 404


class TrainingPage:
    """One training. Its status is what the API says, asked again at every event that may change it."""

    title = "Training"

    def __init__(self, session: Session, training_id: str) -> None:
        self._session = session
        self._id = training_id
        self._cursor = Cursor(session.feed, (f"training-{training_id}", f"control-{training_id}"))
        self._refresh = Refresh(session, self._ask, pause=0.1)
        self._live: LiveTraining | None = None
        self._failed = ""
        self._refusal = ""
        self._sending = False
        self._card = Card(sizing_mode="stretch_width")
        self._card.on_action(self._act)
        self._metrics = MetricsSection(session, training_id)
        self._log = LogSection(session, training_id)

    def body(self) -> list[Any]:
        return [self._card, self._metrics.root, self._log.root]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        if self._live is None:
            if self._failed and self._session.feed.away is None:
                self._refresh.want()
            return
        events = self._cursor.take()
        if events is None:
            self._cursor.position = self._session.feed.position
            self._refresh.want()
        elif self._live.apply(events) or (self._failed and self._session.feed.away is None):
            self._refresh.want()
        self._show()
        self._metrics.push()
        self._log.push()

    def close(self) -> None:
        self._refresh.stop()
        self._metrics.close()
        self._log.close()

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
        if self._live is None:
            self._metrics.root.visible = self._log.root.visible = False
        self._show()

    def _take(self, training: Training, position: int) -> None:
        before = self._live
        self._failed = ""
        if before is None:
            self._live = LiveTraining(training, position)
            self._cursor.position = position
            self._session.name(training.name or training.id)
        else:
            if training.status != before.training.status:
                self._refusal = ""
            before.load(training, position)
        self._metrics.training = training
        self._metrics.root.visible = self._log.root.visible = True
        self._show()
        if before is None:
            self._metrics.open()
            self._log.open()

    def _show(self) -> None:
        shown: dict[str, Any] = {"failed": self._failed, "loading": self._live is None and not self._failed}
        if self._live is not None:
            shown |= card(self._live.training)
            shown["refusal"] = self._refusal
            if self._sending:
                shown["actions"] = [{**button, "enabled": False} for button in shown["actions"]]
        self._card.present(shown)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "control":
                self._sending = True
                self._refusal = ""
                self._show()
                self._session.spawn(self._control(str(message.get("action", ""))))
            case "dismiss":
                self._refusal = ""
                self._show()
            case "retry":
                self._refresh.want(now=True)

    async def _control(self, action: str) -> None:
        refusal = ""
        try:
            await self._session.gateway.control(self._id, action)
        except ApiAway as error:
            refusal = f"Nothing was asked of the training: {error}"
        except ApiError as error:
            refusal = str(error)
        self._session.change(lambda: self._sent(refusal))

    def _sent(self, refusal: str) -> None:
        self._sending = False
        self._refusal = refusal
        self._refresh.want(now=True)
        self._show()
