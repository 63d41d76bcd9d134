"""Where one can go from everywhere."""

from __future__ import annotations

from .component import Component, script, style


class Navigation(Component):
    """The links of the page's head; the present one is marked. It has no actions: the router follows links."""

    _esm = script("navigation.js")
    _stylesheets = style("navigation.css")

    def at(self, page: str) -> None:
        """`page` is shown: `trainings`, `compare`, `templates`, `catalogue`, `sql`, `activity` or `new`."""
        self.present({"page": page})
