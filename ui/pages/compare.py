"""Runs side by side: charts over each other, their frontier, what came of them, where their configurations differ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import panel as pn

from ..charts.analysis import Densities, Frontier
from ..charts.compare import CompareCharts
from ..charts.smoothing import SPANS
from ..components.compare_head import CompareHead
from ..components.compare_table import CompareTable
from ..gateway import ApiError, Training
from ..session import Refresh, Route, Session, unparse
from ..state import comparison
from ..state.compare_columns import LineColumns
from ..state.comparison import MEAN, Asked, Line, Result
from ..state.trainings import ARCHITECTURES, LABELS, last_part
from ..steps import Columns
from ..text import count
from .compare_run import Run, columns_of
from .compare_zoom import View, Zoom

_TICK = 0.7
"""Seconds between two updates at the least."""

_FOUND = 8
"""Runs that are offered at once."""


class ComparePage:
    """2 to 10 runs, or the SAEs of one. All that is chosen is part of the address, but for what is selected."""

    title = "Compare"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._asked = Asked.of(route)
        self._runs = {id: Run(session, id, self._changed) for id in self._asked.ids.values()}
        self._tick = Refresh(session, self._beat, pause=_TICK)
        self._finding = Refresh(session, self._find, pause=0.1)
        self._zoom = Zoom(session, self._view, self._all_anew, self._show)
        self._heard: Any = None
        self._q = ""
        self._seen: frozenset[str] = frozenset()
        self._lines: list[Line] = []
        self._columns = LineColumns(self._asked.smoothing)
        self._beginnings: dict[str, int] = {}
        self._anew: dict[str, set[str]] = {}
        self._charts: CompareCharts | None = None
        self._frontier: Frontier | None = None
        self._densities: Densities | None = None
        self._drawn: Any = None
        self._frontier_pane: Any = None
        self._densities_pane: Any = None
        self._shape: Any = None
        self._fired: Any = None
        self._drawing = 0
        self._head = CompareHead(sizing_mode="stretch_width")
        self._head.on_action(self._act)
        self._grid = pn.Column(sizing_mode="stretch_width", stylesheets=[_GRID])
        self._top = pn.Column(self._head, self._grid, sizing_mode="stretch_width", stylesheets=[_SURFACE])
        self._results = CompareTable(sizing_mode="stretch_width")
        self._results.on_action(self._act)
        self._fields = CompareTable(sizing_mode="stretch_width")
        self._fields.on_action(self._act)
        self._pair = pn.Column(sizing_mode="stretch_width", stylesheets=[_PAIR])
        self._analysis = pn.Column(self._pair, sizing_mode="stretch_width", stylesheets=[_SURFACE], visible=False)
        self._results.visible = self._fields.visible = False

    def body(self) -> list[Any]:
        return [self._top, self._results, self._analysis, self._fields]

    def open(self) -> None:
        for run in self._runs.values():
            run.ask()
        self._show()

    def push(self) -> None:
        self._tick.want()

    def close(self) -> None:
        self._tick.stop()
        self._finding.stop()
        self._zoom.stop()
        for run in self._runs.values():
            run.close()

    # What comes

    async def _beat(self) -> None:
        # A tab that nobody looks at is left alone; what it missed is asked for when it is seen again.
        if self._seen or self._charts is None:
            self._session.change(self._advance)

    def _advance(self) -> None:
        if self._session.feed.away is None:
            for run in self._runs.values():
                if run.failed and not run.missing:
                    run.ask()
        for run in self._runs.values():
            added = run.advance()
            if added is not None and added["step"]:
                self._extend(run, added)
        self._bring_up_to_date()
        self._show()

    def _changed(self) -> None:
        """A run has been loaded, or could not be."""
        self._gather()
        self._show()

    def _gather(self) -> None:
        """Make the lines and their columns from what is known of the runs."""
        known = {
            slot: run.training
            for slot, id in self._asked.ids.items()
            if (run := self._runs[id]).loaded and run.training is not None
        }
        self._lines = comparison.lines(known, self._asked.sae)
        shape = (self._lines, self._asked.axis, self._asked.log, self._asked.smoothing)
        if self._asked.smoothing != self._columns.span:
            self._columns = LineColumns(self._asked.smoothing)
        for line in self._lines:
            run = self._runs[line.id]
            if self._beginnings.get(line.key) != run.beginning or shape != self._drawn:
                assert run.series is not None
                self._beginnings[line.key] = run.beginning
                self._columns.put(line.key, columns_of(line, run, run.series.columns))
                for waiting in self._anew.values():
                    waiting.add(line.key)
        waiting = any(not run.loaded and not run.failed for run in self._runs.values())
        if waiting and self._charts is None:
            return
        if shape != self._drawn:
            self._drawn = shape
            self._draw()
        else:
            self._bring_up_to_date()

    def _extend(self, run: Run, added: Columns) -> None:
        for line in self._lines:
            if line.id == run.id:
                self._columns.add(line.key, columns_of(line, run, added))

    def _view(self) -> View:
        return View(self._lines, self._runs, self._asked.axis, self._asked.smoothing)

    def _all_anew(self, whole: bool) -> None:
        """Other columns are to be drawn: those of a zoom, or the `whole` again."""
        if self._charts is not None:
            self._charts.fit(whole=whole)
        for waiting in self._anew.values():
            waiting.update(line.key for line in self._lines)
        self._bring_up_to_date()
        self._show()

    # What is seen

    def _draw(self) -> None:
        if not self._lines:
            self._charts = None
            self._grid.objects = []
            return
        self._zoom.forget()
        self._charts = CompareCharts(
            self._lines,
            self._columns.drawn,
            axis=self._asked.axis,
            log=self._asked.log,
            on_zoom=self._zoom.to,
            on_whole=lambda: self._session.change(self._zoom.leave),
        )
        self._charts.emphasise(self._selected)
        self._anew = {metric: set() for metric in self._charts.figures}
        self._drawing += 1
        self._grid.objects = [
            pn.pane.Bokeh(plot, sizing_mode="stretch_width") for plot in self._charts.figures.values()
        ]

    def _bring_up_to_date(self) -> None:
        if self._charts is None:
            return
        shown = self._zoom.columns or self._columns
        for metric, plot in self._charts.figures.items():
            if plot.name in self._seen:
                self._charts.update(metric, shown.drawn, self._anew[metric])
                self._anew[metric].clear()

    def _results_of_lines(self) -> list[Result]:
        found: list[Result] = []
        for line in self._lines:
            run = self._runs[line.id]
            assert run.training is not None
            last = self._columns.last(line.key)
            found.append(Result(line=line, run=run.training, last=last, evaluations=run.evaluations))
        return found

    def _show(self) -> None:
        heads = self._heads()
        self._show_tables(heads)
        failed = " ".join([run.failed for run in self._runs.values() if run.failed] + [self._zoom.failed]).strip()
        waiting = any(not run.loaded and not run.failed for run in self._runs.values())
        saes = comparison.choices_of_sae(
            {slot: run.training for slot, run in enumerate(self._runs.values()) if run.training is not None}
        )
        self._head.present(
            {
                "lines": heads,
                "removable": len(self._asked.ids) > 1 or len(self._lines) <= 1,
                "choices": {
                    "axis": self._asked.axis,
                    "log": self._asked.log,
                    "sae": self._asked.sae,
                    "smoothing": self._asked.smoothing,
                },
                "heard": self._heard,
                "spans": [{"span": span, "label": f"{count(span)} steps" if span else "off"} for span in SPANS],
                "zoom": self._zoom.said,
                "saes": [
                    {"value": MEAN, "label": "mean of all"},
                    *({"value": label, "label": label} for label in saes),
                ]
                if saes
                else [],
                "failed": failed,
                "note": self._note(),
                "loading": waiting and self._charts is None,
                "empty": not self._asked.ids,
                "full": len(self._asked.ids) >= comparison.MOST,
                "charts": self._names(),
                "drawing": self._drawing,
                "file": "export.html" + unparse({"training": ",".join(self._asked.ids.values())}),
            }
        )

    def _names(self) -> list[str]:
        """The charts that are only kept up to date while somebody sees them."""
        figures = list(self._charts.figures.values()) if self._charts is not None else []
        return [str(plot.name) for plot in (*figures, *([self._frontier.figure] if self._frontier else []))]

    def _note(self) -> str:
        missing = [line.label for line in self._lines if line.sae == -1]
        if missing:
            return f"Without {self._asked.sae}: {', '.join(missing)}."
        if len(self._asked.ids) == 1 and len(self._lines) == 1:
            return "One run is shown. Add another one to compare it with."
        return ""

    def _heads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for line in self._lines:
            training = self._runs[line.id].training
            assert training is not None
            selected = line.key in self._selected
            found.append(
                comparison.head(line, training) | {"selected": selected, "faded": bool(self._selected) and not selected}
            )
        return found

    def _show_tables(self, heads: Sequence[dict[str, Any]]) -> None:
        shown = self._charts is not None and bool(self._lines)
        self._results.visible = shown
        # The SAEs of one run have one configuration, but for its variants.
        known = [run.training for run in self._runs.values() if run.training is not None]
        self._fields.visible = shown and (len(self._asked.ids) > 1 or any(map(comparison.has_variants, known)))
        if not shown:
            self._analysis.visible = False
            return
        results = self._results_of_lines()
        heads = [{name: one[name] for name in ("key", "label", "colour", "dash", "selected", "faded")} for one in heads]
        self._results.present(
            {
                "title": "What came of them",
                "summary": "the best of a row in bold",
                "every": None,
                "note": "",
                "heads": heads,
                "rows": comparison.figures(results, time.time()),
            }
        )
        configs = [comparison.config_of(result.line, result.run) for result in results]
        rows = comparison.differences(configs, every=self._asked.every_field)
        differing = sum(row["differs"] for row in rows)
        same = "Their configurations are the same." if len(configs) > 1 else ""
        self._fields.present(
            {
                "title": "Configuration",
                "summary": f"{differing} field{'' if differing == 1 else 's'} differ{'s' if differing == 1 else ''}",
                "every": self._asked.every_field,
                "note": same if not rows else "",
                "heads": heads,
                "rows": rows,
            }
        )
        self._analyse(results)

    def _analyse(self, results: Sequence[Result]) -> None:
        """Bring the views that stand still up to date: they are drawn anew only where they would be others."""
        last = {result.line.key: self._runs[result.line.id].newest_of_saes() for result in results}
        points = comparison.points(results, last)
        histograms = comparison.densities(results)
        shape = (self._drawn, [(one.label, one.evaluated) for one in points])
        if shape != self._shape:
            self._shape = shape
            self._frontier = Frontier(points, self._select) if points else None
            self._frontier_pane = self._pane(self._frontier)
        elif self._frontier is not None and self._frontier.figure.name in self._seen:
            self._frontier.update(points)
        if (self._drawn, histograms) != self._fired:
            self._fired = (self._drawn, histograms)
            self._densities = Densities(self._lines, histograms) if histograms else None
            self._densities_pane = self._pane(self._densities)
        shown = [pane for pane in (self._frontier_pane, self._densities_pane) if pane is not None]
        if shown != self._pair.objects:
            self._pair.objects = shown
            self._drawing += 1
        self._analysis.visible = bool(shown)

    def _pane(self, view: Frontier | Densities | None) -> Any:
        if view is None:
            return None
        view.emphasise(self._selected)
        return pn.pane.Bokeh(view.figure, sizing_mode="stretch_width")

    # What is done

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "select":
                key = str(message.get("key", ""))
                self._select([] if self._selected == (key,) else [key])
            case "add":
                self._look(self._asked.with_run(str(message.get("id", ""))))
            case "remove":
                self._look(self._asked.without(str(message.get("id", ""))))
            case "choose":
                self._heard = message.get("number")
                said = {"axis": "axis", "sae": "sae", "smoothing": "smooth"}
                chosen = {name: str(message.get(word)) for word, name in said.items()}
                asked = Asked.of({**self._asked.route(), **chosen})
                self._look(msgspec.structs.replace(asked, log=message.get("log") is True))
                self._show()
            case "whole":
                self._zoom.leave()
            case "all":
                self._look(msgspec.structs.replace(self._asked, every_field=message.get("on") is True))
            case "find":
                self._q = str(message.get("q", "")).strip()[:200]
                self._finding.want(now=True)
            case "seen":
                self._see(message.get("charts"))
            case "retry":
                for run in self._runs.values():
                    if run.failed:
                        run.failed = ""
                        run.ask()
                self._zoom.retry()
                self._show()

    def _see(self, charts: Any) -> None:
        self._seen = (
            frozenset(name for name in charts if isinstance(name, str)) if isinstance(charts, list) else frozenset()
        )
        if self._seen:
            self._advance()

    @property
    def _selected(self) -> tuple[str, ...]:
        """The keys of the lines that stand out: those that the address asks for, as far as they are there."""
        known = {line.key for line in self._lines}
        return tuple(key for key in self._asked.selected if key in known)

    def _select(self, keys: Sequence[str]) -> None:
        known = {line.key for line in self._lines}
        selected = tuple(key for key in keys if key in known)
        if selected == self._selected:
            return
        self._asked = msgspec.structs.replace(self._asked, selected=selected)
        self._session.router.replace(unparse(self._asked.route()))
        for view in (self._charts, self._frontier, self._densities):
            if view is not None:
                view.emphasise(selected)
        self._show()

    def _look(self, asked: Asked) -> None:
        if asked == self._asked:
            return
        self._asked = asked
        self._session.router.replace(unparse(asked.route()))
        for id in [id for id in self._runs if id not in asked.slots]:
            self._runs.pop(id).close()
        for id in asked.ids.values():
            if id not in self._runs:
                self._runs[id] = Run(self._session, id, self._changed)
                self._runs[id].ask()
        self._gather()
        self._show()

    async def _find(self) -> None:
        try:
            page = await self._session.gateway.trainings(q=self._q, limit=_FOUND + comparison.MOST)
        except ApiError:
            # It is looked for again with the next letter.
            return
        found = [_offered(one) for one in page.data if one.id not in self._asked.slots][:_FOUND]
        self._session.change(lambda: self._head.send({"type": "found", "runs": found}))


def _offered(training: Training) -> dict[str, str]:
    config = training.config
    about = [LABELS.get(training.status, training.status)]
    if config is not None:
        about += [ARCHITECTURES.get(config.architecture_type, config.architecture_type), last_part(config.model)]
    return {"id": training.id, "name": training.name or training.id, "about": " · ".join(about)}


_SURFACE = """
:host {
  background: var(--mui-palette-background-paper);
  border: 1px solid var(--mui-palette-divider);
  border-radius: 10px;
}
"""

_GRID = """
.scroll-button { display: none; }
:host {
  display: grid; gap: 4px 16px; padding: 0 12px 12px; align-content: start;
  grid-template-columns: repeat(3, minmax(0, 1fr));
}
@media (max-width: 1180px) { :host { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 760px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""

_PAIR = """
.scroll-button { display: none; }
:host { display: grid; gap: 4px 16px; padding: 12px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
@media (max-width: 1000px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""
