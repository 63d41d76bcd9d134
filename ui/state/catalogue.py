"""The catalogue: registered models and data sets, what uses them, and what is asked to register another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from events.catalog import DatasetRegistered, ModelRegistered

from .. import text
from ..answers import CatalogueUse, Use
from .activity import who

Entry = ModelRegistered | DatasetRegistered

NOUNS = {"model": "model", "dataset": "data set"}
"""What can be registered, with the words for it."""

_SOURCE = {"name": "source", "label": "Hub id or path", "help": "owner/name, or a folder on the server's machine"}
_TITLE = {"name": "title", "label": "Title", "help": "what it is called in lists"}
_REVISION = {"name": "revision", "label": "Revision", "help": "branch, tag or commit on the hub"}

_ID = "the name that configurations use for it; the hub id or path where it is empty"

FIELDS: dict[str, tuple[dict[str, str], ...]] = {
    "model": (
        _SOURCE,
        {"name": "model_id", "label": "Id", "help": _ID},
        _TITLE,
        _REVISION,
    ),
    "dataset": (
        _SOURCE | {"help": "owner/name, or a file or folder on the server's machine"},
        {"name": "dataset_id", "label": "Id", "help": _ID},
        _TITLE,
        {"name": "pattern", "label": "Files", "help": "which files of a folder, e.g. **/*.py,!**/tests/**/*"},
        {"name": "configuration", "label": "Configuration", "help": "of a hub data set with several"},
        {"name": "split", "label": "Split", "help": "of a hub data set; train where it is empty"},
        {"name": "text_column", "label": "Text column", "help": "found by itself where it is empty"},
        _REVISION,
    ),
}
"""What is asked of somebody who registers one: the source first, everything else may be left empty."""


def kind_of(entry: Entry) -> str:
    """`model` or `dataset`."""
    return "model" if isinstance(entry, ModelRegistered) else "dataset"


def id_of(entry: Entry) -> str:
    """The name that configurations use."""
    return entry.model_id if isinstance(entry, ModelRegistered) else entry.dataset_id


def wanted_of(entry: Entry) -> dict[str, str]:
    """What registered the entry, ready to be checked and registered once more."""
    values = {field["name"]: getattr(entry, field["name"]) for field in FIELDS[kind_of(entry)]}
    return {name: str(value) for name, value in values.items() if value}


def cleaned(kind: str, values: Mapping[str, Any]) -> dict[str, str]:
    """What was typed, without blanks around it and without what was left empty."""
    told = {field["name"]: str(values.get(field["name"], "")).strip() for field in FIELDS[kind]}
    return {name: value for name, value in told.items() if value}


def facts(entry: Entry) -> list[str]:
    """What an inspection found, part by part."""
    if isinstance(entry, ModelRegistered):
        weights = f"{text.short(entry.parameters)} weights" if entry.parameters else ""
        told = [
            f"{entry.layers} layers of width {entry.hidden_dim:,}",
            f"reads {entry.context_size:,} tokens",
            f"vocabulary of {entry.vocab_size:,}" if entry.vocab_size else "",
            weights,
            f"hooks {', '.join(entry.hooks)}",
        ]
        return [part for part in told if part]
    return [
        part
        for part in (
            {"text": "Text files", "jsonl": "JSON lines", "parquet": "Parquet", "hub": "From the hub"}[entry.format],
            f"{entry.documents:,} documents" if entry.documents else "",
            text.size(entry.size) if entry.size else "",
            f"text in the column {entry.text_column}" if entry.text_column else "",
            f"configuration {entry.configuration}" if entry.configuration else "",
            f"split {entry.split}" if entry.split else "",
        )
        if part
    ]


def entry_row(entry: Entry, use: Use, now: float) -> dict[str, Any]:
    """A line of the list, everything in it ready to be shown."""
    kind, id = kind_of(entry), id_of(entry)
    registered = ""
    if use.registered_at:
        registered = f"Registered {text.duration(max(0.0, now - use.registered_at / 1e6))} ago"
        registered += f" by {who(use.registered_by)}" if use.registered_by else ""
    return {
        "id": id,
        "title": entry.title if entry.title != id else "",
        "tag": entry.family if isinstance(entry, ModelRegistered) else "",
        "facts": " · ".join(facts(entry)),
        "source": "" if entry.source == id else entry.source,
        "revision": f"revision {entry.revision[:12]}" if entry.revision else "",
        "registered": registered,
        "uses": [*_trainings(kind, id, use.trainings), *_templates(kind, id, use.templates)],
        "removable": use.removable,
        "use": "?" + urlencode({"page": "new", kind: id}),
    }


def removed(entry: Entry, use: Use) -> str:
    """What is said when an entry was removed: also what that means to those who call it by its id."""
    id = id_of(entry)
    named = [
        _counted(counts[id], noun, id, id)
        for noun, counts in (("training", use.trainings), ("template", use.templates))
        if id in counts
    ]
    if id == entry.source or not named:
        return f"{id} was removed."
    verb = "calls" if sum(counts.get(id, 0) for counts in (use.trainings, use.templates)) == 1 else "call"
    return (
        f"{id} was removed. {' and '.join(named)} {verb} it by that name: what has been started goes on, a new start"
        " needs it registered again."
    )


def _trainings(kind: str, id: str, counts: Mapping[str, int]) -> list[dict[str, str]]:
    field = "model" if kind == "model" else "datasets"
    return [
        {"label": _counted(count, "training", name, id), "href": "?" + urlencode({"where": f"{field}={name}"})}
        for name, count in sorted(counts.items())
    ]


def _templates(kind: str, id: str, counts: Mapping[str, int]) -> list[dict[str, str]]:
    return [
        {"label": _counted(count, "template", name, id), "href": "?" + urlencode({"page": "templates", kind: name})}
        for name, count in sorted(counts.items())
    ]


def _counted(count: int, noun: str, name: str, id: str) -> str:
    by = "" if name == id else " by its source"
    return f"{count:,} {noun}{'' if count == 1 else 's'}{by}"


def catalogue_view(
    models: Sequence[ModelRegistered],
    datasets: Sequence[DatasetRegistered],
    uses: CatalogueUse,
    now: float | None = None,
) -> dict[str, Any]:
    """Both lists."""
    now = time.time() if now is None else now
    return {
        "models": [entry_row(one, uses.models.get(one.model_id, Use()), now) for one in models],
        "datasets": [entry_row(one, uses.datasets.get(one.dataset_id, Use()), now) for one in datasets],
    }
