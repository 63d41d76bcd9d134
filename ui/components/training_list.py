"""The list of trainings."""

from __future__ import annotations

from typing import Any

from .component import Component, script, style


class TrainingList(Component):
    """All rows, filters and the search in one component.

    Actions: `filter` (`status`), `search` (`q`), `where` (`field`, `sign`, `value`), `unwhere` (`said`), `tag` (`tag`:
    show only those that have it, or no longer), `group` (`group`), `sort` (`sort`), `clear`, `more`, `retry`; `select`
    (`ids`, `on`), `bulk` (`action`: ask what it would do), `do` (what was asked; `tag` and `remove` where it is about
    a tag), `keep` (do nothing), `dismiss`.
    """

    _esm = script("training_list.js")
    _stylesheets = style("training_list.css")

    def present(self, view: dict[str, Any]) -> None:
        """Send `view`; of its rows only those that the browser does not show already, with the order of all."""
        before = self._shown or {}
        if view == before:
            return
        self._shown = view
        known = {row["id"]: row for row in before.get("rows", ())}
        changed = [row for row in view.get("rows", ()) if known.get(row["id"]) != row]
        self._send_view(view, changed)

    def drawn(self) -> None:
        if self._shown is not None:
            self._send_view(self._shown, self._shown.get("rows", []))

    def _send_view(self, view: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        order = [row["id"] for row in view.get("rows", ())]
        self.send({"type": "show", "view": {**view, "rows": rows, "order": order if "rows" in view else None}})
