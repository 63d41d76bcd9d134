"""Views of finished figures, drawn by HoloViews: the frontier of L0 against FVU, and how often latents fire."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
from bokeh.models import (
    BasicTicker,
    BoxSelectTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    LogTicker,
    ResetTool,
    SaveTool,
    TapTool,
)

from ..state.comparison import Line, Point, frontier
from .axes import LOG_TICKS, TICKS
from .compare import FADED
from .dress import dress, keep_to_itself, tooltip

# The import has made the backend known.
hv.Store.set_current_backend("bokeh")
# It would put its own theme on the whole document, over the page's.
hv.renderer("bokeh").param.update(theme=None)

HEIGHT = 340
"""Height of a view in pixels."""


class Frontier:
    """What each SAE costs (L0) against what it misses (FVU), and the line of those that no other one beats.

    `on_select` is called with the keys of the lines whose points somebody has chosen.
    """

    def __init__(self, found: Sequence[Point], on_select: Callable[[list[str]], None]) -> None:
        self._found = list(found)
        self._emphasised: list[int] = []
        best = frontier(found)
        costs = [point.l0 for point in found]
        log = min(costs) > 0 and max(costs) > 8 * min(costs)
        front = hv.Curve(_places(best), "l0", "fvu").opts(
            interpolation="linear", color="#808a96", line_dash="dashed", line_width=1
        )
        scatter = hv.Points(_places(found), ["l0", "fvu"]).opts(size=12, line_width=2)
        title = "FVU against L0"
        if not all(one.evaluated for one in found):
            title += " (hollow: not evaluated)"
        overlay = hv.Overlay([front, scatter]).opts(
            title=title, height=HEIGHT, responsive=True, show_legend=False, logx=log,
            xlabel="L0, active latents on a token", ylabel="FVU",
        )  # fmt: skip
        self.figure: Any = hv.render(overlay, backend="bokeh")
        self.figure.name = "compare-frontier"
        # HoloViews fixes the ranges at what it has drawn; points move while runs go on.
        self.figure.x_range, self.figure.y_range = DataRange1d(range_padding=0.12), DataRange1d(range_padding=0.12)
        self._front: ColumnDataSource = self.figure.renderers[0].data_source
        drawn = self.figure.renderers[1]
        self.source: ColumnDataSource = drawn.data_source
        self.source.update(name="frontier", data=_described(found))
        drawn.glyph.update(marker="marker", fill_alpha="fill", line_color="colour", fill_color="colour", line_alpha=1.0)
        drawn.nonselection_glyph = drawn.glyph.clone()
        drawn.nonselection_glyph.update(fill_alpha=FADED, line_alpha=FADED)
        drawn.selection_glyph = drawn.muted_glyph = drawn.hover_glyph = None
        self.figure.toolbar.tools = []
        dress(self.figure)
        self.figure.xaxis[0].update(
            ticker=LogTicker(num_minor_ticks=0) if log else BasicTicker(desired_num_ticks=6, num_minor_ticks=0),
            formatter=CustomJSTickFormatter(code=LOG_TICKS if log else TICKS),
        )
        self.figure.yaxis[0].update(ticker=BasicTicker(num_minor_ticks=0), formatter=CustomJSTickFormatter(code=TICKS))
        for axis in (self.figure.xaxis[0], self.figure.yaxis[0]):
            axis.axis_label_text_font_style = "normal"
        hover = HoverTool(
            renderers=[drawn],
            tooltips=tooltip(
                '<span style="color: @colour">●</span> @label<br>'
                'L0 <b>@l0{0,0.[0]}</b> · FVU <b>@fvu{0.[0000]}</b> <span style="opacity: 0.75">@said</span>'
            ),
        )
        hover.visible = False
        tap = TapTool(renderers=[drawn])
        tap.visible = False
        choose = BoxSelectTool(renderers=[drawn], description="Select: drag over points")
        choose.visible = False
        self.figure.add_tools(choose, tap, hover, ResetTool(), SaveTool(filename="compare frontier"))
        self.figure.toolbar.active_drag = choose
        self.figure.toolbar.active_tap = tap
        keep_to_itself(self.figure, self.source, self.source.selected)

        def chosen(attribute: str, old: Any, new: Any) -> None:
            indices = self.source.selected.indices
            # It is also called for what `emphasise` selects, which somebody has chosen elsewhere: perhaps together with
            # lines that have no point. A held document calls it some time later.
            if indices != self._emphasised:
                keys = [self._found[index].line.key for index in indices if index < len(self._found)]
                on_select(list(dict.fromkeys(keys)))

        self.source.selected.on_change("indices", chosen)

    def update(self, found: Sequence[Point]) -> None:
        """Move the points to where they are now."""
        if list(found) != self._found:
            self._found = list(found)
            self.source.data = _described(found)
            self._front.data = _places(frontier(found))

    def emphasise(self, keys: Collection[str]) -> None:
        """Select the points of these lines."""
        wanted = [index for index, point in enumerate(self._found) if point.line.key in keys]
        self._emphasised = wanted
        if wanted != self.source.selected.indices:
            self.source.selected.indices = wanted


def _places(found: Sequence[Point]) -> dict[str, Any]:
    return {"l0": [one.l0 for one in found], "fvu": [one.fvu for one in found]}


def _described(found: Sequence[Point]) -> dict[str, Any]:
    return _places(found) | {
        "colour": [one.line.colour for one in found],
        # Hollow where it is only what the newest step says.
        "fill": [0.9 if one.evaluated else 0.0 for one in found],
        "marker": ["circle" if one.line.dash == "solid" else "diamond" for one in found],
        "key": [one.line.key for one in found],
        "label": [one.label for one in found],
        "said": ["evaluated" if one.evaluated else "as of its newest step" for one in found],
    }


_FREQUENCIES = """
if (tick > 0) return ""
const percent = 10 ** tick * 100
return `${+percent.toPrecision(2)} %`
"""


class Densities:
    """The shares of tokens that latents fire on: one outline for each line, as parts of its latents.

    `histograms` has the line's bins by its key, without the latents that never fired.
    """

    def __init__(self, lines: Sequence[Line], histograms: Mapping[str, Sequence[float]]) -> None:
        shown = [line for line in lines if line.key in histograms]
        curves = []
        for line in shown:
            counts = np.asarray(histograms[line.key], dtype=np.float64)
            edges = np.linspace(-7, 0, len(counts) + 1)
            share = counts / max(1.0, counts.sum())
            curves.append(
                hv.Curve((edges, np.append(share, 0.0)), "density", "share").opts(
                    interpolation="steps-post", color=line.colour, line_dash=line.dash, line_width=1.5
                )
            )
        overlay = hv.Overlay(curves).opts(
            title="Latents by the share of tokens they fire on", height=HEIGHT, responsive=True, show_legend=False,
            xlabel="share of tokens", ylabel="share of the latents that fire",
        )  # fmt: skip
        self.figure: Any = hv.render(overlay, backend="bokeh")
        self.figure.name = "compare-density"
        self._drawn = dict(zip([line.key for line in shown], self.figure.renderers, strict=True))
        for key, drawn in self._drawn.items():
            drawn.data_source.name = f"density-{key}"
        self.figure.toolbar.tools = []
        dress(self.figure)
        self.figure.xaxis[0].update(
            ticker=BasicTicker(desired_num_ticks=4, num_minor_ticks=0),
            formatter=CustomJSTickFormatter(code=_FREQUENCIES),
        )
        self.figure.yaxis[0].update(
            ticker=BasicTicker(desired_num_ticks=5, num_minor_ticks=0), formatter=CustomJSTickFormatter(code=TICKS)
        )
        for axis in (self.figure.xaxis[0], self.figure.yaxis[0]):
            axis.axis_label_text_font_style = "normal"
        self.figure.add_tools(ResetTool(), SaveTool(filename="compare density"))
        keep_to_itself(self.figure)

    def emphasise(self, keys: Collection[str]) -> None:
        """Let all lines but these fade; none: show all alike."""
        for key, drawn in self._drawn.items():
            drawn.glyph.update(line_alpha=FADED if keys and key not in keys else 1.0)
