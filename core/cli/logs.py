"""`saestudio logs`: the newest lines, and with `-f` what is written from then on."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any, get_args

from rich.text import Text

from core.api import Api
from events.log import Level, LogWritten
from events.streams import TRAINING

from . import output
from .client import connected, follow

_PAGE = 10_000

_LEVELS: tuple[str, ...] = get_args(Level)
_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


def logs(options: argparse.Namespace) -> int:
    """Print a training's log lines, oldest first."""
    with connected(options) as api:
        training_id = api.training_id(options.id)
        rows, position = _newest(api, training_id, options)
        for row in reversed(rows):
            _print(row, as_json=options.json)
        if options.follow:
            _follow(api, training_id, position, options)
    return 0


def _newest(api: Api, training_id: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """The last lines that were asked for, newest first, and the position that the newest was read at."""
    rows: list[dict[str, Any]] = []
    position = 0
    while True:
        # One line at least: the answer is also asked for its position.
        limit = max(1, min(options.lines - len(rows), _PAGE))
        before = rows[-1]["version"] if rows else None
        answer = api.get(f"trainings/{training_id}/logs", limit=limit, before=before, level=options.level)
        if not rows:
            position = answer["position"]
        rows += answer["data"]
        if len(answer["data"]) < limit or len(rows) >= options.lines:
            return rows[: options.lines], position


def _follow(api: Api, training_id: str, after: int, options: argparse.Namespace) -> None:
    least = _LEVELS.index(options.level) if options.level else 0
    for recorded in follow(api, TRAINING + training_id, after=after, types=("LogWritten",)):
        line = recorded.data
        if isinstance(line, LogWritten) and _LEVELS.index(line.level) >= least:
            row = {
                "version": recorded.version,
                "position": recorded.position,
                "timestamp": recorded.occurred_at,
                "level": line.level,
                "logger": line.logger,
                "message": line.message,
            }
            _print(row, as_json=options.json)


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json(row)
        return
    at = datetime.fromtimestamp(row["timestamp"] / 1_000_000).strftime("%H:%M:%S.%f")[:-3]
    line = Text.assemble((at, "dim"), "  ", (f"{row['level']:<8}", _STYLES.get(row["level"], "")), " ", row["message"])
    output.out().print(line)
