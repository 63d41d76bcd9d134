"""Ids made by whoever creates a thing, unique without asking a server, and sorted by the time of their creation."""

from __future__ import annotations

import re
import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32 in lower case: no i, l, o, u."""

LENGTH = 14
_RANDOM_BITS = 28
_PATTERN = re.compile(rf"[{ALPHABET}]{{{LENGTH}}}")

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """14 characters: 42 bits of milliseconds since 1970 (until the year 2109), then 28 random bits.

    Ids of one process ascend strictly, also within a millisecond and when the clock steps back.
    """
    global _last
    with _lock:
        value = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        _last = value = max(value, _last + 1)
    return "".join(ALPHABET[value >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def is_id(text: str) -> bool:
    """Whether `text` has the shape of an id."""
    return _PATTERN.fullmatch(text) is not None
