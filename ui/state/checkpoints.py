"""A training's checkpoints as its page lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from .. import text
from ..answers import Checkpoint

REASONS = {
    "interval": "on schedule",
    "request": "asked for",
    "pause": "before the pause",
    "stop": "before the stop",
    "end": "at the end",
}

COLUMNS = [
    {"key": "step", "label": "Step", "align": "end"},
    {"key": "when", "label": "Saved"},
    {"key": "loss", "label": "Loss", "align": "end"},
    {"key": "fvu", "label": "FVU", "align": "end"},
    {"key": "size", "label": "Size", "align": "end"},
    {"key": "reason", "label": "Why"},
]


def table(training_id: str, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """The list, the newest step first, with what can be done with each."""
    return {"name": "Checkpoints", "columns": COLUMNS, "rows": [_row(training_id, one) for one in checkpoints]}


def summary(checkpoints: Sequence[Checkpoint]) -> str:
    """How many there are and what they take on disk: 3 checkpoints, 74.2 MB."""
    if not checkpoints:
        return "none saved"
    return f"{number_of(len(checkpoints))}, {text.size(sum(one.size for one in checkpoints))}"


def number_of(checkpoints: int) -> str:
    """A number of checkpoints in words."""
    return f"{text.count(checkpoints)} checkpoint{'' if checkpoints == 1 else 's'}"


def what_deleting_removes(name: str, checkpoints: Sequence[Checkpoint]) -> str:
    """What a person should know before a training is deleted."""
    files = "It has no checkpoints on disk"
    if checkpoints:
        size = text.size(sum(one.size for one in checkpoints))
        files = f"Its {number_of(len(checkpoints))} ({size}) will be removed from disk for good"
    return f"Delete “{name}”? {files}, and it leaves every list. Its events stay in the log."


def what_was_deleted(removed: int, bytes_freed: int, actor: str | None) -> str:
    """What a person is told after a training was deleted."""
    by = f" by {actor}" if actor else ""
    files = "It had no checkpoints on disk."
    if removed:
        verb = "was" if removed == 1 else "were"
        files = f"{number_of(removed)} ({text.size(bytes_freed)}) {verb} removed from disk."
    return f"This training was deleted{by}. {files} Its events stay in the log."


def _why_best(one: Checkpoint) -> str:
    return f"The lowest FVU on held-out text: {text.metric(one.evaluation_fvu)}"


def _row(training_id: str, one: Checkpoint) -> dict[str, Any]:
    step = text.count(one.step)
    place = f"api/v1/trainings/{quote(training_id, safe='')}/checkpoints/{one.step}"
    return {
        "key": str(one.step),
        "cells": {
            "step": {"text": step} | ({"mark": {"label": "best", "title": _why_best(one)}} if one.best else {}),
            "when": {"time": one.timestamp},
            "loss": {"text": text.metric(one.loss)},
            "fvu": {"text": text.metric(one.fvu)},
            "size": {"text": text.size(one.size)},
            "reason": {"text": REASONS.get(one.reason, one.reason)},
        },
        "tip": f"{one.path} on {one.host}" if one.host else one.path,
        "actions": [
            {
                "name": "download",
                "label": "Download",
                "title": f"Download the checkpoint of step {step}",
                "href": f"{place}/download",
            },
            {
                "name": "export",
                "label": "Export",
                "title": f"Export the SAEs of step {step} for SAELens",
                "href": f"{place}/export?format=saelens",
            },
            {
                "name": "delete",
                "label": "Delete",
                "title": f"Delete the checkpoint of step {step}",
                "sure": "Really delete?",
            },
        ],
    }
