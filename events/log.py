"""A training's log lines."""

from __future__ import annotations

from typing import Literal

from .event import Event

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class LogWritten(Event, frozen=True, kw_only=True):
    """One record of the trainer's `logging`; a crash's traceback is part of the message."""

    level: Level
    logger: str
    message: str
