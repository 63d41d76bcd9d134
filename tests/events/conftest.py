"""A bare server for the tests of emitter and follower."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_server import BareServer, bare_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BareServer]:
    with bare_server(tmp_path / "data") as running:
        yield running
