"""`saestudio logs`: the newest lines, and with `-f` what is written from then on."""

from __future__ import annotations

import argparse
import asyncio
from datetime import datetime
from typing import Any, get_args

from rich.text import Text

from core.api import Api
from events.log import Level, LogWritten

from . import output
from .client import connected, follow

_LEVELS: tuple[str, ...] = get_args(Level)
_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


def logs(options: argparse.Namespace) -> int:
    """Print a training's log lines, oldest first."""
    with connected(options) as api:
        training_id = api.training_id(options.id)
        answer = api.get(f"trainings/{training_id}/logs", limit=options.lines, level=options.level, order="desc")
        for row in reversed(answer["data"]):
            _print(row, as_json=options.json)
        if options.follow:
            asyncio.run(_follow(api, training_id, answer["position"], options))
    return 0


async def _follow(api: Api, training_id: str, after: int, options: argparse.Namespace) -> None:
    least = _LEVELS.index(options.level) if options.level else 0
    async for recorded in follow(api, training_id, after=after, types=("LogWritten",)):
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
