"""Who is let in, by whichever door."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Client, serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from core.server.access import Access, peer_uid, read_or_make_token

DOORS = ("/", "/healthz", "/openapi.json", "/api/v1/trainings", "/nothing", "//api/../x", "/api/v1/events")
SOCKETS = ("/api/v1/events/follow", "/api/v1/ingest", "/ws", "/nothing")
REBOUND = {"Host": "attacker.example"}


def token_of(client: Client) -> str:
    return client.server.studio.settings.token_file.read_text().strip()


async def handshake(client: Client, path: str, **headers: str) -> int:
    """The HTTP status that a WebSocket's handshake gets."""
    url = client.server.url.replace("http", "ws") + path
    # The headers that a browser would send are given as they are, so that Host can be another's.
    request = {
        "Host": client.server.url.removeprefix("http://"),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **headers,
    }
    async with client.http.stream("GET", url.replace("ws", "http", 1), headers=request) as answer:
        return answer.status_code


async def test_the_same_user_needs_no_token_on_loopback_and_acts_under_their_name(client: Client) -> None:
    for door in DOORS:
        assert (await client.http.get(door)).status_code in (200, 404)
    training = await client.create(total_steps=1)
    row = await client.until(training, "completed")
    assert re.fullmatch(r"user:\w+", row["actor"])


async def test_a_token_that_only_reads_reads_and_changes_nothing(client: Client) -> None:
    reader = {"Authorization": f"Bearer {client.server.studio.access.grant('analyst', reader=True)}"}
    for door in ("/healthz", "/api/v1/trainings", "/api/v1/events"):
        assert (await client.http.get(door, headers=reader)).status_code == 200
    assert await handshake(client, "/api/v1/events/follow", **reader) == 101
    for path in ("/api/v1/ingest", "/ws", "/api/v1/events/../ingest", "//api/v1/events/follow"):
        assert await handshake(client, path, **reader) == 403, path
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        answer = await client.http.request(method, "/api/v1/trainings", headers=reader)
        assert answer.status_code == 403
        assert answer.json()["detail"] == "This token only reads; /api/v1/trainings is not for that."


async def test_a_page_of_another_site_is_refused_at_every_door(client: Client) -> None:
    own = client.server.url
    for origin in ("http://attacker.example", "null", "", "http://127.0.0.1:1", f"{own}.attacker.example"):
        for door in DOORS:
            answer = await client.http.get(door, headers={"Origin": origin})
            assert answer.status_code == 403, (door, origin)
            assert answer.headers["content-type"] == "application/problem+json"
        answer = await client.http.post("/api/v1/trainings", json={}, headers={"Origin": origin})
        assert answer.status_code == 403
        for path in SOCKETS:
            assert await handshake(client, path, Origin=origin) == 403, (path, origin)
    # A token does not help a page that has no business here.
    headers = {"Origin": "http://attacker.example", "Authorization": f"Bearer {token_of(client)}"}
    assert (await client.http.get("/healthz", headers=headers)).status_code == 403


async def test_our_own_page_is_let_in_also_through_a_tunnel_and_behind_a_prefix(client: Client) -> None:
    own = client.server.url
    assert (await client.http.get("/healthz", headers={"Origin": own})).status_code == 200
    assert await handshake(client, "/api/v1/events/follow", Origin=own) == 101
    tunnelled = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
    assert (await client.http.get("/healthz", headers=tunnelled)).status_code == 200
    assert await handshake(client, "/api/v1/events/follow", **tunnelled) == 101
    proxied = {
        "Origin": "https://hub.example",
        "X-Forwarded-Host": "hub.example",
        "X-Forwarded-For": "203.0.113.7",
        "Authorization": f"Bearer {token_of(client)}",
    }
    assert (await client.http.get("/healthz", headers=proxied)).status_code == 200


async def test_what_comes_through_a_proxy_or_under_another_name_needs_the_token(client: Client) -> None:
    for headers in (REBOUND, {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}):
        for door in DOORS:
            answer = await client.http.get(door, headers=headers)
            assert answer.status_code == 401, (door, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in SOCKETS:
            assert await handshake(client, path, **headers) == 401
        for token, status in ((token_of(client), 200), ("wrong", 401)):
            answer = await client.http.get("/healthz", headers={**headers, "Authorization": f"Bearer {token}"})
            assert answer.status_code == status


async def test_a_code_signs_one_browser_in_once_and_leaves_the_address(client: Client) -> None:
    link = (await client.http.post("/api/v1/sign-in")).json()["url"]
    code = link.partition("code=")[2]
    answer = await client.http.get(f"/trainings?id=7&code={code}", headers=REBOUND)
    assert (answer.status_code, answer.headers["location"]) == (303, "./trainings?id=7")
    cookie = answer.headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    name, _, value = cookie.partition(";")[0].partition("=")
    async with httpx.AsyncClient(base_url=client.server.url, trust_env=False) as browser:
        signed_in = {**REBOUND, "Cookie": f"other=1; {name}={value}"}
        assert (await browser.get("/healthz", headers=signed_in)).status_code == 200
        assert (await browser.get(f"/?code={code}", headers=REBOUND)).status_code == 401
        assert (await browser.get("/?code=guess", headers=REBOUND)).status_code == 401
        forged = {**REBOUND, "Cookie": f"{name}={value[:-1]}{'0' if value[-1] != '0' else '1'}"}
        assert (await browser.get("/healthz", headers=forged)).status_code == 401
        # An address with a used code is no dead end for who is known already.
        again = await browser.get(f"/?code={code}", headers=signed_in)
        assert (again.status_code, again.headers["location"]) == (303, "./")
        tunnelled = await browser.get(f"/?code={client.server.studio.access.new_code()}", headers={"Host": "a:9"})
        assert tunnelled.headers["set-cookie"].startswith("saestudio_9=")


async def test_a_person_who_is_not_let_in_gets_a_page_and_a_program_a_problem(client: Client) -> None:
    page = await client.http.get("/", headers={**REBOUND, "Accept": "text/html"})
    assert page.status_code == 401
    assert "saestudio status" in page.text
    assert page.headers["content-type"].startswith("text/html")
    with pytest.raises(InvalidStatus) as refused:
        await connect(
            client.server.url.replace("http", "ws") + "/api/v1/ingest", origin="http://attacker.example", proxy=None
        )
    assert refused.value.response.status_code == 403


@pytest.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path / "data", host="0.0.0.0") as client:
        yield client


async def test_a_server_that_listens_beyond_this_machine_wants_the_token_from_everybody(exposed: Client) -> None:
    for door in DOORS:
        assert (await exposed.http.get(door)).status_code == 401
    for path in SOCKETS:
        assert await handshake(exposed, path) == 401
    bearer = {"Authorization": f"Bearer {token_of(exposed)}"}
    assert (await exposed.http.get("/healthz", headers=bearer)).status_code == 200
    assert await handshake(exposed, "/api/v1/events/follow", **bearer) == 101


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_is_refused_everywhere(client: Client) -> None:
    port = client.server.port

    def ask(path: str, *headers: str) -> str:
        request = "\\r\\n".join([f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""])
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; head -n 1 <&3"
        answer = subprocess.run(
            ["bash", "-c", script], user=65534, group=65534, capture_output=True, text=True, timeout=60, check=True
        )
        return answer.stdout.split()[1]

    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    for path in ("/", "/api/v1/trainings"):
        assert await asyncio.to_thread(ask, path) == "401"
    for path in ("/api/v1/events/follow", "/api/v1/ingest", "/ws"):
        assert await asyncio.to_thread(ask, path, *upgrade) == "401"
    assert await asyncio.to_thread(ask, "/healthz", f"Authorization: Bearer {token_of(client)}") == "200"


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = "   0: {near} {far} {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1 0000 20 0 0 10 -1\n"


def table(path: Path, **changes: Any) -> Path:
    row = {"near": "0100007F:C350", "far": "0100007F:20E4", "state": "01", "uid": 1000, "inode": 4711, **changes}
    path.write_text(HEADER + ROW.format(**row))
    return path


def test_the_user_of_a_connection_is_read_from_the_kernels_table(tmp_path: Path) -> None:
    client, server = ("127.0.0.1", 50_000), ("127.0.0.1", 8_420)
    assert peer_uid(client, server, [table(tmp_path / "tcp")]) == 1000
    mapped = {"near": "0000000000000000FFFF00000100007F:C350", "far": "0000000000000000FFFF00000100007F:20E4"}
    assert peer_uid(client, server, [table(tmp_path / "tcp6", **mapped)]) == 1000
    v6 = {"near": "00000000000000000000000001000000:C350", "far": "00000000000000000000000001000000:20E4"}
    assert peer_uid(("::1", 50_000), ("::1", 8_420), [table(tmp_path / "tcp6", **v6)]) == 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 0, "inode": 0},
        {"state": "06", "uid": 0, "inode": 0},
        {"state": "05", "uid": 0},
        {"near": "0100007F:C351"},
        {"far": "0100007F:20E5"},
    ],
)
def test_an_orphaned_or_other_socket_proves_no_user(tmp_path: Path, changes: dict[str, Any]) -> None:
    client, server = ("127.0.0.1", 50_000), ("127.0.0.1", 8_420)
    assert peer_uid(client, server, [table(tmp_path / "tcp", **changes)]) is None
    assert peer_uid(client, server, [tmp_path / "missing"]) is None
    assert peer_uid(("not an address", 1), server, [table(tmp_path / "tcp")]) is None


def test_the_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = read_or_make_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert read_or_make_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_sessions_outlive_the_server_and_codes_do_not() -> None:
    before = Access("secret", "user:me")
    session = before.redeem(before.new_code())
    assert session is not None
    after = Access("secret", "user:me")
    assert after.session(session) == "user:me"
    assert after.redeem(before.new_code()) is None
    assert Access("another", "user:me").session(session) is None
    assert after.session("") is after.session(".") is after.session(f".{session.partition('.')[2]}") is None


def test_a_granted_token_speaks_under_its_own_name() -> None:
    access = Access("secret", "user:me")
    assert access.bearer(access.grant("dashboard")) == "dashboard"
    assert access.bearer("secret") == "user:me"
    assert access.bearer("") is access.bearer("Secret") is None
