"""The registered models and data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.catalog import DatasetRegistered, DatasetRemoved, ModelRegistered, ModelRemoved
from events.event import Recorded

from .projection import Projection
from .table import Changes, Json, Table
from .templates import TEMPLATES
from .trainings import TRAININGS


class Registered(msgspec.Struct, frozen=True):
    """A row of the tables `models` and `datasets`: `data` is the event that registered it last."""

    id: str
    position: int
    occurred_at: int
    actor: str | None
    data: Json


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """When (µs since 1970, UTC) and by whom a model or data set was registered last, and how many use it.

    Both counts are by the name that the configurations give: its id, or its source.
    """

    id: str
    registered_at: int
    actor: str | None
    trainings: dict[str, int]
    templates: dict[str, int]


MODELS = Table("models", Registered, ("id",))
DATASETS = Table("datasets", Registered, ("id",))


class Catalog(Projection):
    """The newest registration of every model and data set that was not removed since."""

    name = "catalog"
    version = 2
    types = frozenset({"ModelRegistered", "DatasetRegistered", "ModelRemoved", "DatasetRemoved"})
    schema = (MODELS, DATASETS)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        models, datasets = map(Changes, self.tables)

        def take(recorded: Recorded) -> None:
            match recorded.data:
                case ModelRegistered(model_id=id):
                    models.put(_registered(id, recorded))
                case DatasetRegistered(dataset_id=id):
                    datasets.put(_registered(id, recorded))
                case ModelRemoved(model_id=id):
                    models.remove(id)
                case DatasetRemoved(dataset_id=id):
                    datasets.remove(id)
                case other:
                    raise TypeError(type(other).__name__)

        self.each(batch, take)
        models.apply(con, self.skip)
        datasets.apply(con, self.skip)


def _registered(id: str, recorded: Recorded) -> Registered:
    data = msgspec.json.encode(recorded.data).decode()
    return Registered(id, recorded.position, recorded.occurred_at, recorded.actor, data)


def models(con: DuckDBPyConnection) -> list[ModelRegistered]:
    """The registered models by id."""
    return [msgspec.json.decode(row.data, type=ModelRegistered) for row in MODELS.select(con, "ORDER BY id")]


def datasets(con: DuckDBPyConnection) -> list[DatasetRegistered]:
    """The registered data sets by id."""
    return [msgspec.json.decode(row.data, type=DatasetRegistered) for row in DATASETS.select(con, "ORDER BY id")]


Find = Callable[[str], str | None]
"""The id of the registered model or data set that a name in a configuration means; None for another one."""


def model_uses(con: DuckDBPyConnection, find: Find) -> list[Use]:
    """What every registered model is used by."""
    return _uses(con, MODELS, find, "[model]", "[config->>'model']")


def dataset_uses(con: DuckDBPyConnection, find: Find) -> list[Use]:
    """What every registered data set is used by."""
    return _uses(con, DATASETS, find, "datasets", "CAST(config->'datasets' AS VARCHAR[])")


def _uses(
    con: DuckDBPyConnection, table: Table[Registered], find: Find, in_training: str, in_template: str
) -> list[Use]:
    """`in_training` and `in_template` are SQL for the list of what one of these names."""
    rows = table.select(con, "ORDER BY id")

    # What only facts have come in of is in no list.
    shown = "NOT deleted AND created_at IS NOT NULL"

    def counted(of: Table[Any], names: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {row.id: {} for row in rows}
        named = f"SELECT unnest({names}) AS name FROM {of.name} WHERE {shown}"
        for name, count in con.execute(f"SELECT name, count(*) FROM ({named}) GROUP BY name").fetchall():
            if name and (id := find(name)) is not None:
                found[id][name] = count
        return found

    trainings, templates = counted(TRAININGS, in_training), counted(TEMPLATES, in_template)
    return [
        Use(
            id=row.id,
            registered_at=row.occurred_at,
            actor=row.actor,
            trainings=trainings[row.id],
            templates=templates[row.id],
        )
        for row in rows
    ]
