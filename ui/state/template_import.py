"""An import of templates before it is made: what becomes of every entry, and afterwards what became of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..answers import Imported, ImportEntry
from .config_fields import label

CHOICES = {"skip": "Skip", "rename": "Keep both, renamed", "overwrite": "Overwrite"}
"""What can become of an entry whose name a different template has."""

_TONES = {"new": "good", "identical": "quiet", "conflicting": "warn", "invalid": "bad"}


def read_document(name: str, content: str) -> tuple[dict[str, Any], str]:
    """The document in a file, and a sentence where there is none in it."""
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        return {}, f"{name} is not JSON: {error}."
    if not isinstance(document, dict):
        return {}, f"{name} holds no templates: the export of a studio is a JSON object."
    return document, ""


def choices_of(entries: Sequence[ImportEntry], chosen: Mapping[int, str]) -> dict[str, str]:
    """What the API is told: a choice for every entry that needs one; what nobody decided on is skipped."""
    told = {entry.index: chosen.get(entry.index, "skip") for entry in entries if entry.outcome == "conflicting"}
    told |= {entry.index: "skip" for entry in entries if entry.outcome == "invalid"}
    return {str(index): choice for index, choice in sorted(told.items())}


def preview(entries: Sequence[ImportEntry], chosen: Mapping[int, str]) -> dict[str, Any]:
    """Every entry with what an import makes of it, and how many templates it would write."""
    choices = choices_of(entries, chosen)
    writes = sum(
        entry.outcome == "new" or choices.get(str(entry.index)) in ("rename", "overwrite") for entry in entries
    )
    counts = Counter(entry.outcome for entry in entries)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _TONES if counts[outcome])
    return {
        "summary": f"{_counted(len(entries), 'template')}: {told}." if entries else "There is no template in it.",
        "entries": [
            {
                "index": entry.index,
                "name": entry.name or f"Entry {entry.index + 1}",
                "outcome": entry.outcome,
                "tone": _TONES.get(entry.outcome, "quiet"),
                "note": _note(entry),
                "choice": choices[str(entry.index)] if entry.outcome == "conflicting" else "",
            }
            for entry in entries
        ],
        "choices": list(CHOICES.items()),
        "conflicts": counts["conflicting"],
        "writes": writes,
        "confirm": f"Import {_counted(writes, 'template')}" if writes else "Nothing to import",
    }


def _note(entry: ImportEntry) -> str:
    if entry.outcome == "invalid":
        return f"Cannot be taken in: {entry.reason or 'the server does not say why.'}"
    if entry.outcome == "identical":
        return "Is here already, with the same content."
    if entry.outcome == "conflicting":
        fields = ", ".join(label(name.removeprefix("config.")) for name in entry.differs)
        return f"A template of this name is different: {fields}." if fields else "A template of this name is different."
    return ""


def outcome(name: str, imported: Imported) -> str:
    """What became of an import, in one sentence."""
    parts = [
        f"{_counted(len(ids), 'template')} {verb}"
        for ids, verb in ((imported.created, "created"), (imported.overwritten, "overwritten"))
        if ids
    ]
    if imported.skipped:
        parts.append(f"{_counted(imported.skipped, 'template')} skipped")
    return f"From {name}: {', '.join(parts) or 'nothing to take in'}."


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
