"""Numbers and times as people read them."""

from __future__ import annotations

import math

NOTHING = "–"
"""Shown where there is no value."""


def count(value: float | None) -> str:
    """A whole number with thousands separated: 1,284,310."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,}"


def short(value: float | None) -> str:
    """A large number in three digits: 182 k, 1.28 M, 205 M."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # 999,600 reads "1 M", not "1,000 k".
        if size >= factor * 0.9995:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """A number of bytes in three digits: 512 B, 74.2 MB."""
    if value is None or not math.isfinite(value):
        return NOTHING
    number = short(value)
    return f"{number}B" if number[-1:].isalpha() else f"{number} B"


def metric(value: float | None) -> str:
    """A metric in about three digits: 0.212, 64.0, 1,234, 1.2e-5."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001 or size >= 1e7:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if size < 9.9995:
        return f"{value:.3f}"
    if size < 999.95:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def mean_count(value: float | None) -> str:
    """A mean of counts, such as L0, to a tenth: 16.0, 1,234."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.1f}" if abs(value) < 999.95 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A fraction as a percentage: 62 %, 3.1 %."""
    if value is None or not math.isfinite(value):
        return NOTHING
    percent = value * 100
    return f"{percent:.1f} %" if abs(percent) < 9.95 else f"{percent:.0f} %"


def progress(value: float) -> str:
    """How far something is, cut off and not rounded, so that only what is done reads 100 %."""
    return f"{math.floor(value * 100 + 1e-9)} %"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: 45 s, 14 min, 3 h 10 min, 2 d 4 h."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 10:
        return f"{minutes} min {whole % 60} s" if whole % 60 else f"{minutes} min"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def about(seconds: float | None) -> str:
    """A length of time that is only guessed: whole minutes from one on."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    return duration(seconds if seconds < 60 else 60 * round(seconds / 60))


def sentence(words: str) -> str:
    """Words with a full stop, where they do not end in a mark already."""
    return words if words.endswith((".", "!", "?", "…", ")")) else f"{words}."


def series(values: tuple[int, ...] | list[int]) -> str:
    """Whole numbers with runs of three and more joined: 0–15, or 6, 8."""
    parts: list[str] = []
    ordered = sorted(set(values))
    start = 0
    while start < len(ordered):
        end = start
        while end + 1 < len(ordered) and ordered[end + 1] == ordered[end] + 1:
            end += 1
        if end - start >= 2:
            parts.append(f"{ordered[start]}–{ordered[end]}")
        else:
            parts.extend(str(value) for value in ordered[start : end + 1])
        start = end + 1
    return ", ".join(parts)
