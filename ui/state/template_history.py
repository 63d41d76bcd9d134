"""What became of one template, who changed it and when, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from .. import text
from ..answers import TemplateVersion
from .activity import who
from .config_fields import label, words


def history_view(versions: Sequence[TemplateVersion], now: float) -> list[dict[str, Any]]:
    """The history, the newest first: each entry is what one person did at one moment, be it several events."""
    oldest_first = sorted(versions, key=lambda one: one.version)
    entries: list[dict[str, Any]] = []
    before: TemplateVersion | None = None
    newest = oldest_first[-1] if oldest_first else None
    for _, group in groupby(oldest_first, key=lambda one: (one.timestamp, one.actor)):
        events = list(group)
        left = events[-1]
        entries.append(
            {
                "version": left.version,
                "what": _sentence(_told(before, events)),
                "who": who(left.actor) or "somebody unknown",
                "when": f"{text.duration(max(0.0, now - left.timestamp / 1e6))} ago",
                "time": left.timestamp,
                "current": left is newest,
                "restorable": newest is not None and _content(left) != _content(newest),
            }
        )
        before = left
    return entries[::-1]


def _told(before: TemplateVersion | None, events: Sequence[TemplateVersion]) -> Iterator[str]:
    after = events[-1]
    changed = dict.fromkeys(name for event in events for name in event.changed)
    restored = next((event.restored for event in events if event.restored is not None), None)
    if before is None:
        yield "created"
        return
    if restored is not None:
        yield f"version {restored} restored"
    elif "deleted" in changed:
        yield "deleted" if after.type == "TemplateDeleted" else "brought back"
    for name in changed:
        match name:
            case "name":
                yield f"renamed from {before.name}"
            case "description":
                yield "description changed"
            case "favourite":
                yield "favourite mark changed"
            case "deleted":
                pass
            case _:
                field = name.removeprefix("config.")
                old, new = getattr(before.config, field), getattr(after.config, field)
                yield f"{label(field)} {_value(old)} → {_value(new)}"


def _sentence(parts: Iterator[str]) -> str:
    told = "; ".join(parts)
    # A field of one letter keeps its name.
    return told[:1].upper() + told[1:] if told[1:2].isalpha() else told or "Nothing changed"


def _value(value: Any) -> str:
    return "none" if value in (None, "", ()) else words(value)


def _content(version: TemplateVersion) -> tuple[Any, ...]:
    return version.name, version.description, version.config
