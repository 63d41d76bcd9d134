"""The base of our own components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from panel.custom import JSComponent
from panel.io.state import state

from .. import ordered

_FOLDER = Path(__file__).parent


def script(*names: str) -> str:
    """A component's JavaScript, after what all of them share."""
    return "".join((_FOLDER / name).read_text("utf-8") for name in ("dom.js", *names))


def style(*names: str) -> list[str]:
    """A component's style sheets: what all of them share, then its own."""
    return [(_FOLDER / name).read_text("utf-8") for name in ("studio.css", *names)]


class Component(JSComponent):
    """A component that is fed by messages and keeps nothing in the document.

    `present` sends the browser what is to be seen, and again whenever the browser draws the component anew. What a
    person does comes back through `on_action`, which is called with the message's `type` and the message.
    """

    __abstract = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._shown: dict[str, Any] | None = None
        self._on_action: Callable[[str, dict[str, Any]], None] | None = None

    def on_action(self, callback: Callable[[str, dict[str, Any]], None]) -> None:
        """Call `callback(type, message)` for what the browser sends."""
        self._on_action = callback

    def present(self, view: dict[str, Any]) -> None:
        """Send `view` to the browser, unless it shows the same already. It is not to be changed afterwards."""
        if view != self._shown:
            self._shown = view
            self.send({"type": "show", "view": view})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message that is not repeated when the component is drawn anew."""
        self._send_msg(message)

    def drawn(self) -> None:
        """The browser has drawn the component and knows nothing yet."""
        if self._shown is not None:
            self.send({"type": "show", "view": self._shown})

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if self._on_action is not None:
            self._on_action(kind, message)

    def _handle_msg(self, data: Any) -> None:
        if state.curdoc is None:
            self._receive(data)
        else:
            ordered.change(state.curdoc, lambda: self._receive(data))

    def _receive(self, data: Any) -> None:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "ready":
            self.drawn()
        elif isinstance(kind, str):
            self._act(kind, data)
