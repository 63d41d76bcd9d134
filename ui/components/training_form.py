"""The form of a new training."""

from __future__ import annotations

from typing import Any

from .component import Component, script, style


class TrainingForm(Component):
    """Template selection, fields, what a start would need, and the dialog that saves a template.

    Actions: `draft` (`draft`: what this browser tab kept, or None; once, when it is drawn), `edit` (`field`, `value`,
    `number`), `name` (`name`, `number`), `load` (`template`), `unload`, `revert`, `reset`, `advanced` (fold or unfold),
    `start`, `ask_save`, `save` (`name`, `description`), `cancel_save`, `update` (the loaded template), `retry`.

    Edits are numbered; the view's `heard` is the number of the last one that it knows of.
    """

    _esm = script("training_form.js")
    _stylesheets = style("training_form.css")

    def keep(self, draft: dict[str, Any]) -> None:
        """Let the browser tab keep a draft until it is closed."""
        self.send({"type": "keep", "draft": draft})
