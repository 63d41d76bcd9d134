"""The head of a training's page."""

from __future__ import annotations

from .component import Component, script, style


class Card(Component):
    """Name, status, buttons, progress and newest figures of one training.

    Actions: `control` (`action`), `dismiss` (the refusal that is shown), `retry`.
    """

    _esm = script("card.js")
    _stylesheets = style("card.css")
