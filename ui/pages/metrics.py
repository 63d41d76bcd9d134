"""The live metrics of a training: history first, then every step as it comes."""

from __future__ import annotations

from typing import Any

import panel as pn

from events.training import StepTrained, TrainingResumed

from ..charts.live import LiveCharts
from ..components.metrics_head import MetricsHead
from ..feed import Cursor
from ..gateway import ApiError, History, Training
from ..session import Refresh, Session
from ..state.trainings import sae_labels, target_l0
from ..steps import Columns, Steps
from ..theme import line_style

POINTS = 1000
"""Points of a history, for each SAE: half as many buckets, each with its least and its greatest."""

STREAMED = 2000
"""Live points after which the history is asked for again, so that a chart never grows without end."""

_ENDED = ("completed", "stopped", "failed")


class MetricsSection:
    """Charts that begin with the whole history and go on live.

    A history is true at a position, and the live steps go on behind exactly that position: nothing is missing and
    nothing comes twice. It is asked for again, and put in the place of everything at once, when a resume has preempted
    steps, when this page lagged too far behind, and when many live points have come.
    """

    def __init__(self, session: Session, training_id: str) -> None:
        self.training: Training | None = None
        self._session = session
        self._id = training_id
        self._cursor = Cursor(session.feed, (f"training-{training_id}",))
        self._refresh = Refresh(session, self._ask, pause=0.5)
        self._open = True
        self._asking = True
        self._have_history = False
        self._stale = False
        self._failed = ""
        self._steps: Steps | None = None
        self._charts: LiveCharts | None = None
        self._hidden: set[int] = set()
        self._head = MetricsHead(sizing_mode="stretch_width")
        self._head.on_action(self._act)
        self._grid = pn.Column(sizing_mode="stretch_width", css_classes=["charts"], stylesheets=[_GRID])
        self.root = pn.Column(self._head, self._grid, sizing_mode="stretch_width", stylesheets=[_SURFACE])
        self._show()

    def open(self) -> None:
        """Begin with the history."""
        self._want()

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    def push(self) -> None:
        """Add the steps that have come. The document is locked."""
        if not self._open or self._steps is None or self._stale:
            return
        events = self._cursor.take()
        if events is None:
            self._ask_anew()
            return
        if any(isinstance(recorded.data, TrainingResumed) for recorded in events):
            self._ask_anew()
            return
        stepped = [recorded.data for recorded in events if isinstance(recorded.data, StepTrained)]
        if not stepped:
            if self._failed and self._session.feed.away is None:
                self._want()
            return
        if self._have_history and self._charts is None:
            self._ask_anew()
            return
        columns = self._steps.add(stepped)
        if columns is None:
            if self._have_history:
                self._ask_anew()
                return
            self._begin_live(max(step.sae for step in stepped) + 1)
            columns = self._steps.add(stepped) or {}
        self._add(columns)

    def _add(self, columns: Columns) -> None:
        if not columns.get("step"):
            return
        if self._charts is None:
            self._build(columns)
            return
        self._charts.stream(columns)
        if self._charts.streamed > STREAMED and not self._asking:
            self._want()

    # The history

    def _want(self) -> None:
        self._asking = True
        self._show()
        self._refresh.want()

    def _ask_anew(self) -> None:
        """Stop the live steps until the history has been asked for again: what is shown may not connect to them."""
        self._stale = True
        self._want()

    async def _ask(self) -> None:
        try:
            history = await self._session.gateway.history(self._id, points=POINTS)
        except ApiError as error:
            reason = str(error)
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(history))

    def _fail(self, reason: str) -> None:
        self._asking = False
        self._failed = f"The history could not be loaded: {reason}"
        if not self._have_history and self._steps is None:
            self._begin_live(len(self.training.saes) if self.training else 0)
        self._show()

    def _take(self, history: History) -> None:
        self._asking = False
        self._stale = False
        self._failed = ""
        self._have_history = True
        if not self._open:
            return
        known = len(self.training.saes) if self.training is not None else 0
        self._steps, columns = Steps.of(history.data, saes=known)
        self._cursor.position = history.position
        if not history.data:
            self._clear()
        else:
            if self._charts is None or self._charts.names != self._steps.names:
                self._build(columns)
            else:
                self._charts.replace(columns)
        self._show()
        self.push()

    def _begin_live(self, saes: int) -> None:
        """Without a history, at least what comes from now on."""
        self._steps = Steps(max(1, saes))
        self._cursor.position = max(self._cursor.position, self._session.feed.position)
        self._clear()

    # What is seen

    def _build(self, columns: Columns) -> None:
        config = self.training.config if self.training is not None else None
        labels = self._labels()
        self._charts = LiveCharts(labels, columns, target_l0=target_l0(config))
        for sae in self._hidden:
            if sae < len(labels):
                self._charts.show_line(sae, visible=False)
        self._grid.objects = [pn.pane.Bokeh(plot, sizing_mode="stretch_width") for plot in self._charts.figures]
        self._show()

    def _clear(self) -> None:
        self._charts = None
        if self._grid.objects:
            self._grid.objects = []

    def _labels(self) -> list[str]:
        number = self._steps.saes if self._steps is not None else 0
        return sae_labels(self.training.saes if self.training is not None else (), number)

    def _show(self) -> None:
        lines = []
        if self._charts is not None:
            for index, label in enumerate(self._labels()):
                colour, dash = line_style(index)
                lines.append(
                    {
                        "index": index,
                        "label": label,
                        "colour": colour,
                        "dash": dash,
                        "visible": index not in self._hidden,
                    }
                )
        waiting = ""
        if self._open and self._charts is None and self._steps is not None and not self._asking and not self._failed:
            ended = self.training is not None and self.training.status in _ENDED
            waiting = "This training ended before its first step." if ended else "Waiting for the first step…"
        self._head.present(
            {
                "open": self._open,
                "lines": lines,
                "waiting": waiting,
                "failed": self._failed if self._open else "",
                "loading": self._open and self._asking and self._charts is None,
            }
        )

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "toggle":
                self._toggle()
            case "retry":
                self._failed = ""
                self._want()
            case "line":
                index = message.get("index")
                if isinstance(index, int) and self._charts is not None and index < len(self._labels()):
                    self._hidden ^= {index}
                    self._charts.show_line(index, visible=index not in self._hidden)
                    self._show()

    def _toggle(self) -> None:
        self._open = not self._open
        if self._open:
            self._want()
        else:
            self._steps = None
            self._have_history = False
            self._clear()
        self._show()


_SURFACE = """
:host {
  background: var(--mui-palette-background-paper);
  border: 1px solid var(--mui-palette-divider);
  border-radius: 10px;
}
"""

_GRID = """
.scroll-button { display: none; }
:host { display: grid; gap: 4px 16px; padding: 0 12px 12px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
@media (max-width: 1180px) { :host { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 760px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""
