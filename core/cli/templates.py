"""`saestudio templates`: list, export and import them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from core.api import Api

from . import output
from .client import connected
from .failure import Failure

_MOST = 4_000_000
"""Bytes that the server reads of a document."""


def list_(options: argparse.Namespace) -> int:
    """List the templates, favourites first."""
    with connected(options) as api:
        answer = api.get("templates", q=options.q)
    if options.json:
        output.print_json(answer)
        return 0
    if not answer["data"]:
        output.err().print("No template has these words." if options.q else "There is no template yet.")
        return 0
    output.print_table(
        ("ID", "", "NAME", "ARCHITECTURE", "MODEL", "CHANGED"),
        [
            (
                row["id"],
                "★" if row["favourite"] else "",
                row["name"],
                row["config"]["architecture_type"],
                row["config"].get("activations") or row["config"]["model"] or "any",
                output.moment(row["updated_at"]),
            )
            for row in answer["data"]
        ],
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write templates, or all, into a document that an import reads."""
    with connected(options) as api:
        ids = [_id(api, wanted) for wanted in options.templates]
        document = api.get("templates/export", ids=",".join(ids) or None)
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    count = len(document["templates"])
    if options.to is None:
        # As it is: what prints for people makes pictures of words such as :x:.
        sys.stdout.write(encoded.decode() + "\n")
        return 0
    try:
        options.to.write_bytes(encoded + b"\n")
    except OSError as error:
        raise Failure(f"{options.to} cannot be written: {error.strerror}.") from error
    if options.json:
        output.print_json({"file": str(options.to), "templates": count})
    else:
        output.out().print(f"{_counted(count)} in {options.to}.", markup=False)
    return 0


def import_(options: argparse.Namespace) -> int:
    """Say what an import of a document would make of every template in it, and unless that is all, make it."""
    document = _read(options.file)
    with connected(options) as api:
        entries = api.post("templates/import/preview", {"document": document})["data"]
        choices = {
            str(entry["index"]): options.conflicts if entry["outcome"] == "conflicting" else "skip"
            for entry in entries
            if entry["outcome"] in ("conflicting", "invalid")
        }
        imported = None
        if not options.dry_run:
            versions = {str(entry["index"]): entry["version"] for entry in entries if "version" in entry}
            imported = api.post("templates/import", {"document": document, "choices": choices, "versions": versions})
    if options.json:
        output.print_json({"preview": entries, **({"imported": imported} if imported is not None else {})})
        return 0
    output.print_table(
        ("OUTCOME", "NAME", ""),
        [(entry["outcome"], entry["name"], _remark(entry, choices)) for entry in entries],
    )
    if imported is None:
        output.err().print("Nothing was written.")
        return 0
    parts = [
        f"{_counted(number)} {verb}"
        for number, verb in (
            (len(imported["created"]), "created"),
            (len(imported["overwritten"]), "overwritten"),
            (imported["skipped"], "skipped"),
        )
        if number
    ]
    output.out().print(f"{', '.join(parts) or 'Nothing to take in'}.")
    return 0


def _remark(entry: dict[str, Any], choices: dict[str, str]) -> str:
    if entry["outcome"] == "invalid":
        return f"skip: {entry['reason']}"
    if entry["outcome"] == "conflicting":
        differs = ", ".join(name.removeprefix("config.") for name in entry.get("differs", ()))
        return f"{choices[str(entry['index'])]}: differs in {differs}"
    return ""


def _id(api: Api, wanted: str) -> str:
    """The id of the template that has this id or name. Raises `Failure`."""
    rows = api.get("templates")["data"]
    found = next((row["id"] for row in rows if wanted in (row["id"], row["name"])), None)
    if found is None:
        raise Failure(f"No template has the name or id {wanted!r}.")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST:
            raise Failure(
                f"{file} has {output.size(file.stat().st_size)}; at most {output.size(_MOST)} can be imported."
            )
        document = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Failure(f"{file} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise Failure(f"{file} holds no templates: the export of a studio is a JSON object.")
    return document


def _counted(number: int) -> str:
    return f"{number:,} template{'' if number == 1 else 's'}"
