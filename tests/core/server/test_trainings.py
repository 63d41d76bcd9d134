"""Trainings over HTTP: created, watched, controlled, edited, deleted, refused with a reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server_harness import CONFIG, Client, names, there

from core import run as runs


async def test_a_created_training_runs_to_its_end_and_every_step_is_there_once(client: Client) -> None:
    training = await client.create(training_layers=[1, 2])
    row = await client.until(training, "completed")
    assert row["name"] == "tiny_words_TopK_L1-2"
    assert (row["step"], row["total_steps"], row["progress"]) == (40, 40, 1.0)
    assert row["config"]["k"] == 8
    assert row["actor"].startswith("user:")
    metrics = (await client.get(f"trainings/{training}/metrics"))["data"]
    assert [(one["step"], one["sae"]) for one in metrics] == [(step, sae) for step in range(1, 41) for sae in (0, 1)]
    assert set(metrics[0]) >= {"step", "sae", "loss", "l0_sparsity", "timestamp"}
    assert metrics[0]["l0_sparsity"] == 0.25
    last = await client.get(f"trainings/{training}/metrics", limit=3, order="desc", fields="loss", sae=1)
    assert [one["step"] for one in last["data"]] == [40, 39, 38]
    assert set(last["data"][0]) == {"step", "sae", "loss", "timestamp"}
    logs = await client.get(f"trainings/{training}/logs", limit=5)
    assert logs["data"][0]["message"] == "training from step 0"
    (checkpoint,) = (await client.get(f"trainings/{training}/checkpoints"))["data"]
    assert checkpoint["step"] == 40
    assert (await client.get(f"trainings/{training}/evaluations"))["data"] == []
    activity = (await client.get(f"trainings/{training}/activity"))["data"]
    assert [one["type"] for one in activity[::-1]][:2] == ["TrainingCreated", "TrainingLaunched"]


@pytest.mark.slow
async def test_pause_saves_and_ends_the_process_and_resume_goes_on_in_a_new_one(client: Client, launch) -> None:
    # It must not come to its end before it is paused.
    training = await client.create(total_steps=400, data_seed=10)
    await client.until(training, "running", step=3)
    answer = await client.control(training, "pause")
    assert answer.status_code == 202
    paused = await client.until(training, "paused")
    assert paused["pid"] is None
    assert await asyncio.to_thread(launch.started[0].wait, 60) == 0
    assert (await client.control(training, "pause")).json()["detail"] == "This training is paused already."
    resumed = await client.control(training, "resume")
    assert resumed.status_code == 202
    row = await client.until(training, "completed")
    assert "--resume" in launch.commands[1]
    assert row["step"] == 400
    metrics = await client.get(f"trainings/{training}/metrics")
    assert [one["step"] for one in metrics["data"]] == list(range(1, 401))
    assert metrics["position"] >= resumed.json()["position"]


async def test_a_stop_is_final_until_resumed_and_a_checkpoint_does_not_end_anything(client: Client) -> None:
    training = await client.create(total_steps=100_000)
    await client.until(training, "running", step=2)
    assert (await client.control(training, "checkpoint")).status_code == 202
    assert (await client.control(training, "stop")).status_code == 202
    row = await client.until(training, "stopped")
    reasons = {one["reason"] for one in (await client.get(f"trainings/{training}/checkpoints"))["data"]}
    assert "stop" in reasons
    assert 2 <= row["step"] < 100_000
    refused = await client.control(training, "stop")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "This training is stopped; there is nothing to stop."


async def test_a_failure_is_told_with_its_sentence(client: Client) -> None:
    training = await client.create(seed=13)
    row = await client.until(training, "failed")
    assert row["reason"] == "Thirteen is unlucky."


async def test_an_invalid_configuration_names_every_field_at_once(client: Client) -> None:
    config = {"model": "tiny", "datasets": [], "k": 900, "batch_size": "many", "nonsense": 1, "training_layers": [7]}
    answer = await client.http.post("/api/v1/trainings", json={"config": config, "retry_of": "0" * 14})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {one["field"] for one in problem["errors"]} == {
        "config.datasets", "config.k", "config.batch_size", "config.nonsense", "config.training_layers", "retry_of",
    }  # fmt: skip
    assert all(one["message"].endswith(".") for one in problem["errors"])
    assert (await client.get("trainings"))["data"] == []


async def test_a_check_tells_what_a_start_would_say_and_starts_nothing(client: Client) -> None:
    answer = await client.http.post("/api/v1/trainings/check", json={"config": CONFIG})
    checked = answer.json()
    assert (answer.status_code, checked["problems"]) == (200, [])
    assert checked["config"]["latent_dim"] == 1024
    assert checked["estimate"]["tokens"] == 40 * 64
    assert checked["estimate"]["memory_bytes"] == sum(checked["estimate"]["memory"].values())
    assert any(one["field"] == "total_steps" for one in checked["warnings"])
    wrong = await client.http.post("/api/v1/trainings/check", json={"config": {**CONFIG, "context_size": 4096}})
    assert wrong.json()["problems"] == [
        {"field": "context_size", "message": "context_size is 4,096; tiny reads at most 128 tokens."}
    ]
    assert wrong.json()["config"] is None
    assert (await client.get("trainings"))["data"] == []


async def test_a_model_that_is_neither_known_nor_there_is_refused_at_its_field(client: Client) -> None:
    answer = await client.http.post("/api/v1/trainings", json={"config": {**CONFIG, "model": "./no/such/folder"}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "config.model"
    assert "no/such/folder" in error["message"]


async def test_the_same_idempotency_key_creates_once_and_another_body_is_refused(client: Client) -> None:
    body = {"config": CONFIG}
    headers = {"Idempotency-Key": "once"}
    first, second = await asyncio.gather(
        *(client.http.post("/api/v1/trainings", json=body, headers=headers) for _ in range(2))
    )
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    other = await client.http.post("/api/v1/trainings", json={"config": CONFIG, "name": "x"}, headers=headers)
    assert other.status_code == 422
    assert (await client.get("trainings"))["counts"] in (
        {"queued": 1},
        {"starting": 1},
        {"running": 1},
        {"completed": 1},
    )


async def test_a_repeated_control_with_its_key_is_answered_as_the_first(client: Client) -> None:
    training = await client.create(total_steps=100_000)
    await client.until(training, "running", step=1)
    answers = [
        await client.http.post(
            f"/api/v1/trainings/{training}/control", json={"action": "stop"}, headers={"Idempotency-Key": "stop"}
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    await client.until(training, "stopped")


async def test_the_list_counts_truly_searches_and_sorts(client: Client) -> None:
    first = await client.create(name="alpha", total_steps=2)
    await client.until(first, "completed")
    second = await client.create(name="beta", seed=13)
    await client.until(second, "failed")
    page = await client.get("trainings", limit=1)
    assert [row["id"] for row in page["data"]] == [second]
    assert page["counts"] == {"completed": 1, "failed": 1}
    assert [row["name"] for row in (await client.get("trainings", q="ALPHA"))["data"]] == ["alpha"]
    assert [row["name"] for row in (await client.get("trainings", status="failed,paused"))["data"]] == ["beta"]
    assert [row["name"] for row in (await client.get("trainings", sort="name"))["data"]] == ["alpha", "beta"]
    for query in ({"status": "asleep"}, {"sort": "colour"}, {"limit": 0}, {"limit": "x"}, {"colour": "red"}):
        answer = await client.http.get("/api/v1/trainings", params=query)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == next(iter(query))


async def test_name_tags_and_note_can_be_changed_and_what_is_unchanged_makes_no_event(client: Client) -> None:
    training = await client.create(total_steps=1)
    await client.until(training, "completed")
    changes = {"name": "mine", "tags": ["good", "good", "kept"], "note": "why"}
    answer = await client.http.patch(f"/api/v1/trainings/{training}", json=changes)
    row = answer.json()
    assert (row["name"], row["tags"], row["note"]) == ("mine", ["good", "kept"], "why")
    head = client.server.studio.store.head
    again = await client.http.patch(f"/api/v1/trainings/{training}", json={"name": "mine"})
    assert again.status_code == 200
    assert client.server.studio.store.head == head
    empty = await client.http.patch(f"/api/v1/trainings/{training}", json={"name": ""})
    assert empty.status_code == 422
    assert empty.json()["errors"][0]["field"] == "name"


async def test_deleting_removes_the_checkpoints_hides_the_training_and_keeps_its_events(client: Client) -> None:
    training = await client.create(total_steps=100_000, checkpoint_interval=5)
    await client.until(training, "running", step=12)
    refused = await client.http.delete(f"/api/v1/trainings/{training}")
    assert refused.status_code == 409
    await client.control(training, "stop")
    await client.until(training, "stopped")
    folder = client.server.studio.settings.run_folder(training) / runs.CHECKPOINTS
    paths = names(folder)
    assert len(paths) >= 3
    deleted = await client.http.delete(f"/api/v1/trainings/{training}")
    assert deleted.status_code == 200
    assert set(deleted.json()["removed"]) == paths
    assert deleted.json()["bytes_freed"] > 0
    assert not there(folder)
    assert (await client.get("trainings"))["data"] == []
    assert (await client.http.get(f"/api/v1/trainings/{training}")).status_code == 404
    events = await client.get("events", stream=f"training-{training}", type="StepTrained")
    assert len(events["data"]) >= 12


@pytest.mark.slow
async def test_one_checkpoint_can_be_deleted_but_not_the_one_that_a_live_training_would_go_on_from(
    client: Client,
) -> None:
    training = await client.create(total_steps=100_000)
    path = f"/api/v1/trainings/{training}/checkpoints"

    async def saved(count: int) -> list[dict[str, Any]]:
        """The checkpoints, once there are so many."""
        assert (await client.control(training, "checkpoint")).status_code == 202
        async with asyncio.timeout(60), client.commits() as committed:
            while len(rows := (await client.get(f"trainings/{training}/checkpoints"))["data"]) < count:
                await committed.wait()
                committed.clear()
        return rows

    await client.until(training, "running", step=1)
    (only,) = await saved(1)
    refused = await client.http.delete(f"{path}/{only['step']}")
    assert refused.status_code == 409
    assert refused.json()["detail"] == "This training is running and would go on from its newest checkpoint."
    assert there(only["path"])
    _, oldest = await saved(2)
    assert oldest == only
    assert (await client.http.delete(f"{path}/{oldest['step']}")).status_code == 200
    assert not there(oldest["path"])
    assert (await client.http.get(f"{path}/{oldest['step']}")).status_code == 404
    assert (await client.http.delete(f"{path}/100000")).status_code == 404
    await client.control(training, "stop")
    await client.until(training, "stopped")
    newest = (await client.get(f"trainings/{training}/checkpoints"))["data"][0]
    assert (await client.http.delete(f"{path}/{newest['step']}")).status_code == 200


async def test_an_unknown_training_is_a_404_problem_everywhere(client: Client) -> None:
    for training in ("0" * 14, "nonsense", "..%2f..%2fetc"):
        for path in ("", "/metrics", "/logs", "/checkpoints", "/checkpoints/1", "/evaluations", "/activity"):
            answer = await client.http.get(f"/api/v1/trainings/{training}{path}")
            assert answer.status_code == 404, path
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await client.control(training, "pause")).status_code == 404
        assert (await client.http.delete(f"/api/v1/trainings/{training}")).status_code == 404


async def test_trainings_are_found_by_configuration_and_tag_with_true_counts(client: Client) -> None:
    first, second = await client.create(k=4, total_steps=1), await client.create(k=8, total_steps=1)
    await client.http.patch(f"/api/v1/trainings/{first}", json={"tags": ["wide", "kept"]})
    found = await client.get("trainings", where="k=4; model~tiny")
    assert [one["id"] for one in found["data"]] == [first]
    assert sum(found["counts"].values()) == 1
    assert found["tags"] == {"kept": 1, "wide": 1}
    assert [one["id"] for one in (await client.get("trainings", tags="wide,kept"))["data"]] == [first]
    await client.http.patch(f"/api/v1/trainings/{second}", json={"tags": ["wide, kept", "old"]})
    for tags, ids in (["wide, kept"], [second]), (["wide"], [first]), (["old", "wide, kept"], [second]):
        assert [one["id"] for one in (await client.get("trainings", tag=tags))["data"]] == ids
    grouped = await client.get("trainings", group="k", sort="created")
    assert [one["id"] for one in grouped["data"]] == [first, second]
