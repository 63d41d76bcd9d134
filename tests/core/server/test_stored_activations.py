"""A folder of activations is trained on through the API: looked at, refused with a reason, trained to the end."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from server_harness import Client, serving
from stored_folders import make_folder

from core.server.launcher import LocalProcess

SMALL: dict[str, Any] = {"latent_dim": 96, "k": 4, "batch_size": 64, "total_steps": 30, "device": "cpu"}


async def check(client: Client, folder: Path, **config: Any) -> Any:
    answer = await client.http.post(
        "/api/v1/trainings/check", json={"config": {"activations": str(folder), **SMALL, **config}}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_check_looks_into_the_folder_and_says_what_is_wrong(client: Client, tmp_path: Path) -> None:
    await asyncio.to_thread(make_folder, tmp_path / "kept", [700, 500])
    found = await check(client, tmp_path / "kept")
    assert found["problems"] == []
    assert (found["config"]["hidden_dim"], found["config"]["model"]) == (16, "")
    assert found["estimate"]["memory"]["language_model"] == 0
    refused = await check(client, tmp_path / "kept", model="tiny", batch_size=2_000)
    assert {one["field"]: one["message"] for one in refused["problems"]} == {
        "model": "model does not apply to a folder of activations; leave it out, or leave activations out.",
        "batch_size": "batch_size is 2,000; kept has 1,140 rows to train on, and 60 that are held out.",
    }
    (tmp_path / "bad").mkdir()
    await asyncio.to_thread(save_file, {"y": torch.zeros(3, 3)}, tmp_path / "bad" / "a.safetensors")
    (problem,) = (await check(client, tmp_path / "bad"))["problems"]
    assert problem["field"] == "activations"
    assert problem["message"].endswith("a.safetensors holds no 'x' of shape (rows, n); it holds y.")
    (problem,) = (await check(client, tmp_path / "nowhere"))["problems"]
    assert problem["message"] == f"There is no folder '{tmp_path / 'nowhere'}'."


@pytest.mark.slow
async def test_a_training_on_a_folder_runs_to_its_end_and_is_exported(tmp_path: Path) -> None:
    await asyncio.to_thread(make_folder, tmp_path / "kept", [700, 500], dtype=torch.bfloat16)
    async with serving(tmp_path / "data", LocalProcess()) as client:
        body = {"config": {"activations": str(tmp_path / "kept"), **SMALL}}
        answer = await client.http.post("/api/v1/trainings", json=body)
        assert answer.status_code == 201, answer.text
        training = answer.json()["id"]
        row = await client.until(training, "completed", timeout=100)
        assert (row["name"], row["step"], row["config"]["activations"]) == ("kept_TopK", 30, str(tmp_path / "kept"))
        (made,) = [one for one in (await client.get(f"trainings/{training}/evaluations"))["data"] if one["step"] == 30]
        assert (made["tokens"], made["loss_recovered"]) == (60, None)
        listed = (await client.get("trainings", q="kept"))["data"]
        assert [one["id"] for one in listed] == [training]
        exported = await client.http.get(f"/api/v1/trainings/{training}/checkpoints/30/export")
        with tarfile.open(fileobj=io.BytesIO(exported.content)) as archive:
            assert sorted(Path(name).name for name in archive.getnames()) == ["cfg.json", "sae_weights.safetensors"]
