"""What a training's SAEs are worth on held-out text: the newest evaluation of each, and how it came to that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from events.event import Recorded
from events.training import EvaluationMade, TrainingResumed

from ..answers import Evaluation, Training
from ..components.evaluation import EvaluationView
from ..gateway import ApiError
from ..session import Refresh, Session
from ..state import evaluations
from ..state.evaluations import Worth
from ..state.trainings import sae_labels, target_l0


class EvaluationSection:
    """The evaluations, asked for anew at each that is made; `changed` is called when there are others."""

    def __init__(self, session: Session, training_id: str, changed: Callable[[], None]) -> None:
        self._session = session
        self._id = training_id
        self._changed = changed
        self._refresh = Refresh(session, self._ask, pause=0.3)
        self._training: Training | None = None
        self._found: tuple[Evaluation, ...] | None = None
        self._failed = ""
        self.root = EvaluationView(sizing_mode="stretch_width")
        self.root.on_action(self._act)

    @property
    def worth(self) -> Worth | None:
        """The newest evaluation in short; None where there is none."""
        return evaluations.worth(self._found or (), self._labels())

    def open(self) -> None:
        """Ask for the first time."""
        self._refresh.want(now=True)

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    def show(self, training: Training) -> None:
        """Take the training as it is now."""
        self._training = training
        self._show()

    def push(self, events: Sequence[Recorded] | None, training: Training) -> None:
        """What happened in the training's streams (None where some of that is not known), and how it is since."""
        if not self._found:
            # When the first one comes can be told better with every step.
            self.show(training)
        back = self._failed and self._session.feed.away is None
        if back or events is None or any(isinstance(one.data, EvaluationMade | TrainingResumed) for one in events):
            self._refresh.want()

    async def _ask(self) -> None:
        try:
            page = await self._session.gateway.evaluations(self._id)
        except ApiError as error:
            reason = f"The evaluations could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(page.data))

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _take(self, found: tuple[Evaluation, ...]) -> None:
        self._failed = ""
        self._found = found
        self._show()
        self._changed()

    def _labels(self) -> list[str]:
        saes = self._training.saes if self._training is not None else ()
        return sae_labels(saes, len(saes))

    def _show(self) -> None:
        training, found = self._training, self._found or ()
        if training is None:
            return
        loading = self._found is None and not self._failed
        waiting = "" if found or loading or self._failed else evaluations.waiting(training)
        coming = evaluations.next_step(training) is not None
        self.root.present(
            {
                "failed": self._failed,
                "loading": loading,
                "waiting": waiting,
                # The place of what is to come is kept free.
                "bones": (len(training.saes) or 1) if loading or (waiting and coming) else 0,
                "summary": evaluations.summary(found, training),
                "saes": evaluations.panels(training, found, self._labels(), target_l0(training.config)),
            }
        )

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "retry":
            self._failed = ""
            self._refresh.want(now=True)
            self._show()
