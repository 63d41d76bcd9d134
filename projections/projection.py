"""What a projection is: tables that the log's events add up to."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.event import Recorded
from events.streams import CONTROL, TRAINING

from .table import Table

_logger = logging.getLogger(__name__)


class Fault(msgspec.Struct, frozen=True):
    """An event that a projection could not take in; `position` is its place in the log."""

    position: int
    reason: str


class QueryRefused(ValueError):
    """A query's parameter cannot be used; `field` names it and `reason` says what is allowed."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class Projection(ABC):
    """A fold of the log into tables of its own.

    What a projection's tables hold depends on the events alone, never on where batches were cut: folding the log again
    from the start gives the same rows. `version` is raised whenever tables or meaning change; the tables are then
    built anew at the next start. An event that cannot be taken in is left out and reported, the rest goes on.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    types: ClassVar[frozenset[str]]
    """The events that it folds."""
    schema: ClassVar[tuple[Table[Any], ...]]
    """Its tables."""
    views: ClassVar[tuple[str, ...]] = ()
    """Statements that make views for people's own queries."""

    def __init__(self, suffix: str = "") -> None:
        """`suffix` is added to the tables' names, for a second copy beside the first."""
        self.suffix = suffix
        self.tables = tuple(table.beside(suffix) for table in self.schema)
        self.faults: list[Fault] = []

    @property
    def key(self) -> str:
        """Under what its checkpoint is kept."""
        return self.name + self.suffix

    def create(self, con: DuckDBPyConnection) -> None:
        """Makes the tables, empty."""
        for table in self.tables:
            table.create(con)
        if not self.suffix:
            self.create_views(con)

    def create_views(self, con: DuckDBPyConnection) -> None:
        """Makes the views as this program knows them."""
        for view in self.views:
            con.execute(view)

    def drop(self, con: DuckDBPyConnection) -> None:
        """Removes the tables."""
        for table in self.tables:
            con.execute(f"DROP TABLE IF EXISTS {table.name}")

    @abstractmethod
    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        """Takes in a batch, inside the caller's transaction. The events' own tables hold the batch already."""

    def purge(self, con: DuckDBPyConnection, trainings: Sequence[str]) -> None:
        """Removes what is kept of trainings that were purged: their events, folded again, would add up to nothing."""
        for table in self.tables:
            if "training" in table.columns:
                _delete(con, table, "training", trainings)
            elif "stream" in table.columns:
                _delete(con, table, "stream", [prefix + each for each in trainings for prefix in (TRAINING, CONTROL)])

    def skip(self, position: int, reason: str) -> None:
        """Reports what could not be taken in."""
        fault = Fault(position, reason)
        self.faults.append(fault)
        _logger.error("%s leaves out something of the event at position %d: %s", self.name, position, reason)

    def each(self, batch: Batch, take: Callable[[Recorded], None], types: frozenset[str] | None = None) -> None:
        """Calls `take` with each cold event of `types` (None: the projection's own); one that raises is left out."""
        types = self.types if types is None else types
        for recorded in batch.cold:
            if recorded.type not in types:
                continue
            step = getattr(recorded.data, "step", 0)
            if step is not None and not 0 <= step < 2**63:
                self.skip(recorded.position, f"{recorded.type}: step {step} is not a step.")
                continue
            try:
                take(recorded)
            except Exception as error:
                _logger.exception("%s cannot fold the event at position %d.", self.name, recorded.position)
                self.skip(recorded.position, f"{recorded.type}: {error!r}")


def _delete(con: DuckDBPyConnection, table: Table[Any], column: str, values: Sequence[str]) -> None:
    con.execute(f"DELETE FROM {table.name} WHERE {column} IN ({', '.join('?' * len(values))})", list(values))


def training_of(stream: str) -> str:
    """The id of the training that a stream `training-ID` or `control-ID` belongs to; other streams as they are."""
    for prefix in (TRAINING, CONTROL):
        if stream.startswith(prefix):
            return stream[len(prefix) :]
    return stream


def one_of(field: str, value: str, allowed: Sequence[str]) -> str:
    """`value`, where it is allowed. Raises `QueryRefused`."""
    if value not in allowed:
        raise QueryRefused(field, f"{value!r} is not known; allowed: {', '.join(allowed)}.")
    return value


def at_least(field: str, value: int, least: int) -> int:
    """`value`, where it is large enough. Raises `QueryRefused`."""
    if value < least:
        raise QueryRefused(field, f"{value} is too small; at least {least} is allowed.")
    return int64(value)


def int64(value: int) -> int:
    """`value`, or the nearest whole number that DuckDB can compare with a column."""
    return max(-(2**63), min(int(value), 2**63 - 1))


def words(q: str | None) -> list[str]:
    """What a search looks for: all of these, in any order."""
    return (q or "").lower().split()
