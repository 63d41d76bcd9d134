"""The head of a training's page."""

from __future__ import annotations

from .component import Component, script, style


class Card(Component):
    """Name, status, buttons, progress and newest figures of one training.

    Actions: `control` (`action`), `rename` (`name`; answered by `renamed`), `delete` and `keep` (answers to the view's
    `deleting`), `dismiss` (the refusal that is shown), `retry`.
    """

    _esm = script("card.js")
    _stylesheets = style("card.css")

    def renamed(self, problem: str = "") -> None:
        """The name was changed, or was not because of `problem`: what was typed is then kept."""
        self.send({"type": "renamed", "problem": problem})
