"""A server's life: its lock, its port, its files, its catalogue, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from server_harness import Client, serving, there
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from core import catalogue
from core.server import app
from core.server.serve import NoFreePort
from events.errors import DataDirectoryInUse
from events.event import Event

ROOT = Path(__file__).parents[3]

PROGRAM = """
import json, sys
from pathlib import Path
from core.server.serve import serve
from core.settings import Settings
def ready(running):
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps({"url": running.url, "link": running.sign_in_url, "loaded": loaded}), flush=True)
serve(Settings(data_dir=Path(sys.argv[1]), port=0, ui=False), on_ready=ready)
print("ended", flush=True)
"""


def content(path: str) -> tuple[str, int]:
    """A file's text and permissions."""
    return Path(path).read_text(), stat.S_IMODE(Path(path).stat().st_mode)


class Process:
    """A server as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready = json.loads(line) if line else {}

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


async def test_two_servers_on_one_data_directory_are_one_too_many(client: Client, tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryInUse) as refused:
        async with serving(tmp_path / "data"):
            pass
    assert f"process {os.getpid()}" in str(refused.value)
    assert client.server.url in str(refused.value)
    assert (await client.http.get("/healthz")).status_code == 200


async def test_a_port_that_somebody_else_has_is_left_to_them_for_the_next_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        async with serving(tmp_path / "data", port=taken) as client:
            assert taken < client.server.port < taken + 100
            assert (await client.http.get("/healthz")).status_code == 200
    with pytest.raises(NoFreePort, match="is not an address of this machine"):
        async with serving(tmp_path / "other", host="no.such.host.invalid"):
            pass


async def test_trainers_and_commands_find_the_server_by_its_file_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with serving(folder) as client:
        found = json.loads((folder / "server.json").read_text())
        assert found["url"] == client.server.url
        assert found["pid"] == os.getpid()
        assert found["log_id"] == (await client.http.get("/healthz")).json()["log_id"]
        token, mode = content(found["token_file"])
        assert mode == 0o600
    assert not there(folder / "server.json")
    async with serving(folder) as client:
        assert client.server.log_id == found["log_id"]
        assert content(found["token_file"]) == (token, mode)


async def test_what_ships_is_registered_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def registered(client: Client) -> list[str]:
        page = await client.get("events", stream="catalog")
        return [one["data"].get("model_id") or one["data"]["dataset_id"] for one in page["data"]]

    async with serving(tmp_path / "data") as client:
        assert (await registered(client))[:2] == ["demo", "stdlib"]
        models = {model["model_id"]: model for model in (await client.get("models"))["data"]}
        assert models["demo"]["hidden_dim"] == 128
        before = await registered(client)
    async with serving(tmp_path / "data") as client:
        assert await registered(client) == before
    moved = [type(one)(**{**_fields(one), "source": "/elsewhere"}) for one in catalogue.BUILTIN_DATASETS]
    monkeypatch.setattr(app, "BUILTIN_DATASETS", tuple(moved))
    async with serving(tmp_path / "data") as client:
        assert await registered(client) == [*before, "stdlib"]
        datasets = {one["dataset_id"]: one for one in (await client.get("datasets"))["data"]}
        assert datasets["stdlib"]["source"] == "/elsewhere"


def _fields(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_followers_are_told_that_the_server_restarts(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as client:
        url = client.server.url.replace("http", "ws") + "/api/v1/events/follow"
        socket = await connect(url, proxy=None)
        await socket.recv()
    with pytest.raises(ConnectionClosed):
        while True:
            await socket.recv()
    assert socket.close_code == 1012


@pytest.mark.slow
def test_the_server_and_its_requests_load_no_machine_learning_library_and_a_signal_ends_it(tmp_path: Path) -> None:
    server = Process(tmp_path / "data")
    assert not {"torch", "transformers", "datasets", "panel", "bokeh", "holoviews"} & set(server.ready["loaded"])
    assert "duckdb" in server.ready["loaded"]
    code, out, err = server.end(signal.SIGTERM)
    assert (code, out.strip(), err) == (0, "ended", "")
    assert not (tmp_path / "data" / "server.json").exists()


@pytest.mark.crash
async def test_a_server_that_was_killed_leaves_a_log_that_the_next_one_opens(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = await asyncio.to_thread(Process, folder)
    log_id = json.loads((folder / "server.json").read_text())["log_id"]
    code, _, _ = await asyncio.to_thread(server.end, signal.SIGKILL)
    assert code == -signal.SIGKILL
    async with serving(folder) as client:
        assert client.server.log_id == log_id
        assert len((await client.get("models"))["data"]) >= 1
