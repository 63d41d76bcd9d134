"""Charts of several runs over each other. They go on live, so they are plain Bokeh; what stands still is `analysis`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.events import DoubleTap, Event, RangesUpdate, Reset
from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    LogScale,
    LogTicker,
    ResetTool,
    SaveTool,
)
from bokeh.models import Line as LineGlyph
from bokeh.plotting import figure
from numpy.typing import NDArray

from ..state.comparison import Line
from .axes import LOG_TICKS, TICKS, TIME_TICKS, time_ticker
from .dress import dress, keep_to_itself, literal, refit, span_of_constant, tooltip

HEIGHT = 260
"""Height of a chart in pixels."""

FADED = 0.16
"""How much is left of a line that is not selected while others are."""

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Chart:
    """One chart: the metric that it draws, its title, how its values read (a Numbro format)."""

    metric: str
    title: str
    values: str = "0.[0000]"
    always: bool = True
    from_zero: bool = False
    """Shows that what hardly differs hardly differs."""


CHARTS = (
    Chart("loss", "Loss"),
    Chart("fvu", "FVU"),
    Chart("l0", "L0", "0,0.[000]", from_zero=True),
    Chart("dead", "Dead latents, %", "0.[00]", from_zero=True),
    Chart("sparsity_coefficient", "Sparsity coefficient", "0.000e+0", always=False),
    Chart("grad_norm", "Gradient norm"),
    Chart("tokens_per_second", "Tokens/s", "0,0", from_zero=True),
)

_AXES = {"step": "Step @step{0,0}", "tokens": "@tokens{0.[00] a} tokens", "time": "@time{00:00:00}"}


def charts_of(data: Mapping[str, Columns]) -> tuple[Chart, ...]:
    """The charts that have something to show."""

    def said(metric: str) -> bool:
        return any(bool(np.any(np.nan_to_num(columns[metric]))) for columns in data.values())

    return tuple(chart for chart in CHARTS if chart.always or said(chart.metric))


class CompareCharts:
    """A chart for each metric, a line in it for each of `lines`; `data` holds their columns by the lines' keys.

    A chart is brought up to date by `update` only, so that what nobody looks at costs nothing. `on_zoom` is called with
    the ends of the range that somebody has chosen, in units of the axis, and `on_whole` when the whole is wanted again.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        data: Mapping[str, Columns],
        *,
        axis: str,
        log: bool,
        on_zoom: Callable[[float, float], None] = lambda start, end: None,
        on_whole: Callable[[], None] = lambda: None,
    ) -> None:
        self._lines = lines
        self._axis = axis
        self._log = log
        self._along = DataRange1d(range_padding=0.01)
        self._sources: dict[tuple[str, str], ColumnDataSource] = {}
        self._drawn: dict[tuple[str, str], Any] = {}
        self._sent: dict[tuple[str, str], int] = {}
        self.charts = charts_of(data)
        self.figures = {chart.metric: self._figure(chart, data) for chart in self.charts}
        self.fit(data)
        for plot in self.figures.values():
            plot.on_event(Reset, lambda event: on_whole())
            # A double click undoes the zoom of the chart that it hits, and says so to nobody.
            plot.on_event(DoubleTap, lambda event: on_whole())

        def zoomed(event: Event) -> None:
            assert isinstance(event, RangesUpdate)
            if event.x0 is not None and event.x1 is not None:
                on_zoom(event.x0, event.x1)

        # The charts share their axis: each zoom is told for all of them, once for every one.
        next(iter(self.figures.values())).on_event(RangesUpdate, zoomed)

    def update(self, metric: str, data: Mapping[str, Columns], anew: Collection[str] = ()) -> None:
        """Add to a chart what its lines have come to have; those `anew` are drawn from the beginning."""
        for line in self._lines:
            at = (metric, line.key)
            columns, sent = data[line.key], self._sent[at]
            if line.key in anew or sent > len(columns["step"]):
                self._sources[at].data = self._columns(metric, columns)
            elif sent < len(columns["step"]):
                added = self._columns(metric, columns, sent)
                self._sources[at].stream({name: values.tolist() for name, values in added.items()})
            self._sent[at] = len(columns["step"])

    def fit(self, data: Mapping[str, Columns], *, whole: bool = False) -> None:
        """Fit the charts' ranges, which a zoom has fixed, to `data`; without `whole` the axis stays as it is."""
        for metric, plot in self.figures.items():
            values = np.concatenate([np.asarray(data[line.key][metric], dtype=np.float64) for line in self._lines])
            refit(plot.y_range, span_of_constant(values, log=isinstance(plot.y_scale, LogScale)))
        if whole:
            refit(self._along, 2.0)

    def emphasise(self, keys: Collection[str]) -> None:
        """Let all lines but these fade; none: show all alike."""
        for (_, key), drawn in self._drawn.items():
            faded = bool(keys) and key not in keys
            drawn.glyph.update(line_alpha=FADED if faded else 1.0, line_width=2.5 if keys and not faded else 1.5)

    def _columns(self, metric: str, columns: Columns, begin: int = 0) -> dict[str, Any]:
        return {name: np.asarray(columns[name])[begin:] for name in (self._axis, metric)}

    def _figure(self, chart: Chart, data: Mapping[str, Columns]) -> figure:
        log = self._log and any(bool(np.any(columns[chart.metric] > 0)) for columns in data.values())
        values = DataRange1d(range_padding=0.08)
        if chart.from_zero and not log:
            values.start = 0
        plot = figure(
            title=chart.title,
            height=HEIGHT,
            sizing_mode="stretch_width",
            x_range=self._along,
            y_range=values,
            y_axis_type="log" if log else "linear",
            tools="",
            name=f"compare-{chart.metric}",
        )
        for line in self._lines:
            at = (chart.metric, line.key)
            source = ColumnDataSource(
                data=self._columns(chart.metric, data[line.key]), name=f"{chart.metric}-{line.key}"
            )
            glyph = LineGlyph(
                x=self._axis,
                y=chart.metric,
                line_color=line.colour,
                line_dash=line.dash,
                line_width=1.5,
                line_cap="round",
            )
            self._drawn[at] = plot.add_glyph(source, glyph, nonselection_glyph=None, muted_glyph=None)
            self._sources[at] = source
            self._sent[at] = len(data[line.key]["step"])
        dress(plot)
        plot.xaxis[0].update(
            ticker=time_ticker() if self._axis == "time" else BasicTicker(desired_num_ticks=6, num_minor_ticks=0),
            formatter=CustomJSTickFormatter(code=TIME_TICKS if self._axis == "time" else TICKS),
        )
        plot.yaxis[0].update(
            ticker=LogTicker(desired_num_ticks=4, num_minor_ticks=0)
            if log
            else BasicTicker(desired_num_ticks=5, num_minor_ticks=0),
            formatter=CustomJSTickFormatter(code=LOG_TICKS if log else TICKS),
        )
        zoom = BoxZoomTool(dimensions="width", description="Zoom: drag over the chart")
        zoom.visible = False
        plot.add_tools(zoom, ResetTool(description="Show everything"), SaveTool(filename=f"compare {chart.metric}"))
        plot.toolbar.active_drag = zoom
        for line in self._lines:
            drawn = self._drawn[chart.metric, line.key]
            hover = HoverTool(
                renderers=[drawn],
                tooltips=_reading(
                    line, f"{_AXES[self._axis]}<br>{chart.title} <b>@{chart.metric}{{{chart.values}}}</b>"
                ),
                line_policy="nearest",
            )
            hover.visible = False
            plot.add_tools(hover)
        keep_to_itself(plot)
        return plot


def _reading(line: Line, said: str) -> str:
    return tooltip(
        f'<span style="color: {line.colour}">●</span> {literal(line.label)}<div style="opacity: 0.85">{said}</div>'
    )
