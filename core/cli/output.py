"""Text for people and JSON for programs.

Results go to standard output, progress and remarks to standard error, so that a pipe carries results only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

__all__ = [
    "Show", "bar", "duration", "err", "escape", "moment", "number", "out", "print_facts", "print_json",
    "print_table", "share", "size", "status",
]  # fmt: skip

Show = Callable[[float], None]
"""Told which share of a task is done."""

_STYLES = {
    "running": "green",
    "completed": "bold green",
    "failed": "bold red",
    "interrupted": "bold red",
    "paused": "yellow",
    "stopped": "yellow",
}


def out() -> Console:
    """Standard output. Into a pipe, lines are not cut at a width that nobody sees."""
    width = None if sys.stdout.isatty() else 250
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=True)


def err() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table without frames, as wide as its content."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    out().print(table)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """One fact a line, its name before it; facts that are None or empty are left out."""
    told = [(name, value) for name, value in facts if value is not None and value != ""]
    width = max((len(name) for name, _ in told), default=0)
    for name, value in told:
        shown = value if isinstance(value, Text) else Text(_plain(value))
        out().print(Text.assemble((f"{name:<{width}}", "dim"), "  ", shown))


def status(name: str) -> Text:
    """A status in its colour."""
    return Text(name, style=_STYLES.get(name, ""))


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many significant digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 14 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def size(count: float) -> str:
    """Bytes as `512 B`, `3.4 MB`, `1.2 GB` (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1_000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} TB"


def moment(microseconds: int | None) -> str:
    """A moment of the local clock, to the second; a dash where there is none."""
    if microseconds is None:
        return "–"
    return datetime.fromtimestamp(microseconds / 1_000_000).strftime("%Y-%m-%d %H:%M:%S")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def bar(name: str, *, quiet: bool) -> Generator[Show]:
    """A progress bar that is told shares of the whole; nothing if `quiet`."""
    if quiet:
        yield lambda share: None
        return
    columns = (TextColumn(name), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task(name, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def share(show: Show) -> Callable[[int, int], None]:
    """Tells `show` what is done of a total."""
    return lambda done, total: show(done / total if total else 1.0)
