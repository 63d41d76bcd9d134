"""What holds for every operation of the API: its refusals, its description, its health, the log's events."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.ipc
import pytest
from server_harness import CONFIG, Client

from core.server.api.operation import MAX_BODY
from core.server.api.table import OPERATIONS
from events import backup
from events.event import now_us
from events.streams import Append
from events.training import StepTrained, TrainingResumed


def is_problem(answer: Any, status: int) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"].endswith((".", "?"))
    assert "Traceback" not in answer.text
    return True


async def test_a_body_that_is_not_what_is_asked_for_is_refused_by_kind(client: Client) -> None:
    post = client.http.post
    path = "/api/v1/trainings"
    json_type = {"Content-Type": "application/json"}
    assert is_problem(await post(path, content=b"{", headers=json_type), 400)
    assert is_problem(await post(path, content=b"\xff\xfe", headers=json_type), 400)
    assert is_problem(await post(path, content=b"[" * 100_000, headers=json_type), 400)
    assert is_problem(await post(path, content=b"[]", headers=json_type), 422)
    assert is_problem(await post(path, content=b"{}", headers=json_type), 422)
    assert is_problem(await post(path, content=b"config=1", headers={"Content-Type": "text/plain"}), 415)
    assert is_problem(await post(path), 415)
    assert is_problem(await post(path, content=b" " * (MAX_BODY + 1), headers=json_type), 413)

    async def endless():
        while True:
            yield b" " * 65_536

    # Nobody reads an endless body to its end.
    with pytest.raises(httpx.NetworkError):
        await post(path, content=endless(), headers=json_type)
    answer = await client.http.put(path, json={})
    assert is_problem(answer, 405)
    assert answer.headers["allow"] == "POST, GET"
    assert (await client.http.head(path)).status_code == 200
    assert is_problem(await client.http.get("/api/v2/trainings"), 404)
    assert is_problem(await post(path, json={"config": CONFIG}, headers={"Idempotency-Key": "k" * 256}), 400)
    answer = await post(path, json={"config": CONFIG, "nmae": "x"})
    assert is_problem(answer, 422)
    assert answer.json()["detail"] == "nmae is not a field of this request; did you mean name?"
    answer = await post(f"{path}/{'0' * 14}/control", json={"action": "explode"})
    assert is_problem(answer, 422)
    assert answer.json()["detail"] == "action must be one of checkpoint, pause, resume, stop, not 'explode'."


UNANSWERABLE = {
    "events?limit=10001": "limit",
    "events?after=-1": "after",
    "events?after=1&after=2": "after",
    "events?format=arrow&limit=5": "limit",
    "events?format=arrow&type=StepTrained,LogWritten": "type",
    "events?format=parquet": "format",
    "trainings/ID/metrics?limit=0": "limit",
    "trainings/ID/metrics?limit=1000001": "limit",
    "trainings/ID/metrics?order=up": "order",
    "trainings/ID/metrics?fields=loss,speed": "fields",
    "trainings/ID/metrics?points=1": "points",
    "trainings/ID/metrics?from_step=two": "from_step",
    "trainings/ID/logs?level=loud": "level",
    "trainings/ID/logs?before=": "before",
    "trainings/ID/activity?before=x": "before",
    "activity?kind=weather": "kind",
    "trainings?tags=a&tags=b": "tags",
}


async def test_a_query_that_cannot_be_answered_names_its_parameter(client: Client) -> None:
    training = await client.create(total_steps=1)
    await client.until(training, "completed")
    for path, field in UNANSWERABLE.items():
        answer = await client.http.get(f"/api/v1/{path.replace('ID', training)}")
        assert is_problem(answer, 400)
        assert [error["field"] for error in answer.json()["errors"]] == [field], path


async def test_health_tells_how_far_the_log_reaches(client: Client) -> None:
    health = (await client.http.get("/healthz")).json()
    store = client.server.studio.store
    assert health == {"status": "ok", "log_id": store.log_id, "head": store.head}


async def test_events_are_paged_filtered_and_true_up_to_their_position(client: Client) -> None:
    training = await client.create(total_steps=30)
    await client.until(training, "completed")
    whole: list[Any] = []
    after = 0
    while True:
        page = await client.get("events", after=after, limit=7)
        whole += page["data"]
        after = page["position"]
        if after == page["head"]:
            break
    assert [one["position"] for one in whole] == list(range(1, page["head"] + 1))
    steps = await client.get("events", stream=f"training-{training},nothing", type="StepTrained,LogWritten")
    assert [one["data"]["step"] for one in steps["data"] if one["type"] == "StepTrained"] == list(range(1, 31))
    assert steps["position"] == steps["head"]
    assert is_problem(await client.http.get("/api/v1/events", params={"after": 10**9}), 409)


async def test_events_come_as_arrow_in_pieces_with_what_they_are_true_at(client: Client) -> None:
    training = await client.create(total_steps=30)
    await client.until(training, "completed")
    store = client.server.studio.store

    async def arrow(**query: Any) -> Any:
        answer = await client.http.get("/api/v1/events", params={"format": "arrow", **query})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
        with pyarrow.ipc.open_stream(answer.content) as reader:
            table = reader.read_all()
        metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
        assert metadata == {"log_id": store.log_id, "position": str(min(query.get("upto", store.head), store.head))}
        return table

    steps, others = await arrow(type="StepTrained"), await arrow()
    assert steps["step"].to_pylist() == list(range(1, 31))
    assert str(steps.schema.field("loss").type) == "float"
    assert sorted(steps["position"].to_pylist() + others["position"].to_pylist()) == list(range(1, store.head + 1))
    paged = (await client.get("events", limit=10_000))["data"]
    cold = [one for one in paged if one["type"] != "StepTrained"]
    assert [json.loads(data) for data in others["data"].to_pylist()] == [one["data"] for one in cold]
    upto = steps["position"][9].as_py()
    assert (await arrow(type="StepTrained", upto=upto))["step"].to_pylist() == list(range(1, 11))
    assert (await arrow(type="StepTrained", after=upto))["step"].to_pylist() == list(range(11, 31))
    assert (await arrow(type="LogWritten", stream="nothing")).num_rows == 0
    assert is_problem(await client.http.get("/api/v1/events?format=arrow&after=1000000"), 409)


async def test_metrics_that_are_not_finite_are_null_and_a_resume_leaves_every_step_once(client: Client) -> None:
    training = await client.create(total_steps=5)
    await client.until(training, "completed")
    store = client.server.studio.store
    stream = f"training-{training}"
    claim = await asyncio.wrap_future(store.claim(stream))
    step = StepTrained(
        step=4, loss=float("nan"), loss_reconstruction=float("inf"), l0=1, l0_fraction=0.5, fvu=0.1,
        learning_rate=0.1, grad_norm=1, tokens=1, tokens_per_second=1,
    )  # fmt: skip
    events = [TrainingResumed(step=3), step]
    await client.server.studio.append(
        Append(stream, events, expected=claim.version, epoch=claim.epoch, occurred_at=[now_us()] * 2)
    )
    answer = await client.http.get(f"/api/v1/trainings/{training}/metrics")
    rows = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["data"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (rows[3]["loss"], rows[3]["loss_reconstruction"], rows[3]["l0_sparsity"]) == (None, None, 0.5)


async def test_a_long_history_comes_whole_and_down_sampled_with_its_spike(client: Client) -> None:
    training = await client.create(total_steps=1)
    await client.until(training, "completed")
    store = client.server.studio.store
    stream = f"training-{training}"
    claim = await asyncio.wrap_future(store.claim(stream))
    steps = [
        StepTrained(
            step=number, loss=99.0 if number == 7_777 else 1.0, loss_reconstruction=1, l0=1, l0_fraction=0.5, fvu=0.1,
            learning_rate=0.1, grad_norm=1, tokens=1, tokens_per_second=1,
        )
        for number in range(2, 12_001)
    ]  # fmt: skip
    await client.server.studio.append(Append(stream, steps, expected=claim.version, epoch=claim.epoch))
    rows = (await client.get(f"trainings/{training}/metrics", limit=1_000_000))["data"]
    assert [row["step"] for row in rows] == list(range(1, 12_001))
    few = (await client.get(f"trainings/{training}/metrics", points=100))["data"]
    assert len(few) <= 100
    assert max(row["loss"] for row in few) == 99.0
    assert len((await client.get(f"trainings/{training}/metrics"))["data"]) == 1_000


async def maintain(client: Client, name: str, body: Any = None) -> Any:
    """A maintenance job as it ended."""
    answer = await client.http.post(f"/api/v1/maintenance/{name}", json=body)
    assert answer.status_code == 202
    job = answer.json()
    async with client.commits() as committed:
        while (job := await client.get(f"maintenance/{job['id']}"))["status"] == "running":
            await asyncio.wait_for(committed.wait(), 60)
            committed.clear()
    return job


async def test_maintenance_rebuilds_and_verifies_while_the_server_runs(client: Client) -> None:
    training = await client.create()
    await client.until(training, "completed")
    before = await client.get(f"trainings/{training}")
    for name in ("rebuild", "verify"):
        job = await maintain(client, name)
        assert (job["status"], job["progress"]) == ("completed", 1.0)
    assert all(table["matches"] for table in job["verified"])
    assert {"trainings", "logs", "models"} <= {table["table"] for table in job["verified"]}
    assert {**await client.get(f"trainings/{training}"), "position": 0} == {**before, "position": 0}
    assert [job["name"] for job in (await client.get("maintenance"))["data"]] == ["verify", "rebuild"]
    lines = await client.get("events", stream="maintenance", type="LogWritten")
    assert lines["data"][0]["data"]["message"] == "rebuild began."
    assert is_problem(await client.http.get("/api/v1/maintenance/nothing"), 404)


async def test_a_full_disk_is_said_with_507_and_is_over_when_there_is_space(client: Client) -> None:
    store = client.server.studio.store
    wal = store.path.with_name(store.path.name + ".wal")
    body = {"name": "kept", "config": CONFIG}
    before = store.head
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk: no file of this process can grow.
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size if wal.exists() else 0, hard))
    try:
        refused = await client.http.post("/api/v1/templates", json=body)
        assert is_problem(refused, 507)
        assert refused.json()["detail"].startswith("The disk of the log is full: ")
        assert (await client.http.get("/api/v1/templates")).status_code == 200
        assert store.head == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (await client.http.post("/api/v1/templates", json=body)).status_code == 201
    assert [one["name"] for one in (await client.get("templates"))["data"]] == ["kept"]


async def test_a_backup_is_made_while_the_server_runs(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for asked, where in (({"folder": str(folder)}, folder), ({}, client.server.studio.settings.data_dir)):
        job = await maintain(client, "backup", asked)
        assert job["status"] == "completed", job["detail"]
        assert Path(job["folder"]).is_relative_to(where)
        manifest = backup.read(Path(job["folder"]))
        assert msgspec.convert(job["manifest"], backup.Manifest) == manifest
        assert manifest.log_id == client.server.studio.store.log_id
        assert 3 <= manifest.position <= client.server.studio.store.head
    refused = await client.http.post("/api/v1/maintenance/backup", json={"folder": "elsewhere"})
    assert is_problem(refused, 422)
    assert refused.json()["errors"][0]["message"] == "folder must be an absolute path, not 'elsewhere'."


async def test_a_damaged_projection_is_found_by_verify_and_healed_by_rebuild(client: Client) -> None:
    training = await client.create()
    await client.until(training, "completed")
    studio = client.server.studio
    await asyncio.wrap_future(studio.store.transact(lambda con: con.execute("DELETE FROM logs")))

    found = await maintain(client, "verify")
    assert [table["table"] for table in found["verified"] if not table["matches"]] == ["logs"]
    assert "rebuild them" in found["detail"]
    await maintain(client, "rebuild")
    assert all(table["matches"] for table in (await maintain(client, "verify"))["verified"])


async def test_a_data_set_is_inspected_registered_and_then_known(client: Client, tmp_path: Path) -> None:
    answer = await client.http.post("/api/v1/datasets", json={"source": str(tmp_path / "nothing")})
    assert is_problem(answer, 422)
    assert answer.json()["errors"][0]["field"] == "source"


async def test_devices_name_the_cpu_and_the_slots(client: Client) -> None:
    answer = await client.get("devices")
    assert answer["data"][0]["id"] == "cpu"
    assert answer["data"][0]["cores"] >= 1
    assert answer["slots"] >= 1


async def test_the_description_names_every_operation_and_every_answer_is_of_its_kind(client: Client) -> None:
    document = (await client.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(operation.method, operation.full_path) for operation in OPERATIONS}
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"], name
    metrics = document["paths"]["/api/v1/trainings/{id}/metrics"]["get"]
    assert {parameter["name"] for parameter in metrics["parameters"]} == {
        "id", "limit", "order", "sae", "from_step", "to_step", "points", "fields", "format",
    }  # fmt: skip
    assert all(operation["summary"] for methods in document["paths"].values() for operation in methods.values())
    training = await client.create(total_steps=2)
    await client.until(training, "completed")
    template = (await client.http.post("/api/v1/templates", json={"name": "t", "config": {}})).json()["id"]
    for operation in OPERATIONS:
        if operation.method != "GET":
            continue
        known = template if operation.path.startswith("templates/") else training
        path = operation.full_path.replace("{id}", known).replace("{step}", "2")
        answer = await client.http.get(path)
        if path.startswith("/api/v1/maintenance/"):
            assert answer.status_code == 404
            continue
        if path.endswith("/2/export"):
            # The stand-in for a trainer saves nothing that could be exported.
            assert answer.status_code == 409
            continue
        assert answer.status_code == operation.status, path
        if operation.answer is None:
            assert answer.headers["content-type"] in operation.downloads
            continue
        decoded = msgspec.json.decode(answer.content)
        assert set(decoded) == {field.encode_name for field in msgspec.structs.fields(operation.answer)}, path
        if operation.answer is not msgspec.Raw and "data" not in decoded:
            msgspec.json.decode(answer.content, type=operation.answer)
