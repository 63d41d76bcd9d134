"""Templates: save, list, change, delete, restore, duplicate, history, export, import, and suggested names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from duckdb import DuckDBPyConnection
from msgspec import Meta
from starlette.responses import Response

from core.commands import (
    EditTemplate,
    ImportTemplates,
    PreviewImport,
    RestoreTemplate,
    SaveTemplate,
    SuggestTemplate,
)
from core.decide import Refused
from core.fields import Problem, convert_fields
from core.naming import copy_name, free_name, template_description, template_name
from events.event import Event, Recorded
from events.ids import is_id, new_id
from events.streams import NO_STREAM, Append
from events.template import (
    TemplateDeleted,
    TemplateEdited,
    TemplateFavourited,
    TemplateRenamed,
    TemplateRestored,
    TemplateSaved,
)
from events.training import TrainingConfig
from projections import templates
from projections.templates import STREAM, TemplateRow, TemplateVersion

from .. import problems
from ..files import attachment
from . import answers
from .operation import JSON, Call

MAX_NAME = 255
"""Characters that a template's name may have."""

_EVENTS_AT_ONCE = 1_000


MOST_ENTRIES = 2_000
"""Templates that a document may hold."""


class TemplatesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which templates, and in which order."""

    q: Annotated[
        str | None,
        Meta(description="Every word is looked for in name, description, model, data sets and architecture."),
    ] = None
    sort: Annotated[
        str | None,
        Meta(
            description="name, updated or created; with - before it for descending. Without it: favourites, then name."
        ),
    ] = None


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which templates."""

    ids: Annotated[str | None, Meta(description="Only these, with commas between.")] = None


async def list_templates(call: Call) -> answers.Templates:
    """List templates."""
    query = call.query(TemplatesQuery)
    rows, position = await call.studio.snapshot(lambda con: templates.list_(con, q=query.q, sort=query.sort))
    return answers.Templates(data=rows, position=position)


async def save_template(call: Call) -> answers.Created:
    """Keep a configuration as a template, under a name that no other one has.

    The configuration may be incomplete: one without a model fits every model. It may be one that a start would refuse;
    only unknown fields and values of a wrong type or range are problems.
    """
    command = call.body(SaveTemplate)
    config, found = _read_config(command.config)
    async with call.studio.deciding:
        name, problem = _checked_name(command.name, await call.studio.query(templates.names))
        if problem is not None or found:
            raise problems.invalid([*([problem] if problem else []), *found])
        return await _create(call, TemplateSaved(name=name, description=command.description, config=config))


async def get_template(call: Call) -> answers.Template:
    """Look at one template, also a deleted one."""
    return _answer(await _template(call))


async def edit_template(call: Call) -> answers.Template:
    """Change a template's name, description, configuration or favourite mark.

    Refused where somebody else has changed it since `expected_version`.
    """
    studio, command = call.studio, call.body(EditTemplate)
    config, found = (None, []) if command.config is None else _read_config(command.config)
    async with studio.deciding:
        row = await _live_template(call)
        _expect(row, command.expected_version)
        name = row.name
        if command.name is not None:
            name, problem = _checked_name(command.name, await studio.query(templates.names), row.id)
            found = [*([problem] if problem else []), *found]
        if found:
            raise problems.invalid(found)
        description = row.description if command.description is None else command.description
        events = _changes(row, name, description, config or row.config)
        if command.favourite is not None and command.favourite != row.favourite:
            events.append(TemplateFavourited(favourite=command.favourite))
        await _record(call, row.id, events)
        return _answer(await _template(call))


async def delete_template(call: Call) -> answers.Accepted:
    """Take a template out of every list. Its history stays, and it can be restored."""
    async with call.studio.deciding:
        row = await _live_template(call)
        return answers.Accepted(position=await _record(call, row.id, [TemplateDeleted()]))


async def restore_template(call: Call) -> answers.Template:
    """Bring a deleted template back, or make a template again what it was at a version.

    With `version` it gets the name, description and configuration that it had then. Refused where somebody else has
    changed it since `expected_version`.
    """
    studio, command = call.studio, call.body(RestoreTemplate)
    async with studio.deciding:
        row = await _template(call)
        _expect(row, command.expected_version)
        name, description, config = row.name, row.description, row.config
        if command.version is not None:
            then = next((one for one in await _history(call) if one.version == command.version), None)
            if then is None:
                message = f"version must be one of the template's versions, 1 to {row.version}, not {command.version}."
                raise problems.invalid([Problem("version", message)])
            name, description, config = then.name, then.description, then.config
        if row.deleted or name != row.name:
            name, problem = _checked_name(name, await studio.query(templates.names), row.id)
            if problem is not None:
                raise problems.invalid([problem])
        events = _changes(row, name, description, config)
        if row.deleted or events:
            events.insert(0, TemplateRestored(version=command.version))
        await _record(call, row.id, events)
        return _answer(await _template(call))


async def duplicate_template(call: Call) -> answers.Created:
    """Save a template once more, as `NAME (Copy)`."""
    async with call.studio.deciding:
        row = await _live_template(call)
        name = copy_name(row.name, await call.studio.query(templates.names), MAX_NAME)
        return await _create(call, TemplateSaved(name=name, description=row.description, config=row.config))


async def list_template_history(call: Call) -> answers.TemplateHistory:
    """Who made what of a template, the newest first; also of a deleted one."""
    row = await _template(call)
    versions = await _history(call)
    return answers.TemplateHistory(data=versions[::-1], position=max(row.position, versions[-1].position))


async def export_templates(call: Call) -> Response:
    """Templates as a document to keep in a file and to import: those of `ids`, or all."""
    ids = [one.strip() for one in (call.query(ExportQuery).ids or "").split(",") if one.strip()]
    rows = await call.studio.query(templates.list_)
    if ids:
        by_id = {row.id: row for row in rows}
        missing = next((id for id in ids if id not in by_id), None)
        if missing is not None:
            raise problems.not_found("template", missing)
        rows = [by_id[id] for id in dict.fromkeys(ids)]
    document = answers.TemplateDocument(
        templates=[
            answers.TemplateEntry(
                name=row.name,
                description=row.description,
                config=msgspec.to_builtins(row.config),
                favourite=row.favourite,
            )
            for row in rows
        ]
    )
    return Response(
        msgspec.json.format(msgspec.json.encode(document), indent=2),
        media_type=JSON,
        headers=attachment(f"{rows[0].name if len(ids) == 1 else 'templates'}.json"),
    )


async def preview_import(call: Call) -> answers.ImportPreview:
    """Say of every template in a document what an import would make of it; nothing is written.

    New ones are created and identical ones skipped; a conflicting one needs a choice, an invalid one must be skipped.
    """
    rows = await call.studio.query(templates.list_)
    entries = await asyncio.to_thread(_entries, call.body(PreviewImport).document, rows)
    return answers.ImportPreview(data=[entry.preview for entry in entries])


async def import_templates(call: Call) -> answers.Imported:
    """Take in the templates of a document, all that are to be written at once or none.

    `choices` is needed for every conflicting entry; to rename one is to create it under a free name.
    """
    studio, command = call.studio, call.body(ImportTemplates)
    async with studio.deciding:
        rows = await studio.query(templates.list_)
        by_id, taken = {row.id: row for row in rows}, {row.name for row in rows}
        entries = await asyncio.to_thread(_entries, command.document, rows)
        found = [
            *_unknown_choices(command.choices, len(entries)),
            *_missing_choices(command.choices, entries),
            *_changed_since(command, entries),
        ]
        if found:
            raise problems.invalid(found)
        # The names of new entries are theirs, whatever stands before them in the document.
        taken |= {one.preview.name for one in entries if one.preview.outcome == "new"}
        created: list[str] = []
        overwritten: list[str] = []
        appends: list[Append] = []
        for entry in entries:
            choice, preview = command.choices.get(str(entry.preview.index)), entry.preview
            create = choice == "rename" or (preview.outcome == "new" and choice != "skip")
            if create:
                name = preview.name if preview.outcome == "new" else free_name(preview.name, taken, MAX_NAME)
                taken.add(name)
                created.append(new_id())
                events: list[Event] = [TemplateSaved(name=name, description=entry.description, config=entry.config)]
                if entry.favourite:
                    events.append(TemplateFavourited(favourite=True))
                appends.append(Append(STREAM + created[-1], events, expected=NO_STREAM, actor=call.actor))
            elif choice == "overwrite" and preview.outcome == "conflicting" and preview.template_id is not None:
                row = by_id[preview.template_id]
                overwritten.append(row.id)
                changes = _changes(row, row.name, entry.description, entry.config)
                appends.append(Append(STREAM + row.id, changes, actor=call.actor))
        if appends:
            position = max(one.position for one in await studio.append(*appends))
        else:
            _, position = await studio.snapshot(lambda con: None)
    return answers.Imported(
        created=created,
        overwritten=overwritten,
        skipped=len(entries) - len(created) - len(overwritten),
        position=position,
    )


async def suggest_template(call: Call) -> answers.Suggestion:
    """The name and the description that a configuration suggests; the name is one that no template has.

    The configuration may be incomplete, name what is not registered, and hold what a start would refuse; what cannot
    be read is left out.
    """
    config = call.body(SuggestTemplate).config
    taken = await call.studio.query(templates.names)
    return answers.Suggestion(name=template_name(config, taken), description=template_description(config))


class _Entry(msgspec.Struct, frozen=True):
    """An entry of a document, read; what is invalid in it has its default."""

    preview: answers.ImportedEntry
    description: str = ""
    config: TrainingConfig = TrainingConfig()
    favourite: bool = False


def _entries(document: Mapping[str, Any], rows: list[TemplateRow]) -> list[_Entry]:
    """The entries of a document against the live templates. Raises a 422 `ApiError` where it is no such document."""
    live = {row.name: row for row in rows}
    entries: list[_Entry] = []
    first: dict[str, int] = {}
    for index, raw in enumerate(_listed(document)):
        fields: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
        entry, found = _read_entry(index, fields)
        if fields is not raw:
            found = [Problem("", f"Entry {index} must be an object, not {type(raw).__name__}.")]
        name = entry.preview.name
        if not found and first.setdefault(name, index) != index:
            found = [Problem("name", f"name {name!r} is that of entry {first[name]} too.")]
        row = live.get(name)
        if found:
            told = {"outcome": "invalid", "reason": " ".join(one.message for one in found)}
        elif row is None:
            told = {"outcome": "new"}
        elif (row.description, row.config) == (entry.description, entry.config):
            told = {"outcome": "identical", "template_id": row.id}
        else:
            differs = [*templates.differing(row.config, entry.config)]
            if row.description != entry.description:
                differs.insert(0, "description")
            told = {"outcome": "conflicting", "template_id": row.id, "version": row.version, "differs": tuple(differs)}
        entries.append(msgspec.structs.replace(entry, preview=msgspec.structs.replace(entry.preview, **told)))
    return entries


def _listed(document: Mapping[str, Any]) -> list[Any]:
    kind, version, listed = document.get("format"), document.get("version"), document.get("templates")
    found: list[Problem] = []
    if kind != "saestudio-templates":
        message = f"format must be saestudio-templates, not {'missing' if kind is None else repr(kind)[:80]}."
        found.append(Problem("document.format", message))
    elif version != 1 or isinstance(version, bool):
        message = f"version must be 1, the only one that this program reads, not {repr(version)[:80]}."
        found.append(Problem("document.version", message))
    elif not isinstance(listed, list):
        found.append(Problem("document.templates", "templates must be a list of templates."))
    elif len(listed) > MOST_ENTRIES:
        message = f"templates has {len(listed):,} entries; at most {MOST_ENTRIES:,} are imported at once."
        found.append(Problem("document.templates", message))
    if found or not isinstance(listed, list):
        raise problems.invalid(found)
    return listed


def _read_entry(index: int, raw: Mapping[str, Any]) -> tuple[_Entry, list[Problem]]:
    values, found = convert_fields(raw, answers.TemplateEntry, what="a template")
    name = values.get("name", "")
    if "name" in values:
        name, problem = _checked_name(name, {})
        found += [problem] if problem else []
    config, unread = _read_config(values.get("config", {}))
    entry = _Entry(
        preview=answers.ImportedEntry(index=index, name=name, outcome="invalid"),
        description=values.get("description", ""),
        config=config,
        favourite=values.get("favourite", False),
    )
    return entry, [*found, *unread]


def _unknown_choices(choices: Mapping[str, str], count: int) -> list[Problem]:
    known = {str(index) for index in range(count)}
    return [
        Problem(f"choices.{index}", f"choices names entry {index!r}; the document has {count}, counted from 0.")
        for index in choices
        if index not in known
    ]


def _missing_choices(choices: Mapping[str, str], entries: list[_Entry]) -> list[Problem]:
    found: list[Problem] = []
    for entry in entries:
        preview, field = entry.preview, f"choices.{entry.preview.index}"
        choice = choices.get(str(preview.index))
        if preview.outcome == "invalid" and choice != "skip":
            found.append(Problem(field, f"Entry {preview.index} cannot be taken in, only skipped: {preview.reason}"))
        if preview.outcome == "conflicting" and choice is None:
            message = (
                f"Entry {preview.index} conflicts with the template {preview.name!r}: skip, rename or overwrite it."
            )
            found.append(Problem(field, message))
    return found


def _changed_since(command: ImportTemplates, entries: list[_Entry]) -> list[Problem]:
    """Templates that would be overwritten as they were not when somebody chose that."""
    found: list[Problem] = []
    for entry in entries:
        preview = entry.preview
        index = str(preview.index)
        seen = command.versions.get(index)
        if (
            command.choices.get(index) == "overwrite"
            and preview.version is not None
            and seen not in (None, preview.version)
        ):
            message = (
                f"The template {preview.name!r} is at version {preview.version} now, not {seen}: look at it again."
            )
            found.append(Problem(f"choices.{index}", message))
    return found


def _read_config(raw: Mapping[str, Any]) -> tuple[TrainingConfig, list[Problem]]:
    """The configuration, and a problem at `config.FIELD` for everything in it that is not of its field."""
    values, found = convert_fields(raw, TrainingConfig, what="a configuration")
    return TrainingConfig(**values), [Problem(f"config.{one.field}", one.message) for one in found]


def _checked_name(name: str, taken: Mapping[str, str], id: str | None = None) -> tuple[str, Problem | None]:
    """The name without blanks around it, and what is wrong with it as the name of the template `id`."""
    name = name.strip()
    if not name:
        return name, Problem("name", f"name is empty; give it 1 to {MAX_NAME} characters.")
    if len(name) > MAX_NAME:
        return name, Problem("name", f"name has {len(name):,} characters; at most {MAX_NAME} are allowed.")
    if taken.get(name, id) != id:
        return name, Problem("name", f"name {name!r} is taken by another template; choose another one.")
    return name, None


def _changes(row: TemplateRow, name: str, description: str, config: TrainingConfig) -> list[Event]:
    """The events that make the template what is given; none where it is that."""
    events: list[Event] = []
    if name != row.name:
        events.append(TemplateRenamed(name=name))
    if (description, config) != (row.description, row.config):
        events.append(TemplateEdited(description=description, config=config))
    return events


def _expect(row: TemplateRow, version: int | None) -> None:
    """Raise `Refused` where the template is not at `version` any more (None: it may be at any)."""
    if version not in (None, row.version):
        raise Refused(
            f"{row.name} is at version {row.version} now, changed last by {row.updated_by or 'somebody unknown'};"
            f" this change expected version {version}."
        )


async def _create(call: Call, saved: TemplateSaved) -> answers.Created:
    id = new_id()
    (appended,) = await call.studio.append(Append(STREAM + id, [saved], expected=NO_STREAM, actor=call.actor))
    return answers.Created(id=id, position=appended.position)


async def _record(call: Call, id: str, events: list[Event]) -> int:
    if not events:
        return 0
    (appended,) = await call.studio.append(Append(STREAM + id, events, actor=call.actor))
    return appended.position


async def _template(call: Call) -> TemplateRow:
    """The template that the path names, also a deleted one. Raises a 404 `ApiError`."""
    id = call.path["id"]

    def read(con: DuckDBPyConnection) -> TemplateRow | None:
        return templates.get(con, id)

    found = await call.studio.query(read) if is_id(id) else None
    if found is None:
        raise problems.not_found("template", id)
    return found


async def _live_template(call: Call) -> TemplateRow:
    """As `_template`. Raises `Refused` for a deleted one."""
    row = await _template(call)
    if row.deleted:
        raise Refused(f"{row.name} was deleted by {row.updated_by or 'somebody unknown'}; restore it first.")
    return row


async def _history(call: Call) -> list[TemplateVersion]:
    """All versions of the template that the path names, in order."""
    store, stream = call.studio.store, STREAM + call.path["id"]

    def read() -> list[TemplateVersion]:
        events: list[Recorded] = []
        while page := store.read_stream(stream, events[-1].version if events else 0, _EVENTS_AT_ONCE):
            events += page
        return list(templates.history(events))

    return await asyncio.to_thread(read)


def _answer(row: TemplateRow) -> answers.Template:
    return answers.Template(**{field: getattr(row, field) for field in row.__struct_fields__})
