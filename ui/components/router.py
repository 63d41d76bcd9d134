"""The page's address, title and remembered theme."""

from __future__ import annotations

from .component import Component, script


class Router(Component):
    """The browser's address bar. Its action `moved` brings the query after back, forward or a change by hand."""

    _esm = script("router.js")

    def go(self, url: str, *, replace: bool = False) -> None:
        """Show `url` (a query, `?…`; empty for the start page) as the address, as a new step of the history."""
        self.send({"type": "go", "url": url, "replace": replace})

    def entitle(self, title: str) -> None:
        """Give the browser's tab a title."""
        self.send({"type": "title", "title": title})

    def remember_theme(self, cookie: str, theme: str) -> None:
        """Let the browser keep its choice of theme."""
        self.send({"type": "theme", "cookie": cookie, "theme": theme})
