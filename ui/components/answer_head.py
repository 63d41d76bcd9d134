"""Above the chart of an answer: what is drawn of it, and how."""

from __future__ import annotations

from .component import Component, script, style


class AnswerHead(Component):
    """Mark, columns, and what is left out.

    Action: `choose` (`mark`, `x`, `y`: the names of columns, `series`).
    """

    _esm = script("answer_head.js")
    _stylesheets = style("head.css", "answer_head.css")
