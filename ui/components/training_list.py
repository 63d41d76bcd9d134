"""The list of trainings."""

from __future__ import annotations

from .component import ListComponent, script, style


class TrainingList(ListComponent):
    """All rows, filters and the search in one component.

    Actions: `filter` (`status`), `search` (`q`), `where` (`field`, `sign`, `value`), `unwhere` (`said`), `tag` (`tag`:
    show only those that have it, or no longer), `group` (`group`), `sort` (`sort`), `clear`, `more`, `retry`; `select`
    (`ids`, `on`), `bulk` (`action`: ask what it would do), `do` (what was asked; `tag` and `remove` where it is about
    a tag), `keep` (do nothing); `unfold` (`id`: show its note below its row; empty for none), `describe` (`id`, `name`,
    `note`: what changes; answered by `described`).
    """

    _esm = script("note.js", "training_list.js")
    _stylesheets = style("note.css", "training_list.css")

    def described(self, id: str, problem: str = "") -> None:
        """Name or note of a training were changed, or were not because of `problem`: what was typed is then kept."""
        self.send({"type": "described", "id": id, "problem": problem})
