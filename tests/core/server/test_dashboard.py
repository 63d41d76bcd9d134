"""The dashboard's process behind the one port: passed through, started again, and never in the API's way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from server_harness import Client, page, serving, there
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from core.server.child import runtime_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fake_dashboard")]


@pytest.fixture
async def client(tmp_path: Path, fake_dashboard: None) -> AsyncIterator[Client]:
    async with serving(tmp_path / "data", ui=True) as found:
        yield found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 a file has no event
            await asyncio.sleep(0.02)


def socket_url(client: Client) -> str:
    return client.server.url.replace("http", "ws") + "/ws?session=1"


async def test_requests_pass_through_with_path_query_body_and_headers(client: Client) -> None:
    await page(client)
    headers = {"X-Mine": "yes", "Authorization": "Bearer secret", "Connection": "keep-alive, x-hop", "X-Hop": "1"}
    answer = await client.http.post("/echo/a%2Fb?x=1&y=%20", content=b"z" * 3_000_000, headers=headers)
    assert (answer.status_code, answer.headers["x-own"], answer.headers["set-cookie"]) == (207, "1", "a=1")
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/echo/a%2Fb", "x=1&y=%20")
    assert seen["size"] == 3_000_000
    passed = dict(seen["headers"])
    assert passed["x-mine"] == "yes"
    assert passed["host"] == client.server.url.removeprefix("http://")
    assert "authorization" not in passed
    assert "x-hop" not in passed
    assert seen["arguments"][seen["arguments"].index("--api") + 1] == client.server.url
    # The child's token is its own, works, and gives what it does its own name.
    assert client.server.studio.access.bearer(seen["token"]) == "dashboard"
    deleted = await client.http.delete("/echo/x")
    assert deleted.json()["method"] == "DELETE"
    missing = await client.http.get("/nothing/here")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    # What is the server's own never reaches the child.
    own = await client.http.get("/api/v1/nothing")
    assert own.headers["content-type"] == "application/problem+json"


async def test_a_long_answer_arrives_whole(client: Client) -> None:
    await page(client)
    async with client.http.stream("GET", "/stream") as answer:
        size = 0
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
    assert size == 64 * 65_536


async def test_a_socket_passes_both_ways_with_its_subprotocol_large_messages_and_close_codes(client: Client) -> None:
    await page(client)
    origin = client.server.url
    async with connect(
        socket_url(client), subprotocols=["bokeh", "other"], origin=origin, max_size=None, proxy=None
    ) as socket:
        assert socket.subprotocol == "bokeh"
        await socket.send("origin")
        assert dict(json.loads(await socket.recv()))["origin"] == origin
        for message in ("hello", b"\x00\xff", "ü" * 4_000_000, os.urandom(9_000_000)):
            await socket.send(message)
            assert await socket.recv() == message
        pong = await socket.ping()
        await asyncio.wait_for(pong, 60)
        await socket.send("close")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4123, "as asked")
    async with connect(socket_url(client), origin=origin, proxy=None) as socket:
        await socket.send("x")
        await socket.recv()
        await socket.close(4001)
    log = client.server.studio.settings.data_dir / "dashboard.log"
    await until(lambda: "a socket has ended 4001" in log.read_text())


async def test_a_dashboard_that_is_killed_comes_back_and_the_api_never_notices(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await page(client)
    child = client.server.studio.dashboard
    assert child is not None
    run, may_come_back = child._run, asyncio.Event()

    async def run_later() -> int:
        await may_come_back.wait()
        return await run()

    monkeypatch.setattr(child, "_run", run_later)
    async with connect(socket_url(client), origin=client.server.url, proxy=None) as socket:
        os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1012
    assert (await client.http.get("/healthz")).status_code == 200
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url(client), origin=client.server.url, proxy=None)
    assert refused.value.response.status_code == 503
    may_come_back.set()
    after = await page(client)
    assert after != before
    assert child.restarts == 1


async def test_the_gate_stands_before_the_dashboard_too(client: Client) -> None:
    await page(client)
    for headers, status in (({"Origin": "http://attacker.example"}, 403), ({"Host": "attacker.example"}, 401)):
        assert (await client.http.get("/", headers=headers)).status_code == status
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url(client), origin="http://attacker.example", proxy=None)
    assert refused.value.response.status_code == 403


async def test_the_dashboard_ends_with_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", ui=True) as client:
        pid = int((await page(client)).rpartition(" ")[2])
        child = client.server.studio.dashboard
        assert child is not None
        assert there(child.socket)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not there(child.socket)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name, which pytest's may not."""
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp") as folder:
        yield Path(folder)


def test_the_runtime_folder_is_private_short_and_the_same_again(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    folder = runtime_folder(Path("/some/data"))
    assert folder.parent == short_path
    assert folder.stat().st_mode & 0o077 == 0
    assert runtime_folder(Path("/some/data")) == folder
    assert runtime_folder(Path("/other/data")) != folder
    # One that others could write to is not used.
    folder.chmod(0o777)
    assert runtime_folder(Path("/some/data")) != folder
    deep = short_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert len(os.fsencode(runtime_folder(Path("/some/data")) / "ui.sock")) <= 100
