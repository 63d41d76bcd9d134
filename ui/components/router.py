"""The page's address, title and remembered theme."""

from __future__ import annotations

from typing import Any

from .component import Component, script


class Router(Component):
    """The browser's address bar. Its action `moved` (`url`: the query, `number`) tells of links, back and forward."""

    _esm = script("router.js")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._number: Any = None

    def push(self, url: str) -> None:
        """Go on to `url` (a query, `?…`; empty for the start page), with the present address left for *back*."""
        self.send({"type": "push", "url": url})

    def replace(self, url: str) -> None:
        """Show `url` (a query, `?…`; empty for the start page) as the address of what is shown already."""
        self.send({"type": "replace", "url": url, "number": self._number})

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "moved":
            self._number = message.get("number")
        super()._act(kind, message)

    def entitle(self, title: str) -> None:
        """Give the browser's tab a title."""
        self.send({"type": "title", "title": title})

    def remember_theme(self, cookie: str, theme: str) -> None:
        """Let the browser keep its choice of theme."""
        self.send({"type": "theme", "cookie": cookie, "theme": theme})
