"""An answer in SQL as a chart, with the choice of what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import panel as pn

from ..answers import SqlAnswer
from ..charts.answer import chart
from ..components.answer_head import AnswerHead
from ..state import answer_chart
from ..state.answer_chart import MARKS, ROW, Choice
from ..theme import SURFACE


class AnswerChart:
    """Draws the answer that it was last given, as `wanted` or as the answer's types suggest.

    `chosen` is called when a person has chosen something else.
    """

    def __init__(self, wanted: Choice | None, chosen: Callable[[], None]) -> None:
        self._wanted = wanted
        self._chosen = chosen
        self._answer: SqlAnswer | None = None
        self._heard: Any = None
        self._drawn: tuple[SqlAnswer, Choice] | None = None
        self._head = AnswerHead(sizing_mode="stretch_width")
        self._head.on_action(self._act)
        self._place = pn.Column(sizing_mode="stretch_width", stylesheets=[_PLACE])
        self.root = pn.Column(
            self._head, self._place, sizing_mode="stretch_width", stylesheets=[SURFACE], visible=False
        )

    @property
    def link(self) -> str:
        """The part of an address that asks for what somebody has chosen; empty where nobody has."""
        return "" if self._wanted is None else "&" + urlencode(self._wanted.route())

    def take(self, answer: SqlAnswer) -> None:
        """Draw another answer. The document is locked."""
        self._answer = answer
        self._show()

    def _show(self) -> None:
        answer = self._answer
        choice = None if answer is None else answer_chart.choice(answer, self._wanted)
        self.root.visible = choice is not None
        if answer is None or choice is None:
            return
        picture = answer_chart.picture(answer, choice)
        can = answer_chart.options(answer.columns)
        if (answer, choice) != self._drawn:
            self._drawn = (answer, choice)
            plots = [chart(picture)] if picture.lines else []
            self._place.objects = [pn.pane.Bokeh(plot, sizing_mode="stretch_width") for plot in plots]
        self._head.present(
            {
                "heard": self._heard,
                "mark": choice.mark,
                "x": choice.x,
                "y": list(choice.y),
                "series": choice.series,
                "options": {
                    "x": [{"value": name, "label": name or "row"} for name in can["x"]],
                    "y": can["y"],
                    "series": [{"value": name, "label": name or "none"} for name in ("", *can["series"])],
                },
                "note": picture.left_out or ("" if picture.lines else "There is no number to draw."),
            }
        )

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if kind != "choose" or message.get("mark") not in MARKS:
            return
        self._heard = message.get("number")
        names = message.get("y")
        y = tuple(str(name) for name in names) if isinstance(names, list) else ()
        x, series = str(message.get("x", ROW)), str(message.get("series", ""))
        self._wanted = Choice(mark=message["mark"], x=x, y=y, series=series)
        self._show()
        self._chosen()


_PLACE = """
.scroll-button { display: none; }
:host { padding: 0 12px 12px; }
"""
