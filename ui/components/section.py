"""A section of a page that can be folded away."""

from __future__ import annotations

from .component import Component, script, style


class Section(Component):
    """A folded section: its title, and below it fields in groups or a table, with buttons for what can be done.

    Whether it is open is remembered by the tab, under the view's `place` and `key`. Actions: `toggle` (`open`),
    `tool` (`name`), `row` (`name`, `key`), `more`, `dismiss` (the refusal that is shown), `retry`.
    """

    _esm = script("section.js")
    _stylesheets = style("section.css")
