"""A server with trainers that need no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from server_harness import Client, FakeLaunch, serving


@pytest.fixture
def launch() -> FakeLaunch:
    return FakeLaunch()


@pytest.fixture
async def client(tmp_path: Path, launch: FakeLaunch) -> AsyncIterator[Client]:
    try:
        async with serving(tmp_path / "data", launch) as found:
            yield found
    finally:
        for process in launch.started:
            if process.poll() is None:
                process.kill()
            process.wait()
