"""The live charts of a training: figures that share one source and one step axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    DataRenderer,
    GlyphRenderer,
    HoverTool,
    Line,
    Span,
)
from bokeh.plotting import figure

from ..steps import PER_SAE, Columns
from ..theme import line_style


@dataclass(frozen=True)
class Chart:
    """One chart: the metric that it draws, its title, and how its values read on hovering (a Numbro format).

    An axis `from_zero` shows that what hardly changes hardly changes.
    """

    metric: str
    title: str
    values: str = "0.[0000]"
    from_zero: bool = False

    @property
    def per_sae(self) -> bool:
        """Whether every SAE has a line of its own."""
        return self.metric in PER_SAE


CHARTS = (
    Chart("loss", "Loss"),
    Chart("l0", "L0", "0,0.[000]", from_zero=True),
    Chart("fvu", "FVU"),
    Chart("dead_latents", "Dead latents", "0,0", from_zero=True),
    Chart("learning_rate", "Learning rate", "0.00e+0"),
    Chart("tokens_per_second", "Tokens/s", "0,0", from_zero=True),
)

# As many digits as tell neighbouring ticks apart, however small they are.
_TICKS = """
const gap = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : Math.abs(tick)
const size = Math.abs(tick)
if (size < gap / 1e6) return "0"
if (gap < 1e-3 && size < 1e-2) return (+tick.toPrecision(6)).toExponential()
if (gap >= 1e5) return `${+(tick / 1e6).toPrecision(6)}M`
if (gap >= 1e2 && size >= 1e3) return `${+(tick / 1e3).toPrecision(6)}k`
return tick.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(gap) + 1e-9))))
"""


class LiveCharts:
    """Figures of a training's steps, one line for each SAE.

    They begin with `columns`; `replace` puts others in their place and `stream` adds what comes after them. The columns
    are always the same.
    """

    def __init__(self, labels: Sequence[str], columns: Columns, *, target_l0: float | None = None) -> None:
        self.names = list(columns)
        self.streamed = 0
        self.source = ColumnDataSource(data=self._arrays(columns), name="steps")
        self._lines: list[list[GlyphRenderer]] = [[] for _ in labels]
        self._steps = DataRange1d(range_padding=0.01)
        self._formatter = CustomJSTickFormatter(code=_TICKS)
        self.figures = [self._figure(chart, labels, target_l0) for chart in CHARTS]

    def replace(self, columns: Columns) -> None:
        """Show these steps and no others."""
        self.streamed = 0
        self.source.data = self._arrays(columns)

    def stream(self, columns: Columns) -> None:
        """Add the steps that came after those that are shown."""
        if columns["step"]:
            self.streamed += len(columns["step"])
            self.source.stream(dict[str, Any](columns))

    def show_line(self, sae: int, visible: bool) -> None:
        """Show or hide the lines of one SAE."""
        for line in self._lines[sae]:
            line.visible = visible

    def _arrays(self, columns: Columns) -> dict[str, Any]:
        # Arrays travel as bytes, a third of what they take as numbers in JSON.
        return {name: np.asarray(columns[name], dtype=np.float64) for name in self.names}

    def _figure(self, chart: Chart, labels: Sequence[str], target_l0: float | None) -> figure:
        values = DataRange1d(only_visible=True)
        if chart.from_zero:
            values.start = 0
        plot = figure(
            title=chart.title,
            height=232,
            sizing_mode="stretch_width",
            x_range=self._steps,
            y_range=values,
            tools="xbox_zoom,reset,save",
            active_drag="xbox_zoom",
            toolbar_location="above",
            name=f"chart-{chart.metric}",
            min_border=8,
            output_backend="canvas",
        )
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        plot.xgrid.grid_line_color = None
        plot.outline_line_color = None
        # The card shines through: painted grounds leave a hair of the wrong colour at their edges.
        plot.background_fill_alpha = plot.border_fill_alpha = 0
        plot.xaxis.formatter = self._formatter
        plot.yaxis.formatter = self._formatter
        plot.xaxis.ticker = BasicTicker(desired_num_ticks=6, num_minor_ticks=0)
        plot.yaxis.ticker = BasicTicker(desired_num_ticks=5, num_minor_ticks=0)
        read = '<div style="padding: 2px 4px"><div>Step <b>@step{0,0}</b></div>'
        drawn: list[DataRenderer] = []
        for sae, label in enumerate(labels if chart.per_sae else [chart.title]):
            column = f"{chart.metric}_{sae}" if chart.per_sae else chart.metric
            colour, dash = line_style(sae)
            glyph = Line(x="step", y=column, line_color=colour, line_dash=dash, line_width=1.5)
            # The variants of a glyph that Bokeh makes by itself would be models that nobody sees.
            line = plot.add_glyph(
                self.source, glyph, nonselection_glyph=None, muted_glyph=None, name=column, level="glyph"
            )
            drawn.append(line)
            if chart.per_sae:
                self._lines[sae].append(line)
            value = f"@{{{column}}}{{{chart.values}}}"
            read += f'<div><span style="color: {colour}">●</span> {escape(label)} <b>{value}</b></div>'
        if chart.metric == "l0" and target_l0 is not None:
            plot.add_layout(
                Span(location=target_l0, dimension="width", line_dash="dashed", line_color="#808a96", line_width=1)
            )
        plot.add_tools(HoverTool(renderers=drawn[:1], tooltips=read + "</div>", mode="vline", line_policy="nearest"))
        # What the browser makes of ranges and themes is nobody's business here, ten times a second least of all.
        for model in plot.references():
            model.syncable = False
        return plot
