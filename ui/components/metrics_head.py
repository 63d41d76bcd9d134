"""What stands above the charts."""

from __future__ import annotations

from ..charts.grid import grid
from .component import Component, script, style


class MetricsHead(Component):
    """The charts' title and legend, how they are drawn, their skeleton, and why there are none.

    Actions: `toggle` (show or hide the charts), `line` (`index`: show or hide one SAE's lines), `choose` (`axis`,
    `log`, `smoothing`; also, at the beginning, what the browser remembers of them), `whole` (leave the zoom), `retry`.
    """

    _esm = script("chart_controls.js", "metrics_head.js")
    _stylesheets = [*style("head.css", "metrics_head.css"), grid(".bones", ".bone")]
