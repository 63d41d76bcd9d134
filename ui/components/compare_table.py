"""Compared runs in a table."""

from __future__ import annotations

from .component import Component, script, style


class CompareTable(Component):
    """A column for every line, a row for every figure or field.

    Actions: `select` (`key`), and `all` (`on`) where the view offers to show every field.
    """

    _esm = script("compare_table.js")
    _stylesheets = style("compare_table.css")
