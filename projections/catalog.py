"""The registered models and data sets."""

from __future__ import annotations

from typing import cast

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.catalog import DatasetRegistered, ModelRegistered
from events.event import Recorded

from .projection import Projection
from .table import Changes, Json, Table


class Registered(msgspec.Struct, frozen=True):
    """A row of the tables `models` and `datasets`: `data` is the event that registered it last."""

    id: str
    position: int
    occurred_at: int
    actor: str | None
    data: Json


MODELS = Table("models", Registered, ("id",))
DATASETS = Table("datasets", Registered, ("id",))


class Catalog(Projection):
    """The newest registration of every model and data set."""

    name = "catalog"
    types = frozenset({"ModelRegistered", "DatasetRegistered"})
    schema = (MODELS, DATASETS)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        models, datasets = map(Changes, self.tables)

        def take(recorded: Recorded) -> None:
            if recorded.type == "ModelRegistered":
                models.put(_registered(cast(ModelRegistered, recorded.data).model_id, recorded))
            else:
                datasets.put(_registered(cast(DatasetRegistered, recorded.data).dataset_id, recorded))

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
