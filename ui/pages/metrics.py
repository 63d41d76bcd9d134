"""The live metrics of a training: history first, then every step as it comes."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
import panel as pn

from events.event import Recorded
from events.training import StepTrained, TrainingResumed

from ..answers import History, Training
from ..charts.grid import grid, height
from ..charts.live import HEIGHT, Choices, LiveCharts, charts_of, expected_charts
from ..charts.smoothing import SPANS
from ..components.metrics_head import MetricsHead
from ..feed import Cursor
from ..gateway import ApiError
from ..session import Refresh, Session
from ..state.trainings import sae_labels, target_l0
from ..steps import Columns, Series, Steps, until
from ..text import count
from ..theme import SURFACE, line_style
from .zoom import SETTLED, zoom_text

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

    A zoom asks for its range alone, in full resolution. What else is known stays in `_series`, which also takes in the
    live steps meanwhile, and comes back when the whole is wanted again.
    """

    def __init__(self, session: Session, training_id: str) -> None:
        self.training: Training | None = None
        self._session = session
        self._id = training_id
        self._cursor = Cursor(session.feed, (f"training-{training_id}",))
        self._refresh = Refresh(session, self._ask, pause=0.5)
        self._refresh_zoom = Refresh(session, self._ask_zoom, pause=0.05)
        self._open = True
        self._asking = True
        self._have_history = False
        self._stale = False
        self._failed = ""
        self._steps: Steps | None = None
        self._series: Series | None = None
        self._charts: LiveCharts | None = None
        self._choices = Choices()
        self._heard: Any = None
        self._zoom: tuple[float, float] | None = None
        self._zoomed: tuple[float, float] | None = None
        self._hidden: set[int] = set()
        self._reserved: int | None = None
        self._head = MetricsHead(sizing_mode="stretch_width")
        self._head.on_action(self._act)
        self._grid = pn.Column(sizing_mode="stretch_width", css_classes=["charts"], stylesheets=[_GRID])
        self.root = pn.Column(self._head, self._grid, sizing_mode="stretch_width", stylesheets=[SURFACE])
        self._show()

    def open(self) -> None:
        """Begin with the history."""
        self._want()

    def show(self, training: Training) -> None:
        """Take the training as it is now."""
        before, self.training = self.training, training
        if before is None or self._steps is None:
            return
        if (before.saes, before.started_at) != (training.saes, training.started_at):
            # Steps that came before this are drawn with neither the names of their SAEs nor the time of their start.
            self._want()

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()
        self._refresh_zoom.stop()

    def push(self) -> None:
        """Add the steps that have come. The document is locked."""
        if not self._open or self._steps is None:
            return
        if self._stale:
            if self._failed and self._session.feed.away is None:
                # The steps that come do not connect to what is shown: they wait for the history.
                self._want()
            return
        events = self._cursor.take()
        if events is None:
            self._ask_anew()
            return
        if any(isinstance(recorded.data, TrainingResumed) for recorded in events):
            self._ask_anew()
            return
        stepped = _steps_of(events)
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
            self._begin_live(max(step.sae for step, _ in stepped) + 1)
            columns = self._steps.add(stepped) or {}
        self._add(columns)

    def _add(self, columns: Columns) -> None:
        if not columns.get("step"):
            return
        if self._series is None or self._charts is None:
            self._series = Series(columns)
            self._build()
            return
        self._series.extend(columns)
        if any(chart not in self._charts.charts for chart in charts_of(columns, len(self._labels()))):
            # A metric has got its first value.
            self._build()
        elif self._zoomed is None:
            self._charts.stream(columns)
        else:
            self._charts.stream(until(columns, self._choices.axis, self._zoomed[1]))
        if self._series.live > STREAMED and not self._asking:
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
        self._steps, columns = Steps.of(history.data, saes=known, began=self._began())
        self._cursor.position = history.position
        if not columns["step"]:
            self._clear()
        else:
            self._series = Series(columns)
            labels, charts = self._labels(), charts_of(columns, self._steps.saes)
            if self._charts is None or (self._charts.labels, self._charts.charts) != (labels, charts):
                self._build()
            elif self._zoom is None:
                self._charts.replace(columns)
            else:
                self._refresh_zoom.want()
        self._show()
        # In a change of its own: see `ordered.change`.
        self._session.change(self.push)

    def _begin_live(self, saes: int) -> None:
        """Without a history, at least what comes from now on."""
        self._steps = Steps(max(1, saes), began=self._began())
        self._cursor.position = max(self._cursor.position, self._session.feed.position)
        self._clear()

    def _began(self) -> int | None:
        return self.training.started_at if self.training is not None else None

    # The zoom

    def _zoom_to(self, start: float, end: float) -> None:
        self._zoom = (start, end)
        self._refresh_zoom.want()

    def _whole(self) -> None:
        """Show everything that is known."""
        if self._zoom is None or self._charts is None or self._series is None:
            return
        self._zoom = self._zoomed = None
        self._failed = ""
        self._charts.replace(self._series.columns, whole=True)
        self._show()

    async def _ask_zoom(self) -> None:
        await asyncio.sleep(SETTLED)
        zoom, series, steps = self._zoom, self._series, self._steps
        if zoom is None or series is None or steps is None:
            return
        first, last = series.steps_around(self._choices.axis, *zoom)
        try:
            history = await self._session.gateway.history(self._id, points=POINTS, from_step=first, to_step=last)
        except ApiError as error:
            reason = str(error)
            self._session.change(lambda: self._fail_zoom(zoom, reason))
        else:
            self._session.change(lambda: self._take_zoom(zoom, series, last, history))

    def _fail_zoom(self, zoom: tuple[float, float], reason: str) -> None:
        if zoom == self._zoom:
            self._failed = f"This range could not be loaded in full: {reason}"
            self._show()

    def _take_zoom(self, zoom: tuple[float, float], series: Series, last: int, history: History) -> None:
        if zoom != self._zoom or series is not self._series or self._charts is None or self._steps is None:
            # Another range is wanted by now, or another history has come, which asks for its own.
            return
        _, columns = Steps.of(history.data, saes=self._steps.saes, began=self._steps.began)
        # What has come since the question, as far as it lies in the range.
        for name, values in series.after(last, self._choices.axis, zoom[1]).items():
            columns[name] += values
        self._zoomed = zoom
        self._failed = ""
        self._charts.replace(columns)
        self._show()

    # What is seen

    def _build(self) -> None:
        """Draw all that is known in new charts."""
        assert self._series is not None
        labels = self._labels()
        name = self.training.name if self.training is not None else ""
        self._zoom = self._zoomed = None
        self._charts = LiveCharts(
            labels,
            self._series.columns,
            self._choices,
            target_l0=target_l0(self.training.config if self.training is not None else None),
            title=name or self._id,
            on_zoom=self._zoom_to,
            on_whole=lambda: self._session.change(self._whole),
        )
        for sae in self._hidden:
            self._charts.show_line(sae, visible=False)
        self._grid.objects = [pn.pane.Bokeh(plot, sizing_mode="stretch_width") for plot in self._charts.figures]
        self._show()

    def _clear(self) -> None:
        self._charts = None
        self._series = None
        self._zoom = self._zoomed = None
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
        ended = self.training is not None and self.training.status in _ENDED
        if self._open and self._charts is None and self._steps is not None and not self._asking and not self._failed:
            waiting = "This training ended before its first step." if ended else "Waiting for the first step…"
        loading = self._open and self._asking and self._charts is None
        charts = 0
        if self._charts is not None:
            charts = len(self._charts.charts)
        elif loading or (waiting and not ended):
            charts = expected_charts(self.training)
        self._reserve(charts)
        self._head.present(
            {
                "open": self._open,
                "lines": lines,
                "waiting": waiting,
                "failed": self._failed if self._open else "",
                "loading": loading,
                "bones": charts if self._charts is None else 0,
                "choices": msgspec.to_builtins(self._choices),
                "heard": self._heard,
                "spans": [{"span": span, "label": f"{count(span)} steps" if span else "off"} for span in SPANS],
                "zoom": zoom_text(self._choices.axis, self._zoomed),
                "csv": f"api/v1/trainings/{quote(self._id, safe='')}/metrics?format=csv",
            }
        )

    def _reserve(self, charts: int) -> None:
        """Keep the charts' place free, so that nothing below them moves when they come."""
        if charts != self._reserved:
            self._reserved = charts
            self._grid.stylesheets = [_GRID, _place(charts)]

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "toggle":
                self._toggle()
            case "retry":
                self._failed = ""
                if self._have_history and self._zoom is not None:
                    self._refresh_zoom.want(now=True)
                    self._show()
                else:
                    self._want()
            case "line":
                index = message.get("index")
                if isinstance(index, int) and self._charts is not None and index < len(self._labels()):
                    self._hidden ^= {index}
                    self._charts.show_line(index, visible=index not in self._hidden)
                    self._show()
            case "choose":
                self._heard = message.get("number")
                self._choose(Choices.of(message))
            case "whole":
                self._whole()

    def _choose(self, choices: Choices) -> None:
        if choices != self._choices:
            self._choices = choices
            if self._charts is not None and self._series is not None:
                self._zoom = self._zoomed = None
                self._charts.choose(choices, self._series.columns)
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


def _steps_of(events: list[Recorded]) -> list[tuple[StepTrained, int]]:
    return [(recorded.data, recorded.occurred_at) for recorded in events if isinstance(recorded.data, StepTrained)]


_GRID = f"""
.scroll-button {{ display: none; }}
:host {{ padding: 0 12px 12px; align-content: start; }}
{grid(":host", ".bk-Figure")}
"""


def _place(charts: int) -> str:
    """The room that so many charts take."""
    return height(charts, HEIGHT) if charts else ":host { min-height: 0; padding: 0; }"
