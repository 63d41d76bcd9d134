"""The head of a training's page."""

from __future__ import annotations

from typing import Any

from .component import Component, script, style


class Card(Component):
    """Name, status, buttons, progress, newest figures and note of one training.

    Actions: `control` (`action`), `rename` (`name`; answered by `renamed`), `describe` (`note`; answered by
    `described`), `delete` and `keep` (answers to the view's `deleting`), `dismiss` (the refusal that is shown),
    `retry`.
    """

    _esm = script("note.js", "card.js")
    _stylesheets = style("note.css", "card.css")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._note: dict[str, Any] | None = None

    def present_note(self, note: dict[str, Any]) -> None:
        """Send `note` and `note_tree` where they have changed: they may be long, and figures change all the time."""
        if note != self._note:
            self._note = note
            self.send({"type": "note", "view": note})

    def drawn(self) -> None:
        super().drawn()
        if self._note is not None:
            self.send({"type": "note", "view": self._note})

    def renamed(self, problem: str = "") -> None:
        """The name was changed, or was not because of `problem`: what was typed is then kept."""
        self.send({"type": "renamed", "problem": problem})

    def described(self, problem: str = "") -> None:
        """The note was changed, or was not because of `problem`: what was typed is then kept."""
        self.send({"type": "described", "problem": problem})
