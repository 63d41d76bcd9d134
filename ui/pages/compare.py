"""Runs side by side: charts over each other, their frontier, what came of them, where their configurations differ."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import panel as pn

from ..charts.compare import CompareCharts
from ..charts.grid import grid
from ..charts.smoothing import SPANS
from ..components.compare_head import CompareHead
from ..gateway import ApiError
from ..session import Refresh, Route, Session, unparse
from ..state import comparison
from ..state.compare_asked import Asked
from ..state.compare_columns import LineColumns
from ..state.comparison import EACH, MEAN, Line, Result
from ..steps import Columns
from ..text import count
from ..theme import SURFACE
from .compare_results import Results
from .compare_run import Run, columns_of
from .compare_zoom import View, Zoom

_TICK = 0.7
"""Seconds between two updates at the least."""

_FOUND = 8
"""Runs that are offered at once."""


class ComparePage:
    """2 to 10 runs, or SAEs of them. All that is chosen is part of the address."""

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
        self._drawn: Any = None
        self._drawing = 0
        self._head = CompareHead(sizing_mode="stretch_width")
        self._head.on_action(self._act)
        self._grid = pn.Column(sizing_mode="stretch_width", stylesheets=[_GRID])
        self._top = pn.Column(self._head, self._grid, sizing_mode="stretch_width", stylesheets=[SURFACE])
        self._results = Results(self._act, self._select)

    def body(self) -> list[Any]:
        return [self._top, *self._results.body]

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
        self._lines = comparison.lines(known, self._asked.sae, self._asked.own)
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
            self._charts.fit((self._zoom.columns or self._columns).drawn, whole=whole)
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
        saes = self._saes_of_all()
        self._head.present(
            {
                "lines": heads,
                "removable": not self._alone,
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
                "missing": any(run.missing for run in self._runs.values()),
                "note": self._note(),
                "loading": waiting and self._charts is None,
                "empty": not self._asked.ids,
                "full": len(self._asked.ids) >= comparison.MOST,
                "charts": self._names(),
                "drawing": self._drawing,
                "file": "export.html" + unparse({"training": ",".join(self._asked.slots)}),
            }
        )

    def _names(self) -> list[str]:
        """The charts that are only kept up to date while somebody sees them."""
        figures = list(self._charts.figures.values()) if self._charts is not None else []
        return [str(plot.name) for plot in (*figures, *self._results.live)]

    @property
    def _alone(self) -> bool:
        """Whether the lines are the SAEs of the only run."""
        return len(self._asked.ids) == 1 and len(self._lines) > 1

    def _saes_of_all(self) -> list[str]:
        """The labels of SAEs that can be shown of every run that does not show one of its own."""
        shown = {slot: id for slot, id in self._asked.ids.items() if slot not in self._asked.own}
        known = {slot: training for slot, id in shown.items() if (training := self._runs[id].training) is not None}
        found = comparison.choices_of_sae(known)
        return found if found or self._asked.sae == MEAN else [self._asked.sae]

    def _saes_of(self, line: Line) -> list[dict[str, Any]]:
        """What the slot of a line can show."""
        slot = next((slot for slot in self._asked.ids if comparison.key_of(slot) == line.key), None)
        training = self._runs[line.id].training
        if slot is None or training is None or self._alone:
            return []
        asked = self._asked
        return comparison.choices_of_line(
            training,
            slot,
            sae=asked.sae,
            own=asked.own,
            taken={sae for other, sae in asked.own.items() if asked.ids[other] == line.id},
            room=comparison.MOST - len(asked.ids),
        )

    def _note(self) -> str:
        missing = [line.label for line in self._lines if line.sae == -1]
        if missing:
            return f"Nothing is drawn of {', '.join(missing)}: there is no such SAE."
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
                comparison.head(line, training)
                | {
                    "selected": selected,
                    "faded": bool(self._selected) and not selected,
                    "saes": self._saes_of(line),
                }
            )
        return found

    def _show_tables(self, heads: Sequence[dict[str, Any]]) -> None:
        if self._charts is None or not self._lines:
            self._results.hide()
            return
        results = self._results_of_lines()
        # The SAEs of one run have one configuration, but for its variants.
        known = [run.training for run in self._runs.values() if run.training is not None]
        fields = len(self._runs) > 1 or any(map(comparison.has_variants, known))
        last = {result.line.key: self._runs[result.line.id].newest_of_saes() for result in results}
        self._drawing += self._results.show(
            results,
            heads,
            last,
            fields=fields,
            every=self._asked.every_field,
            drawn=self._drawn,
            seen=self._seen,
            selected=self._selected,
        )

    # What is done

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "select":
                key = str(message.get("key", ""))
                self._select([] if self._selected == (key,) else [key])
            case "add":
                self._add(str(message.get("id", "")))
            case "remove":
                self._look(self._asked.without(str(message.get("key", ""))))
            case "drop":
                missing = [slot for slot, id in self._asked.ids.items() if self._runs[id].missing]
                self._look(functools.reduce(Asked.without, map(comparison.key_of, missing), self._asked))
            case "sae":
                self._choose_sae(str(message.get("key", "")), str(message.get("value", "")))
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

    def _add(self, id: str) -> None:
        asked = self._asked
        if self._alone:
            # Its SAEs are what is being looked at: they stay the lines that they are.
            (slot,) = asked.ids
            whole = asked.each(comparison.key_of(slot), len(self._lines))
            asked = whole if len(whole.ids) == len(self._lines) < comparison.MOST else asked
        self._look(asked.with_run(id))

    def _choose_sae(self, key: str, value: str) -> None:
        training = next((self._runs[line.id].training for line in self._lines if line.key == key), None)
        number = len(training.saes) if training is not None else 0
        if value == EACH:
            self._look(self._asked.each(key, number))
        elif not value:
            self._look(self._asked.showing(key, None))
        elif value in map(str, range(number)):
            self._look(self._asked.showing(key, int(value)))

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
        if self._charts is not None:
            self._charts.emphasise(selected)
        self._results.emphasise(selected)
        self._show()

    def _look(self, asked: Asked) -> None:
        if asked == self._asked:
            return
        self._asked = asked
        self._session.router.replace(unparse(asked.route()))
        for id in [id for id in self._runs if id not in asked.ids.values()]:
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
        found = [comparison.offered(one) for one in page.data if one.id not in self._asked.ids.values()][:_FOUND]
        self._session.change(lambda: self._head.send({"type": "found", "runs": found}))


_GRID = f"""
.scroll-button {{ display: none; }}
:host {{ padding: 0 12px 12px; align-content: start; }}
{grid(":host", ".bk-Figure")}
"""
