"""Whether the page is live."""

from __future__ import annotations

from .component import Component, script, style


class Connection(Component):
    """A chip that says how far the page has followed the log, and a banner while it cannot."""

    _esm = script("connection.js")
    _stylesheets = style("connection.css")

    def live(self, position: int) -> None:
        """Everything up to `position` is shown."""
        self.present({"tone": "good", "label": f"live · position {position:,}", "banner": ""})

    def away(self, reason: str) -> None:
        """The API cannot be followed at this moment."""
        self.present({"tone": "bad", "label": "reconnecting…", "banner": f"{reason} Reconnecting…"})
