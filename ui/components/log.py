"""A training's log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..answers import LogLine
from .component import Component, script, style


class Log(Component):
    """Log lines with search, level and follow; lines are sent as messages and kept in the browser.

    Whether it is open is remembered by the tab, under the view's `place`.

    Actions: `toggle` (`open`), `search` (`q`), `level` (`level`), `older` (`before`: a version), `retry`, and `drawn`
    when the browser has drawn the component anew and lacks the lines of the view.
    """

    _esm = script("log.js")
    _stylesheets = style("log.css")

    _beginning = 0

    def reset(self, lines: Sequence[LogLine], *, more: bool, beginning: int) -> None:
        """Show these lines and no others; `more`: there are older ones.

        `beginning` numbers them and what is added to them: a browser that is shown a view of this number and has other
        lines, or none, says `drawn`, and takes nothing that would be added.
        """
        self._beginning = beginning
        self._lines("reset", lines, more=more)

    def append(self, lines: Sequence[LogLine]) -> None:
        """Add newer lines at the end."""
        if lines:
            self._lines("append", lines)

    def prepend(self, lines: Sequence[LogLine], *, more: bool) -> None:
        """Add older lines at the top."""
        self._lines("prepend", lines, more=more)

    def _lines(self, mode: str, lines: Sequence[LogLine], **rest: Any) -> None:
        packed = [[line.version, line.timestamp, line.level, line.logger, line.message] for line in lines]
        self.send({"type": "lines", "mode": mode, "lines": packed, "beginning": self._beginning, **rest})
