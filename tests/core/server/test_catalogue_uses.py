"""The catalogue over HTTP: who registered what, which trainings and templates use it, and what is removed from it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from server_harness import TINY, Client

from events.streams import Append


async def test_the_catalogue_tells_what_uses_it_by_the_name_that_was_given(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await client.create(k=4)
    await client.create(k=4, model=TINY.source)
    bodies = ({"model": "tiny", "datasets": ["words", "elsewhere"]}, {"datasets": ["words"]}, {"model": "unheard"})
    for number, config in enumerate(bodies):
        answer = await client.http.post("/api/v1/templates", json={"name": f"t{number}", "config": config})
        assert answer.status_code == 201, answer.text
    found = await client.get("catalogue/uses")
    tiny, words = found["models"]["tiny"], found["datasets"]["words"]
    assert tiny["trainings"] == {"tiny": 1, TINY.source: 1}
    assert tiny["templates"] == {"tiny": 1}
    assert (words["trainings"], words["templates"]) == ({"words": 2}, {"words": 2})
    assert tiny["registered_at"] > 0 and tiny["registered_by"] is None
    assert found["models"]["demo"]["registered_by"] == "launcher"
    assert found["models"]["demo"]["trainings"] == {}
    # What is deleted uses nothing any more.
    await client.http.delete(f"/api/v1/templates/{answer.json()['id']}")
    await client.until(first, "completed")
    assert (await client.http.delete(f"/api/v1/trainings/{first}")).status_code == 200
    assert (await client.get("catalogue/uses"))["models"]["tiny"]["trainings"] == {TINY.source: 1}
    assert (await client.get("catalogue/inspections"))["data"] == []
    # A path is the same however it is written.
    here = msgspec.structs.replace(TINY, model_id="here", source=str(tmp_path / "here"))
    await asyncio.wrap_future(client.server.studio.store.append(Append("catalog", [here])))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    written = "./here"
    config = {"model": written, "datasets": ["words"]}
    assert (await client.http.post("/api/v1/templates", json={"name": "near", "config": config})).status_code == 201
    assert (await client.get("catalogue/uses"))["models"]["here"]["templates"] == {written: 1}


async def test_what_is_removed_comes_back_as_it_was_and_its_trainings_go_on(client: Client) -> None:
    async def ask(what: str, kind: str, id: str) -> tuple[int, str]:
        answer = await client.http.post(f"/api/v1/catalogue/{what}", json={"kind": kind, "id": id})
        return answer.status_code, answer.json().get("detail", "")

    async def ids() -> set[str]:
        return {one["model_id"] for one in (await client.get("models"))["data"]}

    started = await client.create(k=4)
    uses = (await client.get("catalogue/uses"))["models"]
    assert (uses["tiny"]["removable"], uses["demo"]["removable"]) == (True, False)
    assert await ask("remove", "model", "demo") == (
        409,
        "demo ships with SAE Studio, which registers it at every start: it cannot be removed.",
    )
    assert (await ask("restore", "model", "tiny")) == (409, "tiny is in the catalogue already.")
    for id in ("tiny", "words"):
        assert await ask("remove", "dataset" if id == "words" else "model", id) == (200, "")
    assert await ids() == {"demo"}
    assert await ask("remove", "model", "tiny") == (404, "There is no registered model 'tiny'.")
    assert await ask("restore", "dataset", "tiny") == (404, "There is no removed data set 'tiny'.")
    assert (await client.http.post("/api/v1/catalogue/remove", json={"kind": "x", "id": "y"})).status_code == 422
    await client.until(started, "completed")
    assert await ask("restore", "model", "tiny") == (200, "")
    assert (
        next(one for one in (await client.get("models"))["data"] if one["model_id"] == "tiny")["source"] == TINY.source
    )
    told = [one["type"] for one in (await client.get("activity"))["data"]]
    newest = [kind for kind in told if kind.startswith(("Model", "Dataset"))][:3]
    assert newest == ["ModelRegistered", "DatasetRemoved", "ModelRemoved"]
