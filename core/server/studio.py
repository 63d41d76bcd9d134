"""What the parts of the server share: the log, what it adds up to, and the way to ask and to append."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from duckdb import DuckDBPyConnection

from core.settings import Settings
from events.event import Event, now_us
from events.ids import is_id
from events.status import TrainingState
from events.store import EventStore
from events.streams import ANY, CONTROL, Append, Appended
from projections import trainings
from projections.runner import Projections, position

from . import problems
from .access import Access
from .devices import Device, list_devices
from .journal import Journal, dated

if TYPE_CHECKING:
    from .analyst import Analyst
    from .child import Child
    from .inspection import Inspections
    from .launcher import Launcher
    from .maintenance import Maintenance
    from .proxy import Proxy

T = TypeVar("T")

LAUNCHER = "launcher"
"""The actor of what the server does by itself."""

DEVICES_SECONDS = 5.0
"""How old what is known of the devices may be."""


@dataclass
class Studio:
    """One open data directory.

    `deciding` is held from reading a training's state to appending what follows from it, so that commands are decided
    one at a time. `url` is where the server is reached from this machine.
    """

    settings: Settings
    store: EventStore
    projections: Projections
    access: Access
    journal: Journal
    url: str = ""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("core.server"))
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)
    devices: tuple[Device, ...] = ()
    launcher: Launcher = field(init=False)
    inspections: Inspections = field(init=False)
    maintenance: Maintenance = field(init=False)
    analyst: Analyst = field(init=False)
    dashboard: Child | None = None
    proxy: Proxy | None = None
    _devices_at: float = float("-inf")

    async def refresh_devices(self) -> None:
        """Look at the devices again, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._devices_at > DEVICES_SECONDS:
            self._devices_at = now
            self.devices = tuple(await asyncio.to_thread(list_devices))

    async def query(self, read: Callable[[DuckDBPyConnection], T]) -> T:
        """What `read` finds with a cursor of its own, in a thread."""

        def run() -> T:
            with self.store.reading() as con:
                return read(con)

        return await asyncio.to_thread(run)

    async def snapshot(self, read: Callable[[DuckDBPyConnection], T]) -> tuple[T, int]:
        """What `read` finds, and the position that it is true at: a follower may go on from there."""

        def both(con: DuckDBPyConnection) -> tuple[T, int]:
            at = position(con)
            return read(con), at

        return await self.query(both)

    async def of_training(
        self, training_id: str, read: Callable[[DuckDBPyConnection, trainings.Named], T]
    ) -> tuple[T, int]:
        """What `read` finds of a training, and the position that it is true at. Raises a 404 `ApiError`."""

        def found(con: DuckDBPyConnection) -> T:
            named = trainings.named(con, training_id)
            if named is None:
                raise problems.not_found("training", training_id)
            return read(con, named)

        return await self.snapshot(found)

    async def append(self, *appends: Append) -> list[Appended]:
        """Append durably; what the projections say includes it afterwards."""
        now = now_us()
        appends = tuple(dated(append, now) for append in appends)
        answers = await asyncio.wrap_future(self.store.append(*appends))
        try:
            await asyncio.to_thread(self.journal.record, appends, answers)
        except OSError as error:
            # The log has it; only a lost log would miss it here.
            self.log.warning("%s cannot be written: %s.", self.settings.journal, error)
        return answers

    async def record(
        self,
        training_id: str,
        events: tuple[Event, ...] | list[Event],
        *,
        actor: str,
        expected: int | None = ANY,
        metadata: dict[str, str] | None = None,
    ) -> int:
        """Append to a training's control stream; the position of the last event."""
        append = Append(CONTROL + training_id, list(events), expected=expected, actor=actor, metadata=metadata)
        return (await self.append(append))[0].position

    async def state(self, training_id: str) -> TrainingState:
        """The training's state. Raises a 404 `ApiError` where there is no such training."""
        found = await self.query(lambda con: trainings.state(con, training_id)) if is_id(training_id) else None
        if found is None or found.deleted:
            raise problems.not_found("training", training_id)
        return found

    async def training(self, training_id: str) -> tuple[trainings.TrainingRow, int]:
        """The training and the position that this is true at. Raises a 404 `ApiError`."""
        found, position = await self.snapshot(lambda con: trainings.get(con, training_id))
        if found is None or found.deleted:
            raise problems.not_found("training", training_id)
        return found, position
