"""Short news at the edge of the page."""

from __future__ import annotations

from .component import Component, script, style


class Toasts(Component):
    """The newest few of what happens, each for a moment; read out, and kept while somebody is at it. No actions."""

    _esm = script("toasts.js")
    _stylesheets = style("toasts.css")

    def say(self, toast: dict[str, str | float]) -> None:
        """Show a toast as `ui.state.news` makes it."""
        self.send({"type": "toast", "toast": toast})
