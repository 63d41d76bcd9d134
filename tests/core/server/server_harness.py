"""A real server on a loopback port, in the test's own loop, whose trainers are real processes without torch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from core import run as runs
from core.run import RunSpec
from core.server.serve import Running, running
from core.settings import Settings
from events.catalog import DatasetRegistered, ModelRegistered
from events.streams import Append

TINY = ModelRegistered(
    model_id="tiny",
    source="/nowhere/tiny",
    hidden_dim=64,
    layers=4,
    hooks=("resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"),
    context_size=128,
    parameters=100_000,
)
WORDS = DatasetRegistered(dataset_id="words", source="/nowhere/words", format="text")
CONFIG: dict[str, Any] = {
    "model": "tiny",
    "datasets": ["words"],
    "total_steps": 40,
    "batch_size": 64,
    "checkpoint_interval": 0,
    "data_seed": 2,
}
ENDED = ("completed", "failed", "stopped", "paused", "interrupted")


class FakeLaunch:
    """Starts `fake_trainer.py` where the product starts its trainer; all else is the product's."""

    name = "local"

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.commands: list[list[str]] = []

    def start(self, folder: Path, spec: RunSpec, *, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("fake_trainer.py")), str(folder)]
        command += ["--resume"] if spec.resume else []
        with (folder / runs.STDERR).open("ab") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])},
                start_new_session=True,
            )
        self.started.append(process)
        self.commands.append(command)
        return process


class Client:
    """An HTTP client of one server, with the few requests that most tests make."""

    def __init__(self, server: Running, http: httpx.AsyncClient) -> None:
        self.server = server
        self.http = http

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.http.get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def create(self, *, name: str | None = None, **config: Any) -> str:
        body = {"config": {**CONFIG, **config}, **({"name": name} if name else {})}
        answer = await self.http.post("/api/v1/trainings", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def control(self, training: str, action: str) -> httpx.Response:
        return await self.http.post(f"/api/v1/trainings/{training}/control", json={"action": action})

    async def status(self, training: str) -> str:
        return (await self.get(f"trainings/{training}"))["status"]

    async def until(self, training: str, *statuses: str, step: int = 0, timeout: float = 100) -> dict[str, Any]:
        """The training, once it has one of the statuses and at least so many steps."""
        async with asyncio.timeout(timeout), self.commits() as committed:
            while True:
                committed.clear()
                row = await self.get(f"trainings/{training}")
                if row["status"] in statuses and row["step"] >= step:
                    return row
                assert row["status"] not in ENDED or row["status"] in statuses, row
                await committed.wait()

    @contextlib.asynccontextmanager
    async def commits(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set after every commit of the log."""
        loop, committed = asyncio.get_running_loop(), asyncio.Event()
        stop = self.server.studio.store.listen(lambda head: loop.call_soon_threadsafe(committed.set) and None)
        try:
            yield committed
        finally:
            stop()


async def page(client: Client) -> str:
    """The dashboard's page, once there is one."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.http.get("/")
            if answer.status_code == 200:
                return answer.text
            assert answer.status_code == 503
            # The page that says so brings itself back.
            assert int(answer.headers["refresh"]) >= 1
            assert "comes back by itself" in answer.text
            await asyncio.sleep(0.05)


def there(path: str | Path) -> bool:
    return Path(path).exists()


def names(path: Path) -> set[str]:
    """The paths in a folder."""
    return {str(one) for one in path.iterdir()}


@contextlib.asynccontextmanager
async def serving(folder: Path, launch: Any = None, **settings: Any) -> AsyncIterator[Client]:
    """A server on `folder` that knows the model `tiny` and the data set `words`."""
    options = Settings(data_dir=folder, **{"port": 0, "ui": False, **settings})
    async with running(options, launch=launch or FakeLaunch()) as server:
        if server.studio.store.version("catalog") < 3:
            await server.studio.append(Append("catalog", [TINY, WORDS]))
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False, verify=False) as http:
            yield Client(server, http)
