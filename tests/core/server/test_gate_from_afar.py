"""The gate through a tunnel on a foreign port, and behind a proxy that takes a path prefix away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from forwarding import forwarded
from server_harness import Client, page, serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.slow

PREFIX = "/hub/user/ada"
FOLLOW = "/api/v1/events/follow?after=0"


@pytest.fixture
async def client(tmp_path: Path, fake_dashboard: None) -> AsyncIterator[Client]:
    async with serving(tmp_path / "data", ui=True) as found:
        await page(found)
        yield found


async def code_of(client: Client) -> str:
    return (await client.http.post("/api/v1/sign-in")).json()["url"].partition("code=")[2]


@pytest.mark.parametrize("prefix", ["", PREFIX])
async def test_a_code_becomes_a_cookie_with_which_everything_works(client: Client, prefix: str) -> None:
    async with forwarded(client.server.port, prefix) as port:
        own = f"http://localhost:{port}"
        async with httpx.AsyncClient(base_url=own + prefix, trust_env=False, follow_redirects=True) as browser:
            shown = await browser.get("/", params={"code": await code_of(client)})
            assert shown.text.startswith("page of")
            # The code has left the address, and the prefix has not.
            assert str(shown.url) == f"{own}{prefix}/"
            (cookie,) = browser.cookies.jar
            # Named by the port that the server is asked for: a tunnel's own, a proxy's upstream.
            assert cookie.name == f"saestudio_{client.server.port if prefix else port}"
            assert cookie.has_nonstandard_attr("HttpOnly")
            # A page's scripts send their origin: the address that the browser knows.
            origin = {"Origin": own}
            sent = await browser.post("/api/v1/trainings/check", json={"config": {}}, headers=origin)
            assert sent.status_code == 200
            refused = await browser.get("/healthz", headers={"Origin": f"http://localhost:{client.server.port}"})
            assert refused.status_code == 403
            signed_in = {"Cookie": f"{cookie.name}={cookie.value}"}
        url = f"ws://localhost:{port}{prefix}"
        async with connect(url + FOLLOW, origin=own, additional_headers=signed_in, proxy=None) as socket:
            assert json.loads(await socket.recv())["type"] == "Subscribed"
        async with connect(f"{url}/ws", origin=own, additional_headers=signed_in, proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            await socket.send("origin")
            assert dict(json.loads(await socket.recv()))["x-saestudio-actor"].startswith("user%3A")
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"{url}/ws", origin="http://localhost:1", additional_headers=signed_in, proxy=None)
        assert denied.value.response.status_code == 403


async def test_behind_a_proxy_nobody_is_let_in_for_being_on_this_machine(client: Client) -> None:
    async with forwarded(client.server.port, PREFIX) as port:
        own = f"http://localhost:{port}"
        code = await code_of(client)
        assert (await client.http.get("/", params={"code": code})).status_code == 303
        async with httpx.AsyncClient(base_url=own + PREFIX, trust_env=False) as browser:
            for path in ("/", "/healthz", "/api/v1/trainings", f"/?code={code}", "/?code=guess"):
                answer = await browser.get(path, headers={"Accept": "text/html"})
                assert answer.status_code == 401, path
                assert "Who are you?" in answer.text
                assert "set-cookie" not in answer.headers
        for path in (FOLLOW, "/ws", "/api/v1/ingest"):
            with pytest.raises(InvalidStatus) as denied:
                await connect(f"ws://localhost:{port}{PREFIX}{path}", origin=own, proxy=None)
            assert denied.value.response.status_code == 401
