from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from folded_log import Log
from server_harness import Client, serving

from events.store import EventStore


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "log.duckdb", threads=1) as store:
        yield store


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A server without a dashboard."""
    async with serving(tmp_path / "data") as found:
        yield found
