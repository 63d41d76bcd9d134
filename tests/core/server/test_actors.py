"""Who did it: what a person does by whichever way is theirs, and nobody can act as somebody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from server_harness import CONFIG, Client, page, serving
from websockets.asyncio.client import connect

from core.server.access import Access
from events.control import TrainingCreated
from events.streams import Append
from events.training import StepTrained
from events.wire import ACTOR_HEADER
from ui.gateway import ApiRefused, Gateway

STEP = StepTrained(
    step=1, loss=0, loss_reconstruction=0, l0=0, l0_fraction=0, fvu=0, learning_rate=0, grad_norm=0, tokens=0,
    tokens_per_second=0,
)  # fmt: skip
ID = "0" * 14


@pytest.fixture
async def studio(tmp_path: Path, fake_dashboard: None) -> AsyncIterator[Client]:
    """A server with a dashboard and a training that runs elsewhere."""
    async with serving(tmp_path / "data", ui=True) as client:
        server = client.server.studio
        await server.append(Append(f"control-{ID}", [TrainingCreated(name="far", launcher="external")], actor="x"))
        await server.append(Append(f"training-{ID}", [STEP]))
        await page(client)
        yield client


def bearer(client: Client, actor: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.server.studio.access.grant(actor)}"}


async def opened(client: Client, headers: dict[str, str]) -> tuple[dict[str, str], str]:
    """The headers with which the dashboard sees somebody's page asked for, and the dashboard's token."""
    answer = await client.http.get("/echo/", headers=headers)
    assert answer.status_code == 207, answer.text
    return dict(answer.json()["headers"]), answer.json()["token"]


async def done(client: Client, path: str = f"trainings/{ID}/activity") -> list[tuple[str, str]]:
    """Who did what, the oldest first."""
    return [(row["actor"], row["type"]) for row in (await client.get(path))["data"][::-1]]


async def test_a_click_on_somebodys_page_is_theirs_in_log_and_activity(studio: Client) -> None:
    seen, token = await opened(studio, bearer(studio, "user:ada.l\u00f6we"))
    dashboard = Gateway(studio.server.url, token)
    try:
        await dashboard.acting_for(seen[ACTOR_HEADER.lower()]).control(ID, "checkpoint")
        # What the dashboard does for nobody stays its own, also beside a person's.
        await dashboard.control(ID, "checkpoint")
        position = await dashboard.acting_for(seen[ACTOR_HEADER.lower()]).control(ID, "pause")
    finally:
        await dashboard.close()
    assert await done(studio) == [
        ("x", "TrainingCreated"),
        ("user:ada.l\u00f6we", "CheckpointRequested"),
        ("dashboard", "CheckpointRequested"),
        ("user:ada.l\u00f6we", "PauseRequested"),
    ]
    (recorded,) = (await studio.get("events", after=position - 1, limit=1))["data"]
    assert (recorded["type"], recorded["actor"]) == ("PauseRequested", "user:ada.l\u00f6we")


async def test_a_page_without_a_token_is_of_the_user_on_the_other_end(studio: Client) -> None:
    seen, token = await opened(studio, {})
    assert studio.server.studio.access.vouched(token, seen[ACTOR_HEADER.lower()]) == (await user_of(studio))


async def user_of(client: Client) -> str:
    await client.http.patch(f"/api/v1/trainings/{ID}", json={"note": "mine"})
    return (await done(client))[-1][0]


async def test_a_request_of_the_api_is_its_tokens_also_where_it_creates(studio: Client) -> None:
    as_ci = bearer(studio, "token:ci")
    for action in ("checkpoint", "stop"):
        answer = await studio.http.post(f"/api/v1/trainings/{ID}/control", json={"action": action}, headers=as_ci)
        assert answer.status_code == 202
    assert (await done(studio))[1:] == [("token:ci", "CheckpointRequested"), ("token:ci", "StopRequested")]
    other = await studio.http.post("/api/v1/trainings", json={"config": CONFIG, "name": "ours"}, headers=as_ci)
    await studio.until(other.json()["id"], "completed")
    everything = (await studio.get("activity", limit=10_000))["data"]
    assert [row["position"] for row in everything] == sorted((row["position"] for row in everything), reverse=True)
    created = next(row for row in everything if row["training"] == other.json()["id"] and row["actor"] == "token:ci")
    assert (created["type"], created["training_name"]) == ("TrainingCreated", "ours")
    assert {row["stream"] for row in everything} >= {"catalog", f"control-{ID}"}
    page = (await studio.get("activity", limit=2, before=created["position"]))["data"]
    assert page == [row for row in everything if row["position"] < created["position"]][:2]
    whole = await studio.get("activity", limit=10_000)
    assert {"token:ci", "launcher", "trainer"} <= set(whole["actors"])
    for actor, kind in (("token:ci", "training"), ("launcher", "catalogue"), ("trainer", "training"), ("token", None)):
        wanted = {"actor": actor, **({"kind": kind} if kind else {})}
        found = (await studio.get("activity", limit=10_000, **wanted))["data"]
        stream = {"training": ("control-", "training-"), "catalogue": "catalog", None: ""}[kind]
        assert found == [
            row
            for row in whole["data"]
            if f"{row['actor']}:".startswith(f"{actor}:") and row["stream"].startswith(stream)
        ], (actor, kind)
        assert found, (actor, kind)


async def test_what_vouches_for_somebody_is_worth_nothing_without_the_dashboards_token(studio: Client) -> None:
    seen, token = await opened(studio, bearer(studio, "user:ada"))
    assertion = seen[ACTOR_HEADER.lower()]
    access = studio.server.studio.access
    owners = studio.server.studio.settings.token_file.read_text().strip()
    for other in (None, owners, access.grant("token:ci"), "wrong"):
        headers = {ACTOR_HEADER: assertion, **({"Authorization": f"Bearer {other}"} if other else {})}
        for path in ("/", "/echo/", "/healthz", f"/api/v1/trainings/{ID}"):
            answer = await studio.http.get(path, headers=headers)
            assert answer.status_code == 403, path
            assert ACTOR_HEADER in answer.json()["detail"]
    # Nor does it open a door that is shut, as a session or as a token.
    for headers in ({"Cookie": f"saestudio={assertion}"}, {"Authorization": f"Bearer {assertion}"}):
        answer = await studio.http.get("/healthz", headers={"Host": "attacker.example", **headers})
        assert answer.status_code == 401
    assert access.vouched(token, assertion) == "user:ada"


async def test_the_dashboard_itself_cannot_say_who_somebody_is(studio: Client) -> None:
    seen, token = await opened(studio, bearer(studio, "user:ada"))
    name, _, signature = seen[ACTOR_HEADER.lower()].rpartition(".")
    session = studio.server.studio.access.redeem(studio.server.studio.access.new_code())
    elsewhere = Access("another token", "user:me").vouch(name)
    forged = (f"user%3Abob.{signature}", f"{name}.{signature[:-1]}", name, ".", "", "\u00e9.\u00e9", session, elsewhere)
    before = await done(studio)
    for assertion in forged:
        headers = {"Authorization": f"Bearer {token}", ACTOR_HEADER: (assertion or "").encode("latin-1")}
        answer = await studio.http.post(
            f"/api/v1/trainings/{ID}/control", json={"action": "pause"}, headers=list(headers.items())
        )
        assert answer.status_code == 403, assertion
    gateway = Gateway(studio.server.url, token)
    with pytest.raises(ApiRefused, match=ACTOR_HEADER):
        await gateway.acting_for(forged[0] or "").control(ID, "pause")
    await gateway.close()
    assert await done(studio) == before


async def test_a_browser_cannot_send_the_header_itself(studio: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    vouched = studio.server.studio.access.vouch("user:bob")
    cookie = {"Cookie": f"saestudio={studio.server.studio.access.redeem(studio.server.studio.access.new_code())}"}
    answer = await studio.http.get("/echo/", headers={**cookie, ACTOR_HEADER: vouched})
    assert answer.status_code == 403

    # Should it get past the gate all the same, the dashboard still sees ours alone.
    monkeypatch.setattr("core.server.gate.ACTOR_HEADER", "X-No-Such-Header")
    seen: list[list[Any]] = (await studio.http.get("/echo/", headers={**cookie, ACTOR_HEADER: vouched})).json()[
        "headers"
    ]
    url = studio.server.url.replace("http", "ws") + "/ws"
    async with connect(url, additional_headers={**cookie, ACTOR_HEADER: vouched}, proxy=None) as socket:
        await socket.send("origin")
        over_socket: list[list[Any]] = json.loads(await socket.recv())
    ours = studio.server.studio.access.vouch(await user_of(studio))
    for headers in (seen, over_socket):
        assert [value for name, value in headers if name == ACTOR_HEADER.lower()] == [ours]
