"""The catalogue of models and data sets."""

from __future__ import annotations

from .component import Component, script, style


class Catalogue(Component):
    """Two lists, what each entry is used by, and the dialog that registers another.

    Actions: `register` (`kind`), `again` (`kind`, `id`: check that it still loads), `remove` (`kind`, `id`), `undo`,
    `check` (`values`), `changed`, `register_now`, `register_cancel`, `dismiss` (what is said), `retry`.
    """

    _esm = script("catalogue.js")
    _stylesheets = style("catalogue.css")
