"""Every test here runs on every implementation of the event store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from events.memory import MemoryStore
from events.store import EventStore

Store = EventStore | MemoryStore


@pytest.fixture(params=["duckdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty log."""
    made: Store = MemoryStore() if request.param == "memory" else EventStore.open(tmp_path / "log.duckdb")
    with made:
        yield made
