"""The server with the trainer that people get: a real model's activations, in a process that the server starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from server_harness import Client, serving, there
from tiny_models import make_model

from core.server.launcher import LocalProcess


def write_corpus(path: Path) -> str:
    """40 documents of some thousand characters."""
    words = ("def", "return", "self", "import", "class", "value", "for", "in", "if", "not", "None", "True", "dict")
    with path.open("w") as file:
        for number in range(40):
            text = " ".join(words[(number * 7 + index * index) % len(words)] for index in range(800))
            file.write(json.dumps({"text": text}) + "\n")
    return str(path)


def request(corpus: str, **config: object) -> dict[str, object]:
    small = {"total_steps": 6, "batch_size": 64, "latent_dim": 256, "k": 8, "device": "cpu", "log_interval": 2}
    return {"config": {"model": "demo", "datasets": [corpus], **small, **config}}


async def train(client: Client, corpus: str) -> str:
    answer = await client.http.post("/api/v1/trainings", json=request(corpus), timeout=90)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@pytest.mark.slow
async def test_a_data_set_by_its_path_is_inspected_registered_and_trained_on_to_the_end(tmp_path: Path) -> None:
    corpus = await asyncio.to_thread(write_corpus, tmp_path / "corpus.jsonl")
    async with serving(tmp_path / "data", LocalProcess()) as client:
        training = await train(client, corpus)
        datasets = {one["dataset_id"]: one for one in (await client.get("datasets"))["data"]}
        assert (datasets[corpus]["format"], datasets[corpus]["documents"]) == ("jsonl", 40)
        row = await client.until(training, "completed", timeout=100)
        assert (row["step"], row["device"]) == (6, "cpu")
        assert 0 < row["fvu"] < 10
        assert row["saes"][0]["layer"] == 2
        metrics = (await client.get(f"trainings/{training}/metrics"))["data"]
        assert [one["step"] for one in metrics] == [1, 2, 3, 4, 5, 6]
        (checkpoint,) = (await client.get(f"trainings/{training}/checkpoints"))["data"]
        assert there(Path(checkpoint["path"]) / "state.json")
        assert (await client.get(f"trainings/{training}/logs"))["data"]
        # The speed of this training is what the next one's time is estimated from.
        checked = await client.http.post("/api/v1/trainings/check", json=request(corpus))
        assert checked.json()["estimate"]["seconds"] > 0


@pytest.mark.slow
async def test_a_model_of_another_family_is_inspected_by_its_folder_and_trained_on_like_the_one_that_ships(
    tmp_path: Path,
) -> None:
    corpus = await asyncio.to_thread(write_corpus, tmp_path / "corpus.jsonl")
    folder = await asyncio.to_thread(make_model, tmp_path / "tiny-llama", "llama", bos=True)
    wanted = request(corpus, model=str(folder), training_layers=[0, 2], hook_types=["mlp_out"], latent_dim=64, k=4)
    async with serving(tmp_path / "data", LocalProcess()) as client:
        answer = await client.http.post("/api/v1/trainings", json=wanted, timeout=90)
        assert answer.status_code == 201, answer.text
        row = await client.until(answer.json()["id"], "completed", timeout=100)
        models = {one["model_id"]: one for one in (await client.get("models"))["data"]}
    assert (models[str(folder)]["family"], models[str(folder)]["layers"]) == ("llama", 3)
    assert (row["config"]["hidden_dim"], row["config"]["context_size"]) == (16, 32)
    assert [(sae["layer"], sae["hook"]) for sae in row["saes"]] == [(0, "mlp_out"), (2, "mlp_out")]
    assert row["step"] == 6


@pytest.mark.slow
async def test_a_trainer_that_cannot_read_its_text_fails_with_one_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", LocalProcess()) as client:
        answer = await client.http.post("/api/v1/trainings", json=request("words"))
        training = answer.json()["id"]
        row = await client.until(training, "failed", timeout=100)
        assert "/nowhere/words" in row["reason"]
        assert "Traceback" not in row["reason"]
