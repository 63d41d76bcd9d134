"""What came of compared runs: tables of figures and of configurations, and the views that stand still."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import panel as pn

from ..charts.analysis import Densities, Frontier
from ..components.compare_table import CompareTable
from ..state import comparison
from ..state.comparison import Result
from ..theme import SURFACE

_OF_HEAD = ("key", "label", "colour", "dash", "selected", "faded")
"""What a table shows of a line's head."""


class Results:
    """The lower half of the page. `act` gets what the tables ask for, `select` the keys of lines that are chosen."""

    def __init__(self, act: Callable[[str, dict[str, Any]], None], select: Callable[[Sequence[str]], None]) -> None:
        self._select = select
        self._figures = CompareTable(sizing_mode="stretch_width", visible=False)
        self._fields = CompareTable(sizing_mode="stretch_width", visible=False)
        for table in (self._figures, self._fields):
            table.on_action(act)
        self._pair = pn.Column(sizing_mode="stretch_width", stylesheets=[_PAIR])
        self._analysis = pn.Column(self._pair, sizing_mode="stretch_width", stylesheets=[SURFACE], visible=False)
        self._frontier: Frontier | None = None
        self._densities: Densities | None = None
        self._frontier_pane: Any = None
        self._densities_pane: Any = None
        self._shape: Any = None
        self._fired: Any = None

    @property
    def body(self) -> list[Any]:
        return [self._figures, self._analysis, self._fields]

    @property
    def live(self) -> list[Any]:
        """The views that are only kept up to date while somebody sees them."""
        return [self._frontier.figure] if self._frontier is not None else []

    def hide(self) -> None:
        """There is nothing to tell yet."""
        self._figures.visible = self._fields.visible = self._analysis.visible = False

    def show(
        self,
        results: Sequence[Result],
        heads: Sequence[Mapping[str, Any]],
        last: dict[str, dict[int, tuple[float, float]]],
        *,
        fields: bool,
        every: bool,
        drawn: Any,
        seen: Collection[str],
        selected: Sequence[str],
    ) -> bool:
        """Bring all up to date; whether its views are other ones now.

        `last` has by line the newest (L0, FVU) of its SAEs' steps. The table of `fields` shows those that differ, or
        `every` one. `drawn` stands for how the charts are drawn, `seen` are the names of the views in sight.
        """
        self._figures.visible, self._fields.visible = True, fields
        told = [{name: one[name] for name in _OF_HEAD} for one in heads]
        self._figures.present(
            {
                "title": "What came of them",
                "summary": "the best of a row in bold",
                "every": None,
                "note": "",
                "heads": told,
                "rows": comparison.figures(results, time.time()),
            }
        )
        configs = [comparison.config_of(result.line, result.run) for result in results]
        rows = comparison.differences(configs, every=every)
        differing = sum(row["differs"] for row in rows)
        same = "Their configurations are the same." if len(configs) > 1 else ""
        self._fields.present(
            {
                "title": "Configuration",
                "summary": f"{differing} field{'' if differing == 1 else 's'} differ{'s' if differing == 1 else ''}",
                "every": every,
                "note": same if not rows else "",
                "heads": told,
                "rows": rows,
            }
        )
        return self._analyse(results, last, drawn, seen, selected)

    def emphasise(self, selected: Sequence[str]) -> None:
        """Let the lines of these keys stand out."""
        for view in (self._frontier, self._densities):
            if view is not None:
                view.emphasise(selected)

    def _analyse(
        self,
        results: Sequence[Result],
        last: dict[str, dict[int, tuple[float, float]]],
        drawn: Any,
        seen: Collection[str],
        selected: Sequence[str],
    ) -> bool:
        """Bring the views that stand still up to date: they are drawn anew only where they would be others."""
        points = comparison.points(results, last)
        histograms = comparison.densities(results)
        shape = (drawn, [(one.label, one.evaluated) for one in points])
        if shape != self._shape:
            self._shape = shape
            self._frontier = Frontier(points, self._select) if points else None
            self._frontier_pane = _pane(self._frontier, selected)
        elif self._frontier is not None and self._frontier.figure.name in seen:
            self._frontier.update(points)
        if (drawn, histograms) != self._fired:
            self._fired = (drawn, histograms)
            self._densities = Densities([one.line for one in results], histograms) if histograms else None
            self._densities_pane = _pane(self._densities, selected)
        shown = [pane for pane in (self._frontier_pane, self._densities_pane) if pane is not None]
        others = shown != self._pair.objects
        if others:
            self._pair.objects = shown
        self._analysis.visible = bool(shown)
        return others


def _pane(view: Frontier | Densities | None, selected: Sequence[str]) -> Any:
    if view is None:
        return None
    view.emphasise(selected)
    return pn.pane.Bokeh(view.figure, sizing_mode="stretch_width")


_PAIR = """
.scroll-button { display: none; }
:host { display: grid; gap: 4px 16px; padding: 12px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
@media (max-width: 1000px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""
