"""Questions in SQL: the statement, what can be asked, the answer."""

from __future__ import annotations

from .component import Component, script, style


class SqlConsole(Component):
    """An editor with samples and the views beside it, and the answer below.

    Actions: `run` (`statement`), `cancel`.
    """

    _esm = script("sql_console.js")
    _stylesheets = style("sql_console.css")
