"""The chart of an answer in SQL. It stands still, and its columns are anybody's."""

from __future__ import annotations

from typing import Any

from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    FactorRange,
    HoverTool,
    Legend,
    ResetTool,
    SaveTool,
)
from bokeh.plotting import figure
from bokeh.transform import dodge

from ..state.answer_chart import Picture
from ..theme import line_style
from .axes import TICKS
from .dress import dress, keep_to_itself, literal, tooltip

HEIGHT = 380
"""Height of the chart in pixels."""


def chart(picture: Picture) -> figure:
    """The figure of what `picture` holds."""
    along: Any = (
        FactorRange(factors=picture.factors, range_padding=0.1)
        if picture.along == "name"
        else DataRange1d(range_padding=0.02)
    )
    values = DataRange1d(range_padding=0.08)
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        x_range=along,
        y_range=values,
        x_axis_type="datetime" if picture.along == "time" else "auto",
        tools="",
        name="answer",
    )
    drawn = [_draw(plot, picture, index) for index in range(len(picture.lines))]
    if picture.mark == "bars":
        values.start = min(0.0, min((min(line.y) for line in picture.lines), default=0.0))
    dress(plot)
    plot.xaxis[0].axis_label = picture.x_label
    plot.yaxis[0].axis_label = picture.y_label
    for axis in (plot.xaxis[0], plot.yaxis[0]):
        axis.axis_label_text_font_style = "normal"
    plot.yaxis[0].update(ticker=BasicTicker(num_minor_ticks=0), formatter=CustomJSTickFormatter(code=TICKS))
    if picture.along == "number":
        plot.xaxis[0].update(ticker=BasicTicker(num_minor_ticks=0), formatter=CustomJSTickFormatter(code=TICKS))
    elif picture.along == "name" and sum(map(len, picture.factors)) > 80:
        plot.xaxis[0].major_label_orientation = 0.9
    zoom = BoxZoomTool(description="Zoom: drag over the chart")
    zoom.visible = False
    plot.add_tools(zoom, ResetTool(description="Show everything"), SaveTool(filename="answer"))
    plot.toolbar.active_drag = zoom
    for line, renderer in zip(picture.lines, drawn, strict=True):
        x = "@x{%F %T}" if picture.along == "time" else "@x"
        hover = HoverTool(
            renderers=[renderer],
            tooltips=tooltip(
                f"{literal(line.label)}<br>{literal(picture.x_label)} <b>{x}</b> · <b>@y{{0,0.[000000]}}</b>"
            ),
            formatters={"@x": "datetime"} if picture.along == "time" else {},
        )
        hover.visible = False
        plot.add_tools(hover)
    if len(picture.lines) > 1:
        legend = Legend(
            items=[(line.label, [renderer]) for line, renderer in zip(picture.lines, drawn, strict=True)],
            background_fill_alpha=0,
            border_line_alpha=0,
            label_text_font_size="12px",
            click_policy="hide",
            ncols=min(4, len(picture.lines)),
        )
        plot.add_layout(legend, "below")
    keep_to_itself(plot)
    return plot


def _draw(plot: figure, picture: Picture, index: int) -> Any:
    line = picture.lines[index]
    colour, dash = line_style(index)
    source = ColumnDataSource(data={"x": line.x, "y": line.y}, name=f"answer-{index}")
    common: dict[str, Any] = {"source": source}
    match picture.mark:
        case "bars":
            number = len(picture.lines)
            width = 0.8 / number
            at = dodge("x", (index - (number - 1) / 2) * width, range=plot.x_range) if number > 1 else "x"
            return plot.vbar(x=at, top="y", width=width * 0.92, color=colour, **common)
        case "points":
            return plot.scatter(x="x", y="y", size=6, color=colour, fill_alpha=0.75, **common)
        case "line" if len(line.x) > 1:
            return plot.line(x="x", y="y", color=colour, line_dash=dash, line_width=1.5, **common)
        case _:
            # A line of one point would not be seen.
            return plot.scatter(x="x", y="y", size=8, color=colour, **common)
