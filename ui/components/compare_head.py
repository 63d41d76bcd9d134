"""What stands above compared runs' charts."""

from __future__ import annotations

from ..charts.grid import grid
from .component import Component, script, style


class CompareHead(Component):
    """The runs with their colours, how their charts are drawn, and what there is to say while there are none.

    Actions: `select` (`key`: select this line alone, or no line any more), `remove` and `add` (`id`), `find` (`q`:
    runs to add), `choose` (`axis`, `log`, `sae`), `seen` (`charts`: the names of the charts in sight, of those that the
    view calls `charts`), `retry`.
    """

    _esm = script("chart_controls.js", "compare_head.js")
    _stylesheets = [*style("head.css", "compare_head.css"), grid(".bones", ".bone")]
