"""The list of trainings."""

from __future__ import annotations

from .component import Component, script, style


class TrainingList(Component):
    """All rows, filters and the search in one component.

    Actions: `filter` (`status`), `search` (`q`), `clear`, `more`, `retry`.
    """

    _esm = script("training_list.js")
    _stylesheets = style("training_list.css")
