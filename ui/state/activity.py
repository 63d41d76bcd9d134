"""Who did what with a training, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .. import text
from ..gateway import Deed

COLUMNS = [{"key": "when", "label": "When"}, {"key": "what", "label": "What and who"}]


def table(deeds: Sequence[Deed]) -> dict[str, Any]:
    """The list, the newest first."""
    rows = [
        {
            "key": str(deed.position),
            "cells": {
                "when": {"time": deed.timestamp},
                "what": {"text": what(deed), "quiet": f"by {deed.actor}" if deed.actor else ""},
            },
            "tip": "",
            "actions": [],
        }
        for deed in deeds
    ]
    return {"name": "Activity", "columns": COLUMNS, "rows": rows}


def what(deed: Deed) -> str:
    """What was done, as a sentence without its subject: Paused; Renamed to “X”."""
    data = deed.data
    match deed.type:
        case "TrainingCreated":
            origin = f" as a retry of {data['retry_of']}" if data.get("retry_of") else ""
            origin += f" from template {data['template_id']}" if data.get("template_id") else ""
            return f"Created{origin}"
        case "TrainingLaunched":
            process = f"Process {data['pid']}" if data.get("pid") else "Process"
            return f"{process} started{_on(data.get('device'))}"
        case "WriterClaimed":
            return f"Attempt {text.count(data.get('epoch'))} began to report{_on(data.get('host'))}"
        case "PauseRequested":
            return "Paused"
        case "ResumeRequested":
            return "Resumed"
        case "StopRequested":
            return "Stopped"
        case "CheckpointRequested":
            return "Checkpoint asked for"
        case "CheckpointDeleted":
            return f"Checkpoint of step {text.count(data.get('step'))} deleted"
        case "TrainingInterrupted":
            return f"Found interrupted: {data.get('reason') or 'its process is gone.'}"
        case "TrainingRenamed":
            return f"Renamed to “{data.get('name', '')}”"
        case "TrainingTagged":
            return f"Tags set to {', '.join(data.get('tags') or ()) or 'none'}"
        case "TrainingNoted":
            return "Note edited"
        case "TrainingDeleted":
            return "Deleted"
        case "TrainingPurged":
            return f"Removed for good: {text.count(data.get('events'))} events"
        case other:
            # An event of a newer server, by its own name.
            return re.sub(r"(?<=[a-z])([A-Z])", lambda upper: " " + upper[1].lower(), other)


def _on(place: Any) -> str:
    return f" on {place}" if place and place != "auto" else ""
