"""Templates: named configurations."""

from __future__ import annotations

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.event import Recorded
from events.template import (
    TemplateDeleted,
    TemplateEdited,
    TemplateFavourited,
    TemplateRenamed,
    TemplateRestored,
    TemplateSaved,
)
from events.training import TrainingConfig

from .projection import Projection, words
from .table import Changes, Json, Table

STREAM = "template-"


class Template(msgspec.Struct, frozen=True):
    """A row of the table `templates`; times in µs since 1970 (UTC), actors are who saved and who changed it last."""

    id: str
    position: int
    version: int
    name: str = ""
    description: str = ""
    config: Json = "{}"
    favourite: bool = False
    deleted: bool = False
    created_at: int = 0
    updated_at: int = 0
    actor: str | None = None
    updated_by: str | None = None


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A template. `version` is what a change of it expects; times in µs since 1970 (UTC)."""

    id: str
    version: int
    position: int
    name: str
    description: str
    config: TrainingConfig
    favourite: bool
    deleted: bool
    created_at: int
    updated_at: int
    actor: str | None
    updated_by: str | None


TEMPLATES = Table("templates", Template, ("id",))


class Templates(Projection):
    """Every template as it is now; deleted ones are kept and marked."""

    name = "templates"
    types = frozenset(
        {
            "TemplateSaved",
            "TemplateEdited",
            "TemplateRenamed",
            "TemplateFavourited",
            "TemplateDeleted",
            "TemplateRestored",
        }
    )
    schema = (TEMPLATES,)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        table = self.tables[0]
        ids = {recorded.stream.removeprefix(STREAM) for recorded in batch.cold if recorded.type in self.types}
        rows: dict[str, Template] = {}
        if ids:
            rows = {row.id: row for row in table.select(con, "WHERE id IN (SELECT unnest(?))", [list(ids)])}
        changes = Changes(table)

        def take(recorded: Recorded) -> None:
            id = recorded.stream.removeprefix(STREAM)
            row = _evolve(rows.get(id), id, recorded)
            rows[id] = row
            changes.put(row)

        self.each(batch, take)
        changes.apply(con, self.skip)


def _evolve(row: Template | None, id: str, recorded: Recorded) -> Template:
    row = row or Template(id, 0, 0, name=id, created_at=recorded.occurred_at, actor=recorded.actor)
    row = msgspec.structs.replace(
        row,
        position=recorded.position,
        version=recorded.version,
        updated_at=recorded.occurred_at,
        updated_by=recorded.actor,
    )
    match recorded.data:
        case TemplateSaved(name=name, description=description, config=config):
            return msgspec.structs.replace(row, name=name, description=description, config=_json(config), deleted=False)
        case TemplateEdited(description=description, config=config):
            return msgspec.structs.replace(row, description=description, config=_json(config))
        case TemplateRenamed(name=name):
            return msgspec.structs.replace(row, name=name)
        case TemplateFavourited(favourite=favourite):
            return msgspec.structs.replace(row, favourite=favourite)
        case TemplateDeleted():
            return msgspec.structs.replace(row, deleted=True)
        case TemplateRestored():
            return msgspec.structs.replace(row, deleted=False)
        case _:
            return row


def _json(config: TrainingConfig) -> str:
    return msgspec.json.encode(config).decode()


def get(con: DuckDBPyConnection, id: str) -> TemplateRow | None:
    """The template, also a deleted one."""
    found = TEMPLATES.select(con, "WHERE id = ?", [id])
    return _row(found[0]) if found else None


def list_(con: DuckDBPyConnection, *, q: str | None = None, deleted: bool = False) -> list[TemplateRow]:
    """Favourites first, then by name; `q` is looked for in name, description, model and data sets, word by word."""
    conditions = ["deleted = ?"]
    parameters: list[object] = [deleted]
    for word in words(q):
        conditions.append(
            "contains(lower(concat_ws(' ', name, description, config->>'model', config->>'datasets',"
            " config->>'architecture_type')), ?)"
        )
        parameters.append(word)
    where = " AND ".join(conditions)
    return [
        _row(each)
        for each in TEMPLATES.select(con, f"WHERE {where} ORDER BY favourite DESC, lower(name), id", parameters)
    ]


def _row(template: Template) -> TemplateRow:
    return TemplateRow(
        id=template.id,
        version=template.version,
        position=template.position,
        name=template.name,
        description=template.description,
        config=msgspec.json.decode(template.config, type=TrainingConfig),
        favourite=template.favourite,
        deleted=template.deleted,
        created_at=template.created_at,
        updated_at=template.updated_at,
        actor=template.actor,
        updated_by=template.updated_by,
    )
