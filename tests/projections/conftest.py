from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from folded_log import Log

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
