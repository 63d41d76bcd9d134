"""A zoom into the charts of compared runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..gateway import ApiError
from ..session import Refresh, Session
from ..state.compare_columns import LineColumns
from ..state.comparison import Line
from ..steps import Columns
from .compare_run import Run, columns_of
from .zoom import SETTLED, zoom_text


@dataclass(frozen=True)
class View:
    """What is drawn: lines of runs (by id) along an axis, averaged over `smoothing` steps."""

    lines: Sequence[Line]
    runs: Mapping[str, Run]
    axis: str
    smoothing: int


class Zoom:
    """The range that somebody has chosen, which is asked for in full resolution; live steps wait until it is left.

    `columns` are what is to be drawn of the lines meanwhile (None: everything), `failed` says why they are not there.
    `drawn` is called when other columns are to be drawn, with whether they are the whole again; `changed` when
    something else is to be said.
    """

    def __init__(
        self,
        session: Session,
        view: Callable[[], View],
        drawn: Callable[[bool], None],
        changed: Callable[[], None],
    ) -> None:
        self.columns: LineColumns | None = None
        self.failed = ""
        self._range: tuple[float, float] | None = None
        self._session = session
        self._view = view
        self._drawn = drawn
        self._changed = changed
        self._refresh = Refresh(session, self._ask, pause=0.05)

    @property
    def said(self) -> str:
        """The range in words; empty where everything is drawn."""
        return "" if self.columns is None else zoom_text(self._view().axis, self._range)

    def to(self, start: float, end: float) -> None:
        """Choose a range, in units of the axis."""
        self._range = (start, end)
        self._refresh.want()

    def leave(self) -> None:
        """Draw everything again."""
        if self._range is not None:
            self.forget()
            self._drawn(True)

    def forget(self) -> None:
        """The charts have been drawn anew, whole."""
        self._range = self.columns = None
        self.failed = ""

    def retry(self) -> None:
        """Ask again for what could not be loaded."""
        if self.failed:
            self._refresh.want(now=True)

    def stop(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    async def _ask(self) -> None:
        await asyncio.sleep(SETTLED)
        chosen, view = self._range, self._view()
        if chosen is None:
            return
        runs = [run for run in view.runs.values() if run.loaded]
        try:
            found = await asyncio.gather(*(run.within(view.axis, *chosen) for run in runs))
        except ApiError as error:
            reason = f"This range could not be loaded in full: {error}"
            self._session.change(lambda: self._fail(chosen, reason))
        else:
            parts = {run.id: part for run, part in zip(runs, found, strict=True)}
            self._session.change(lambda: self._take(chosen, view, parts))

    def _fail(self, chosen: tuple[float, float], reason: str) -> None:
        if chosen == self._range:
            self.failed = reason
            self._changed()

    def _take(self, chosen: tuple[float, float], view: View, parts: Mapping[str, Columns]) -> None:
        now = self._view()
        if chosen != self._range or (view.lines, view.axis, view.smoothing) != (now.lines, now.axis, now.smoothing):
            # Another range is wanted by now, or other lines, whose charts have begun with everything.
            return
        self.failed = ""
        self.columns = LineColumns(view.smoothing)
        for line in view.lines:
            self.columns.put(line.key, columns_of(line, view.runs[line.id], parts[line.id]))
        self._drawn(False)
