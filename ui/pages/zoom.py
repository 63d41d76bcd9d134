"""What pages with charts share of a zoom."""

from __future__ import annotations

from ..text import count, duration, short

SETTLED = 0.12
"""Seconds after which a zoom counts as chosen: a reset is told as a zoom first."""


def zoom_text(axis: str, zoom: tuple[float, float] | None) -> str:
    """The range that is shown, in words; empty where that is the whole."""
    if zoom is None:
        return ""
    start, end = (max(0.0, value) for value in zoom)
    match axis:
        case "time":
            return f"{duration(start)} to {duration(end)}"
        case "tokens":
            return f"{short(start)} to {short(end)} tokens"
        case _:
            return f"Steps {count(start)} to {count(end)}"
