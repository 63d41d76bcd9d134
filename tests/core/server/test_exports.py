"""A training's SAEs are downloaded as other programs load them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from server_harness import Client, names

from core import run as runs
from core.export import exported, write
from core.server.api import downloads

pytestmark = pytest.mark.slow


def real_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """What a trainer of two SAEs would have saved in place of what the fake one did."""
    files, rng = {}, np.random.default_rng(0)
    for index in range(2):
        shapes = {"W_enc": (24, 6), "W_dec": (24, 6), "b_enc": (24,), "b_dec": (6,)}
        tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        name = f"sae-{index}.safetensors"
        save_file(tensors, folder / name)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        files[name] = {"size": (folder / name).stat().st_size, "sha256": digest}
    scale = {"mode": "expected_average_only_in", "scale": 2.0, "variance": 1.0, "mean_ratio": 0.0}
    saes = [{"layer": layer, "hook": "resid_post", "normalisation": scale} for layer in (1, 2)]
    state = {"config": config, "saes": saes, "step": 2, "files": files}
    (folder / "state.json").write_text(json.dumps(state))


async def trained(client: Client) -> tuple[str, Path]:
    training = await client.create(total_steps=2, training_layers=[1, 2], name="a/b", k=3)
    row = await client.until(training, "completed")
    (checkpoint,) = (await client.get(f"trainings/{training}/checkpoints"))["data"]
    await asyncio.to_thread(real_checkpoint, Path(checkpoint["path"]), row["config"])
    return training, Path(checkpoint["path"])


def files_in(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        return {member.name: read.extractfile(member).read() for member in read}  # type: ignore[union-attr]


def not_empty(*_: object, **__: object) -> None:
    raise OSError(39, "Directory not empty")


async def test_an_export_is_what_the_command_line_writes_and_leaves_nothing_behind(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, checkpoint = await trained(client)
    path = f"/api/v1/trainings/{training}/checkpoints/2/export?format=saelens"
    answer = await client.http.get(path)
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert 'filename="a_b-step-2-saelens.tar"' in answer.headers["content-disposition"]
    settings = client.server.studio.settings
    spec = await asyncio.to_thread(runs.read, settings.run_folder(training))
    wanted: dict[str, bytes] = {}
    for sae in exported(checkpoint, spec):
        folder = await asyncio.to_thread(write, sae, tmp_path / "out")
        for file in ("cfg.json", "sae_weights.safetensors"):
            wanted[f"{training}-{checkpoint.name}/{sae.name}/{file}"] = (folder / file).read_bytes()
    assert files_in(answer.content) == wanted
    assert len(wanted) == 4
    # Whatever becomes of the answer from its first byte on.
    async with client.http.stream("GET", path) as begun:
        assert begun.status_code == 200
        assert names(settings.exports) == set()
    with monkeypatch.context() as network:
        network.setattr(os, "rmdir", not_empty)
        assert files_in((await client.http.get(path)).content) == wanted


async def test_as_safetensors_an_sae_is_one_file_that_describes_itself(client: Client, tmp_path: Path) -> None:
    training, _ = await trained(client)
    path = f"/api/v1/trainings/{training}/checkpoints/2/export?format="
    answer = await client.http.get(f"{path}safetensors")
    found = files_in(answer.content)
    assert [Path(name).name for name in found] == ["L1.resid_post.safetensors", "L2.resid_post.safetensors"]
    file = tmp_path / "one.safetensors"
    await asyncio.to_thread(file.write_bytes, next(iter(found.values())))
    assert load_file(file)["W_enc"].shape == (6, 24)
    with safe_open(file, framework="np") as read:
        described = json.loads(read.metadata()["config"])
    assert (described["architecture"], described["k"]) == ("topk", 3)
    assert described["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert (
        await client.http.get(f"/api/v1/trainings/{training}/checkpoints/2/export?format=pickle")
    ).status_code == 400


async def test_what_cannot_be_exported_is_refused_in_a_sentence_before_anything_is_sent(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, checkpoint = await trained(client)
    path = f"/api/v1/trainings/{training}/checkpoints/2/export"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(downloads, "write", full)
        answer = await client.http.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (
            507, "The export cannot be written: No space left on device."
        )  # fmt: skip
    weights = checkpoint / "sae-1.safetensors"
    data = bytearray(await asyncio.to_thread(weights.read_bytes))
    data[-1] ^= 1
    await asyncio.to_thread(weights.write_bytes, data)
    damaged = await client.http.get(path)
    assert (damaged.status_code, "sae-1.safetensors is damaged" in damaged.json()["detail"]) == (409, True)
    await asyncio.to_thread(shutil.rmtree, checkpoint)
    gone = await client.http.get(path)
    assert (gone.status_code, "are gone from" in gone.json()["detail"]) == (404, True)
    assert (await client.http.get(path.replace("/2/", "/3/"))).status_code == 404
    assert names(client.server.studio.settings.exports) == set()
