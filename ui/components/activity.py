"""Who did what, over everything."""

from __future__ import annotations

from .component import ListComponent, script, style


class Activity(ListComponent):
    """A list of what was done, the newest first, with filters by kind and actor.

    Actions: `kind` (`kind`), `actor` (`actor`), `more` (older ones), `clear` (the filters), `retry`.
    """

    _esm = script("activity.js")
    _stylesheets = style("activity.css")
