"""One of the runs that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from events.event import Recorded
from events.training import EvaluationMade, StepTrained, TrainingResumed

from ..answers import Evaluation, Training
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Session
from ..state import comparison
from ..state.comparison import Line
from ..state.trainings import LiveTraining
from ..steps import Columns, Series, Steps

POINTS = 600
"""Points of a run's history, for each SAE."""

STREAMED = 1200
"""Live points after which a run's history is asked for again."""

_NOT_FOUND = 404


class Run:
    """One run of the comparison: what the API says of it, and what has come since."""

    def __init__(self, session: Session, id: str, changed: Callable[[], None]) -> None:
        self.id = id
        self.live: LiveTraining | None = None
        self.evaluations: tuple[Evaluation, ...] = ()
        self.steps: Steps | None = None
        self.series: Series | None = None
        self.failed = ""
        self.missing = False
        self.beginning = 0
        """Counts the histories: columns of an earlier one do not go on into a later one."""
        self._session = session
        self._changed = changed
        self._cursor = Cursor(session.feed, (f"training-{id}", f"control-{id}"))
        self._refresh = Refresh(session, self._ask, pause=0.5)
        self._wanted = {"training", "history", "evaluations"}

    @property
    def training(self) -> Training | None:
        """The run as it is now; None while nothing is known."""
        return self.live.training if self.live is not None else None

    @property
    def loaded(self) -> bool:
        """Whether everything has been asked for once."""
        return self.live is not None and self.series is not None

    def ask(self, *what: str) -> None:
        """Ask for the `training`, its `history` or its `evaluations` (nothing named: for all) again."""
        self._wanted.update(what or ("training", "history", "evaluations"))
        self._refresh.want()

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    def advance(self) -> Columns | None:
        """Take what has come since the last time; the columns of the steps among it."""
        if self.live is None or self.steps is None or self.series is None:
            return None
        events = self._cursor.take()
        if events is None:
            self.ask()
            return None
        if self.live.apply(events):
            self.ask("training")
        if any(isinstance(one.data, EvaluationMade) for one in events):
            self.ask("evaluations")
        if any(isinstance(one.data, TrainingResumed) for one in events):
            self.ask()
            return None
        added = self.steps.add(_steps_of(events))
        if added is None:
            self.ask("history")
            return None
        self.series.extend(added)
        if self.series.live > STREAMED:
            self.ask("history")
        return added

    def newest_of_saes(self) -> dict[int, tuple[float, float]]:
        """L0 and FVU of every SAE's newest step."""
        if self.steps is None or self.series is None or not self.series.columns["step"]:
            return {}
        columns = self.series.columns
        return {sae: (columns[f"l0_{sae}"][-1], columns[f"fvu_{sae}"][-1]) for sae in range(self.steps.saes)}

    async def within(self, axis: str, start: float, end: float) -> Columns:
        """The steps between two places on an axis, in full resolution. Raises `ApiError`."""
        assert self.series is not None and self.steps is not None
        if not self.series.columns["step"]:
            return self.series.columns
        first, last = self.series.steps_around(axis, start, end)
        history = await self._session.gateway.history(self.id, points=POINTS, from_step=first, to_step=last)
        _, columns = Steps.of(history.data, saes=self.steps.saes, began=self.steps.began)
        return columns

    async def _ask(self) -> None:
        wanted, self._wanted = self._wanted, set()
        gateway = self._session.gateway
        try:
            found = await gateway.training(self.id) if "training" in wanted else None
            made = await gateway.evaluations(self.id) if "evaluations" in wanted else None
            history = await gateway.history(self.id, points=POINTS) if "history" in wanted else None
        except ApiError as error:
            missing = isinstance(error, ApiRefused) and error.status == _NOT_FOUND
            reason = f"There is no run {self.id}." if missing else f"{self.id} could not be loaded: {error}"
            self._wanted |= wanted
            self._session.change(lambda: self._fail(reason, missing))
            return

        def take() -> None:
            self.failed = ""
            if found is not None:
                training, position = found
                if self.live is None:
                    self.live = LiveTraining(training, position)
                else:
                    self.live.load(training, position)
            if made is not None:
                self.evaluations = made.data
            if history is not None:
                training = self.training
                self.steps, columns = Steps.of(
                    history.data,
                    saes=len(training.saes) if training is not None else 0,
                    began=training.started_at if training is not None else None,
                )
                self.series = Series(columns)
                self._cursor.position = history.position
                self.beginning += 1
            self._changed()

        self._session.change(take)

    def _fail(self, reason: str, missing: bool) -> None:
        self.failed, self.missing = reason, missing
        self._changed()


def columns_of(line: Line, run: Run, columns: Columns) -> dict[str, Any]:
    """The columns of a line of `run`, made from those of its steps."""
    config = None if run.training is None else comparison.config_of(line, run.training)
    latents = None if config is None else config.latent_dim
    return comparison.columns(line, columns, run.steps.saes if run.steps is not None else 0, latents)


def _steps_of(events: Sequence[Recorded]) -> list[tuple[StepTrained, int]]:
    return [(recorded.data, recorded.occurred_at) for recorded in events if isinstance(recorded.data, StepTrained)]
