"""Upcasters: pure functions from a retired event type to the shape that replaced it, applied when reading.

A field may be added to an event with a default and needs nothing here. Where that is not enough, the new shape gets a
new type name and the old name an entry in `UPCASTERS`: it takes the old fields (without the tag) and returns the new
type's name and fields. Stored bytes never change; a chain of entries is followed to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Upcaster = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]

UPCASTERS: dict[str, Upcaster] = {}


def upcast(name: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The current name and fields of an event stored as `name`; both unchanged where no upcaster applies."""
    while (upcaster := UPCASTERS.get(name)) is not None:
        name, fields = upcaster(fields)
    return name, fields
