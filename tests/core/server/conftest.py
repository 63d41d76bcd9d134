"""A server with trainers that need no torch, and a dashboard that needs no Panel."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from server_harness import Client, FakeLaunch, serving

from core.server import app
from core.server.child import Child
from core.server.studio import Studio


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


@pytest.fixture
def fake_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts `fake_dashboard.py` with the arguments that it has for the real one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = app._dashboard

    def fake(studio: Studio) -> Child:
        child = made(studio)
        assert child._command[:4] == [sys.executable, "-P", "-m", "ui"]
        child._command = [sys.executable, str(Path(__file__).with_name("fake_dashboard.py")), *child._command[4:]]
        return child

    monkeypatch.setattr(app, "_dashboard", fake)
