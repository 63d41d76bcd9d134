"""What makes a chart one of ours: no frame, no ground, a quiet toolbar."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from bokeh.models import InlineStyleSheet
from bokeh.plotting import figure
from numpy.typing import NDArray

from .axes import TOOLBAR


def dress(plot: figure) -> None:
    """Give a figure without tools the looks of the others."""
    plot.update(
        min_border=8,
        # The frames of charts that stand below each other begin at the same place.
        min_border_left=48,
        output_backend="canvas",
        toolbar_location="above",
        outline_line_color=None,
        # The card shines through: painted grounds leave a hair of the wrong colour at their edges.
        background_fill_alpha=0,
        border_fill_alpha=0,
    )
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [InlineStyleSheet(css=TOOLBAR)]
    plot.xgrid.grid_line_color = None


def keep_to_itself(plot: figure, *but: Any) -> None:
    """Let the browser tell nothing of what it makes of a figure's ranges and themes, but for the models `but`."""
    for model in plot.references():
        model.syncable = model in but


def span_of_constant(values: NDArray[Any], *, log: bool) -> float:
    """How long an axis is along which nothing changes: a tenth of what stands there, on a log scale two decades."""
    greatest = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))
    return 2.0 if log else 0.1 * greatest or 2.0


def refit(fitted: Any, span: float) -> None:
    """Let a `DataRange1d` forget what a zoom has made of it: it does when one of its properties changes.

    `span` is how long it is where nothing changes along it.
    """
    fitted.default_span = span if fitted.default_span != span else span * 1.0001


def literal(text: str) -> str:
    """A text as it stands in a tooltip's markup, where braces, @ and $ would be read as places for values."""
    return "".join(f"&#{ord(letter)};" if letter in "@${}" else letter for letter in escape(text))


def tooltip(said: str) -> str:
    """Markup as it is shown at the pointer: names of any length wrap, so that it fits beside the pointer on a phone."""
    return f'<div style="padding: 2px 4px; max-width: min(340px, 38vw); overflow-wrap: anywhere">{said}</div>'
