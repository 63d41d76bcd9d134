"""Who did what, in words: with one training, and with everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from events.event import Recorded

from .. import text
from ..answers import Deed

KINDS = {"training": "Trainings", "template": "Templates", "catalogue": "Catalogue", "server": "Server"}
"""What something can be done with, with the words for it."""

ENDINGS = ("TrainingPaused", "TrainingStopped", "TrainingCompleted", "TrainingFailed")
"""Of what trainers report, what belongs to the activity."""

_TONES = {"TrainingFailed": "bad", "TrainingInterrupted": "bad", "TrainingCompleted": "done"}

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


def concerns(recorded: Recorded) -> bool:
    """Whether an event belongs to the activity."""
    return not recorded.stream.startswith("training-") or recorded.type in ENDINGS


def row(deed: Deed) -> dict[str, Any]:
    """A line of the page over everything: when, what, with what (and where that is), who."""
    subject, href = about(deed)
    return {
        "id": str(deed.position),
        "timestamp": deed.timestamp,
        "what": what(deed),
        "subject": subject,
        "href": href,
        "who": who(deed.actor),
        "tone": _TONES.get(deed.type, "quiet"),
    }


def joined(known: Sequence[Deed], newest: Sequence[Deed]) -> list[Deed] | None:
    """The newest deeds before those that are known already, with the names by now; None where something is between."""
    oldest = newest[-1].position
    if not any(deed.position >= oldest for deed in known):
        return None
    trainings = {deed.training: deed.training_name for deed in newest}
    templates = {deed.template: deed.template_name for deed in newest}
    return [
        msgspec.structs.replace(
            deed,
            training_name=trainings.get(deed.training, deed.training_name),
            template_name=templates.get(deed.template, deed.template_name),
        )
        for deed in (*newest, *(deed for deed in known if deed.position < oldest))
    ]


def actors(names: Sequence[str]) -> list[tuple[str, str]]:
    """Who can be asked for, each with the words for it."""
    return [(name, "trainers" if name == "trainer" else who(name)) for name in names]


def about(deed: Deed) -> tuple[str, str]:
    """What it was done with, and the address of that; both empty where it needs no words."""
    if deed.training is not None:
        gone = deed.type == "TrainingPurged" or deed.training_name is None
        return deed.training_name or deed.training, "" if gone else f"?training={quote(deed.training, safe='')}"
    if deed.template is not None:
        return deed.template_name or str(deed.data.get("name") or deed.template), "?page=templates"
    registered = str(deed.data.get("model_id") or deed.data.get("dataset_id") or "")
    return registered, "?page=catalogue" if registered else ""


def who(actor: str | None) -> str:
    """An actor as a person reads it: a user by name, a trainer without its training's id."""
    if actor is None:
        return ""
    kind, _, name = actor.partition(":")
    if kind == "user" and name:
        return name
    return "its trainer" if kind == "trainer" else actor


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
        case "TrainingPaused" | "TrainingStopped":
            return f"{deed.type.removeprefix('Training')} at step {text.count(data.get('step'))}"
        case "TrainingCompleted":
            return "Completed"
        case "TrainingFailed":
            return f"Failed: {data.get('error') or 'the log says why.'}"
        case "TemplateSaved":
            return "Template saved"
        case "TemplateEdited":
            return "Template edited"
        case "TemplateRenamed":
            return f"Template renamed to “{data.get('name', '')}”"
        case "TemplateFavourited":
            return "Marked as a favourite" if data.get("favourite") else "No favourite any more"
        case "TemplateDeleted":
            return "Template deleted"
        case "TemplateRestored":
            return "Template restored"
        case "ModelRegistered":
            return "Model registered"
        case "DatasetRegistered":
            return "Data set registered"
        case "ModelRemoved":
            return "Model removed from the catalogue"
        case "DatasetRemoved":
            return "Data set removed from the catalogue"
        case "LogWritten":
            return str(data.get("message", ""))
        case "TrainingPurged":
            return f"Removed for good: {text.count(data.get('events'))} events"
        case other:
            # An event of a newer server, by its own name.
            return re.sub(r"(?<=[a-z])([A-Z])", lambda upper: " " + upper[1].lower(), other)


def _on(place: Any) -> str:
    return f" on {place}" if place and place != "auto" else ""
