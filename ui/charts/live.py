"""The live charts of a training: figures that share one source and one axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from bokeh.events import DoubleTap, Event, RangesUpdate, Reset
from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    DataRenderer,
    GlyphRenderer,
    HoverTool,
    InlineStyleSheet,
    Line,
    LinearScale,
    LogScale,
    LogTicker,
    ResetTool,
    SaveTool,
    Span,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from ..answers import Training
from ..steps import AXES, PER_SAE, Columns
from ..theme import line_style
from .axes import LOG_TICKS, TICKS, TIME_TICKS, TOOLBAR, time_ticker
from .dress import literal, refit, span_of_constant, tooltip
from .smoothing import SPANS, MovingAverage

HEIGHT = 232
"""Height of a chart in pixels."""


@dataclass(frozen=True)
class Chart:
    """One chart: the metric that it draws, its title, and how its values read on hovering (a Numbro format).

    An axis `from_zero` shows that what hardly changes hardly changes. A chart `with_any` of some metrics is drawn where
    one of them has ever been another number than zero.
    """

    metric: str
    title: str
    values: str = "0.[0000]"
    from_zero: bool = False
    with_any: tuple[str, ...] = ()

    @property
    def per_sae(self) -> bool:
        """Whether every SAE has a line of its own."""
        return self.metric in PER_SAE

    def columns(self, saes: int) -> list[str]:
        """The columns of its lines."""
        return [f"{self.metric}_{sae}" for sae in range(saes)] if self.per_sae else [self.metric]


# Architectures whose loss has a sparsity term, with a coefficient.
_PENALISED = ("standard", "jumprelu", "gated", "transcoder", "skip")

_PARTS = ("loss_sparsity", "loss_auxiliary")

CHARTS = (
    Chart("loss", "Loss"),
    Chart("l0", "L0", "0,0.[000]", from_zero=True),
    Chart("fvu", "FVU"),
    # Where the loss is nothing but the reconstruction, it has no parts to show.
    Chart("loss_reconstruction", "Loss, reconstruction", with_any=_PARTS),
    Chart("loss_sparsity", "Loss, sparsity", with_any=("loss_sparsity",)),
    Chart("loss_auxiliary", "Loss, auxiliary", with_any=("loss_auxiliary",)),
    Chart("dead_latents", "Dead latents", "0,0", from_zero=True),
    Chart("sparsity_coefficient", "Sparsity coefficient", "0.000e+0", with_any=("sparsity_coefficient",)),
    Chart("learning_rate", "Learning rate", "0.00e+0"),
    Chart("grad_norm", "Gradient norm"),
    Chart("tokens_per_second", "Tokens/s", "0,0", from_zero=True),
    Chart("device_memory", "Device memory, bytes", "0.00 b", from_zero=True, with_any=("device_memory",)),
)


def charts_of(columns: Columns, saes: int) -> tuple[Chart, ...]:
    """The charts that have something to show in `columns`."""

    def said(metric: str) -> bool:
        names = [f"{metric}_{sae}" for sae in range(saes)] if metric in PER_SAE else [metric]
        return any(value != 0 and math.isfinite(value) for name in names for value in columns[name])

    return tuple(chart for chart in CHARTS if not chart.with_any or any(map(said, chart.with_any)))


def expected_charts(training: Training | None) -> int:
    """How many charts a training will have as far as can be told before its first step."""
    number = sum(not chart.with_any for chart in CHARTS)
    if training is None or training.config is None:
        return number
    if training.config.architecture_type in _PENALISED:
        # Reconstruction, sparsity and its coefficient.
        number += 3
    return number + (training.device or "").startswith("cuda")


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody wants to see the charts; `smoothing` is a span in steps, 0 for none."""

    axis: str = "step"
    log: bool = False
    smoothing: int = 0

    @classmethod
    def of(cls, said: dict[str, Any]) -> Choices:
        """What a browser says or remembers; whatever it says that cannot be chosen is left at its default."""
        axis, smoothing = said.get("axis"), said.get("smoothing")
        return cls(
            axis=axis if isinstance(axis, str) and axis in AXES else "step",
            log=said.get("log") is True,
            smoothing=smoothing if isinstance(smoothing, int) and smoothing in SPANS else 0,
        )


_SMOOTH = "~"
"""Ends the name of a column that holds another's moving average."""


class LiveCharts:
    """Figures of a training's steps, one line for each SAE.

    They begin with `columns`; `replace` puts others in their place and `stream` adds what comes after them. `title` is
    what a saved picture is called. `on_zoom` is called with the ends of the range that somebody has chosen, in units
    of the axis, and `on_whole` when the whole is wanted again.
    """

    def __init__(
        self,
        labels: Sequence[str],
        columns: Columns,
        choices: Choices,
        *,
        target_l0: float | None = None,
        title: str = "training",
        on_zoom: Callable[[float, float], None] = lambda start, end: None,
        on_whole: Callable[[], None] = lambda: None,
    ) -> None:
        self.charts = charts_of(columns, len(labels))
        self._choices = choices
        self._names = [*AXES, *(name for chart in self.charts for name in chart.columns(len(labels)))]
        self._metrics = self._names[len(AXES) :]
        self._average = MovingAverage(1, 0)
        self.source = ColumnDataSource(data=self._begin(columns), name="steps")
        self._raw: list[tuple[int, GlyphRenderer]] = []
        self._smooth: list[tuple[int, GlyphRenderer]] = []
        self._hidden: set[int] = set()
        self._along = DataRange1d(range_padding=0.01)
        self._ticks = CustomJSTickFormatter(code=TICKS)
        self._log_ticks = CustomJSTickFormatter(code=LOG_TICKS)
        self._time_ticks = CustomJSTickFormatter(code=TIME_TICKS)
        self._values_ticker = BasicTicker(desired_num_ticks=5, num_minor_ticks=0)
        self._log_ticker = LogTicker(desired_num_ticks=4, num_minor_ticks=0)
        self._ticker = BasicTicker(desired_num_ticks=6, num_minor_ticks=0)
        self._time_ticker = time_ticker()
        self.labels = list(labels)
        self._on_zoom = on_zoom
        self._hovers: list[tuple[HoverTool, list[GlyphRenderer]]] = []
        self.figures = [self._figure(chart, target_l0, title) for chart in self.charts]
        self._draw_axis()
        self._draw_scale(columns)
        self._draw_smoothing()
        for chart, plot in zip(self.charts, self.figures, strict=True):
            refit(plot.y_range, self._span(chart, columns))
        for plot in self.figures:
            plot.on_event(Reset, lambda event: on_whole())
            # A double click undoes the zoom of the chart that it hits, and says so to nobody.
            plot.on_event(DoubleTap, lambda event: on_whole())
        # The charts share their axis: each zoom is told for all of them, once for every one.
        self.figures[0].on_event(RangesUpdate, self._zoomed)
        self._keep_to_itself()

    def replace(self, columns: Columns, *, whole: bool = False) -> None:
        """Show these steps and no others; the `whole` of them, from the first to the last, or the range as it is."""
        self.source.data = self._begin(columns)
        self._draw_scale(columns)
        # A zoom fixes the ranges of the chart that it was made in. They are fitted anew when a property changes.
        for chart, plot in zip(self.charts, self.figures, strict=True):
            refit(plot.y_range, self._span(chart, columns))
        if whole:
            refit(self._along, 2.0)
        self._keep_to_itself()

    def stream(self, columns: Columns) -> None:
        """Add the steps that came after those that are shown."""
        if columns["step"]:
            added: dict[str, Any] = {name: columns[name] for name in self._names}
            if self._choices.smoothing:
                added |= {name: values.tolist() for name, values in self._averages(columns).items()}
            self.source.stream(added)

    def show_line(self, sae: int, visible: bool) -> None:
        """Show or hide the lines of one SAE."""
        if visible:
            self._hidden.discard(sae)
        else:
            self._hidden.add(sae)
        self._draw_visible()

    def choose(self, choices: Choices, columns: Columns) -> None:
        """Show `columns`, whole, as somebody wants them."""
        self._choices = choices
        self._draw_axis()
        self._draw_smoothing()
        self.replace(columns, whole=True)

    def _zoomed(self, event: Event) -> None:
        assert isinstance(event, RangesUpdate)
        if event.x0 is not None and event.x1 is not None:
            self._on_zoom(event.x0, event.x1)

    # The columns

    def _begin(self, columns: Columns) -> dict[str, Any]:
        # Arrays travel as bytes, a third of what they take as numbers in JSON.
        data: dict[str, Any] = {name: np.asarray(columns[name], dtype=np.float64) for name in self._names}
        if self._choices.smoothing:
            self._average = MovingAverage(self._choices.smoothing, len(self._metrics))
            data |= self._averages(columns)
        return data

    def _averages(self, columns: Columns) -> dict[str, Any]:
        values = np.array([columns[name] for name in self._metrics], dtype=np.float64).T
        averages = self._average.add(np.asarray(columns["step"], dtype=np.float64), values)
        return {name + _SMOOTH: averages[:, index] for index, name in enumerate(self._metrics)}

    def _of(self, chart: Chart, columns: Columns) -> NDArray[Any]:
        return np.array([columns[name] for name in chart.columns(len(self.labels))], dtype=np.float64)

    def _span(self, chart: Chart, columns: Columns) -> float:
        """How long the chart's axis is where nothing changes along it."""
        log = isinstance(self.figures[self.charts.index(chart)].y_scale, LogScale)
        return span_of_constant(self._of(chart, columns), log=log)

    # The choices

    def _draw_axis(self) -> None:
        axis = self._choices.axis
        ticker, formatter = (self._time_ticker, self._time_ticks) if axis == "time" else (self._ticker, self._ticks)
        for plot in self.figures:
            plot.xaxis[0].update(ticker=ticker, formatter=formatter)
        for _, line in self._raw + self._smooth:
            line.glyph.x = axis

    def _draw_scale(self, columns: Columns) -> None:
        """Each chart's scale: logarithmic where that is chosen and the chart has a value that can be shown on it."""
        for chart, plot in zip(self.charts, self.figures, strict=True):
            log = self._choices.log and bool(np.any(self._of(chart, columns) > 0))
            if log == isinstance(plot.y_scale, LogScale):
                continue
            # A range learns from its scale what can be fitted into it, and keeps that: another scale has another range.
            plot.y_range = self._values(chart, log=log)
            plot.y_scale = LogScale() if log else LinearScale()
            plot.yaxis[0].update(
                ticker=self._log_ticker if log else self._values_ticker,
                formatter=self._log_ticks if log else self._ticks,
            )

    def _draw_smoothing(self) -> None:
        smooth = self._choices.smoothing > 0
        if smooth and not self._smooth:
            raw = iter(list(self._raw))
            for chart, plot in zip(self.charts, self.figures, strict=True):
                for _ in chart.columns(len(self.labels)):
                    sae, line = next(raw)
                    glyph = Line(**{**line.glyph.properties_with_values(include_defaults=False), "line_width": 2})
                    glyph.y = line.glyph.y + _SMOOTH
                    self._smooth.append((sae, self._add(plot, glyph)))
        for _, line in self._raw:
            line.glyph.update(line_alpha=0.25 if smooth else 1.0, line_width=1 if smooth else 1.5)
        self._draw_visible()

    def _draw_visible(self) -> None:
        for sae, line in self._raw:
            line.visible = sae not in self._hidden
        for sae, line in self._smooth:
            line.visible = self._choices.smoothing > 0 and sae not in self._hidden
        for hover, lines in self._hovers:
            # Nothing is read at a line that is hidden: the first of those in sight gives the step.
            seen = [line for line in lines if line.visible]
            hover.renderers = list[DataRenderer](seen[:1])

    # The figures

    def _values(self, chart: Chart, *, log: bool) -> DataRange1d:
        values = DataRange1d(only_visible=True, range_padding=0.1)
        if chart.from_zero and not log:
            values.start = 0
        return values

    def _add(self, plot: figure, glyph: Line) -> GlyphRenderer:
        # The variants of a glyph that Bokeh makes by itself would be models that nobody sees.
        return plot.add_glyph(
            self.source, glyph, nonselection_glyph=None, muted_glyph=None, name=str(glyph.y), level="glyph"
        )

    def _figure(self, chart: Chart, target_l0: float | None, title: str) -> figure:
        plot = figure(
            title=f"{chart.title} (dashed: target)" if chart.metric == "l0" and target_l0 else chart.title,
            height=HEIGHT,
            sizing_mode="stretch_width",
            x_range=self._along,
            y_range=self._values(chart, log=False),
            tools="",
            toolbar_location="above",
            name=f"chart-{chart.metric}",
            min_border=8,
            # The frames of charts that stand below each other begin at the same place.
            min_border_left=48,
            output_backend="canvas",
        )
        zoom = BoxZoomTool(dimensions="width", description="Zoom: drag over the chart")
        plot.add_tools(
            zoom,
            ResetTool(description="Show the whole training"),
            SaveTool(filename=f"{title} {chart.metric}", description=f"Save this chart as PNG: {chart.title}"),
        )
        plot.toolbar.active_drag = zoom
        # There is no other way to drag, so that there is nothing to choose.
        zoom.visible = False
        plot.toolbar.logo = None
        plot.toolbar.stylesheets = [InlineStyleSheet(css=TOOLBAR)]
        plot.xgrid.grid_line_color = None
        plot.outline_line_color = None
        # The card shines through: painted grounds leave a hair of the wrong colour at their edges.
        plot.background_fill_alpha = plot.border_fill_alpha = 0
        plot.yaxis[0].update(ticker=self._values_ticker, formatter=self._ticks)
        read = (
            "<div>Step <b>@step{0,0}</b></div>"
            '<div style="opacity: 0.75">@tokens{0.[00] a} tokens · @time{00:00:00}</div>'
        )
        drawn: list[GlyphRenderer] = []
        for sae, column in enumerate(chart.columns(len(self.labels))):
            colour, dash = line_style(sae)
            line = self._add(plot, Line(x="step", y=column, line_color=colour, line_dash=dash, line_width=1.5))
            drawn.append(line)
            self._raw.append((sae if chart.per_sae else -1, line))
            label = literal(self.labels[sae] if chart.per_sae else chart.title)
            read += f'<div><span style="color: {colour}">●</span> {label} <b>@{{{column}}}{{{chart.values}}}</b></div>'
        if chart.metric == "l0" and target_l0 is not None:
            plot.add_layout(
                Span(location=target_l0, dimension="width", line_dash="dashed", line_color="#808a96", line_width=1)
            )
        hover = HoverTool(renderers=list[DataRenderer](drawn[:1]), tooltips=tooltip(read), mode="vline")
        hover.line_policy = "nearest"
        hover.visible = False
        self._hovers.append((hover, drawn))
        plot.add_tools(hover)
        return plot

    def _keep_to_itself(self) -> None:
        # What the browser makes of ranges and themes is nobody's business here, ten times a second least of all.
        for plot in self.figures:
            for model in plot.references():
                model.syncable = False
