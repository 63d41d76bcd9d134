"""Templates: named configurations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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

from .projection import Projection, one_of, words
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


class TemplateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A template as one event left it.

    `changed` names what the event changed: name, description, favourite, deleted, and `config.FIELD` for each field of
    the configuration; it is empty at the first version. `restored` is the version that the event, with those after it
    of the same moment, brought back. `timestamp` in µs since 1970 (UTC).
    """

    version: int
    position: int
    timestamp: int
    actor: str | None
    type: str
    name: str
    description: str
    config: TrainingConfig
    changed: tuple[str, ...] = ()
    restored: int | None = None


TEMPLATES = Table("templates", Template, ("id",))

SORTS = {"name": "lower(name)", "updated": "updated_at", "created": "created_at"}
"""What a list may be sorted by, and the SQL for it."""


class Templates(Projection):
    """Every template as it is now; deleted ones are kept and marked."""

    name = "templates"
    version = 3
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


def list_(
    con: DuckDBPyConnection, *, q: str | None = None, sort: str | None = None, deleted: bool = False
) -> list[TemplateRow]:
    """The templates, or the deleted ones.

    `q` is looked for in name, description, model, data sets and architecture, word by word. `sort` is one of `SORTS`,
    with `-` before it for descending; without one favourites come first, then by name. Raises `QueryRefused`.
    """
    order = "favourite DESC, lower(name), id"
    if sort:
        direction = "DESC" if sort.startswith("-") else "ASC"
        column = SORTS[one_of("sort", sort.removeprefix("-"), tuple(SORTS))]
        order = f"{column} {direction}, id {direction}"
    conditions = ["deleted = ?"]
    parameters: list[object] = [deleted]
    for word in words(q):
        conditions.append(
            "contains(lower(concat_ws(' ', name, description, config->>'model', config->>'datasets',"
            " config->>'activations', config->>'architecture_type')), ?)"
        )
        parameters.append(word)
    where = " AND ".join(conditions)
    return [_row(each) for each in TEMPLATES.select(con, f"WHERE {where} ORDER BY {order}", parameters)]


def names(con: DuckDBPyConnection) -> dict[str, str]:
    """The names that live templates have, each with its template's id."""
    return dict(con.execute(f"SELECT name, id FROM {TEMPLATES.name} WHERE NOT deleted").fetchall())


def history(events: Iterable[Recorded]) -> Iterator[TemplateVersion]:
    """What the events of one template's stream, in their order, made of it one by one."""
    row: Template | None = None
    for recorded in events:
        if recorded.type not in Templates.types:
            continue
        before, row = row, _evolve(row, recorded.stream.removeprefix(STREAM), recorded)
        yield TemplateVersion(
            version=recorded.version,
            position=recorded.position,
            timestamp=recorded.occurred_at,
            actor=recorded.actor,
            type=recorded.type,
            name=row.name,
            description=row.description,
            config=_row(row).config,
            changed=tuple(_changed(before, row)) if before is not None else (),
            restored=recorded.data.version if isinstance(recorded.data, TemplateRestored) else None,
        )


def _changed(before: Template, after: Template) -> Iterator[str]:
    for field in ("name", "description", "favourite", "deleted"):
        if getattr(before, field) != getattr(after, field):
            yield field
    yield from differing(_row(before).config, _row(after).config)


def differing(one: TrainingConfig, other: TrainingConfig) -> Iterator[str]:
    """The fields in which two configurations differ, each as `config.FIELD`."""
    for field in TrainingConfig.__struct_fields__:
        if getattr(one, field) != getattr(other, field):
            yield f"config.{field}"


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
