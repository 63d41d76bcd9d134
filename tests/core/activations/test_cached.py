"""What is kept on disk is what the model gives, to the bit, and of nothing else than what was asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT

from core.activations import cached, reading
from core.activations.buffer import ActivationBuffer
from core.activations.cached import CachedPasses
from core.activations.models import load_model
from core.activations.reading import ActivationReader
from core.activations.stored import open_folder
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered

PAIRS = [(0, "mlp_out"), (1, "resid_post")]
BATCH = 64


@pytest.fixture(scope="module")
def lm(llama_folder):
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture(scope="module")
def rows(lm, jsonl_corpus, tmp_path_factory):
    entry = DatasetRegistered(dataset_id="prose", source=str(jsonl_corpus), format="jsonl")

    shorter = tmp_path_factory.mktemp("text") / "shorter.jsonl"
    shorter.write_text("".join(jsonl_corpus.read_text().splitlines(keepends=True)[:-1]))
    other = DatasetRegistered(dataset_id="prose", source=str(shorter), format="jsonl")

    def make(context: int = CONTEXT, data_seed: int = 0, other_text: bool = False):
        cache = tmp_path_factory.getbasetemp() / "cached-tokens"
        return open_rows(
            lm, [other if other_text else entry], split="train", context_size=context, cache=cache, data_seed=data_seed
        )

    return make


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Which hooks the model was run for, once for each pass."""
    seen: list[tuple] = []
    real = reading.capture

    def counted(lm, tokens, pairs):
        seen.append(tuple(pairs))
        return real(lm, tokens, pairs)

    monkeypatch.setattr(reading, "capture", counted)
    return seen


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def passes(lm, rows, tmp_path: Path, told: list[str]) -> Callable[..., CachedPasses]:
    def make(
        pairs=PAIRS, *, model=lm, per_pass: int = 4, device_name: str = "A processor", **which: Any
    ) -> CachedPasses:
        reader = ActivationReader(model, rows(**which), pairs, per_pass)
        return CachedPasses(reader, tmp_path / "kept", device_name, told.append)

    return make


def batches(reader, count: int, state: dict | None = None) -> tuple[list, dict]:
    buffer = ActivationBuffer(reader, batch_size=BATCH, total_tokens=40 * BATCH, data_seed=5)
    if state is not None:
        buffer.restore(json.loads(json.dumps(state)))
    return [buffer.next_batch() for _ in range(count)], buffer.state()


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[pair], b[pair]) for a, b in zip(one, other, strict=True) for pair in PAIRS
    )


def test_batches_are_the_same_to_the_bit_and_the_model_runs_once(lm, rows, passes, runs, told) -> None:
    plain, _ = batches(ActivationReader(lm, rows(), PAIRS, 4), 40)
    asked = len(runs)
    assert same(batches(passes(), 40)[0], plain)
    assert len(runs) == 2 * asked
    assert same(batches(passes(), 40)[0], plain)
    assert len(runs) == 2 * asked
    assert told == []


def test_what_is_served_comes_from_the_disk(passes, runs) -> None:
    """The negative control: another value there is another batch."""
    before, _ = batches(passes(), 40)
    path = next(passes().folder.glob("L1.resid_post/*.safetensors"))
    values = load_file(path)["x"] + 1
    save_file({"x": values}, path, metadata={"sha256": cached._digest(values)})
    after, _ = batches(passes(), 40)
    assert not same(before, after)


def test_a_training_goes_on_the_same_with_and_without_it(lm, rows, passes) -> None:
    plain = ActivationReader(lm, rows(), PAIRS, 4)
    whole, _ = batches(plain, 40)
    _, state = batches(plain, 23)
    assert same(batches(passes(), 17, state)[0], whole[23:])
    _, state = batches(passes(), 31)
    assert same(batches(plain, 9, state)[0], whole[31:])
    assert same(batches(passes(), 9, state)[0], whole[31:])


def test_only_the_hooks_that_are_not_kept_are_asked_of_the_model(passes, runs) -> None:
    passes().read(3)
    runs.clear()
    more = [(1, "resid_post"), (2, "resid_pre")]
    found = passes(more).read(3)
    assert runs == [((2, "resid_pre"),)]
    assert list(found) == more
    runs.clear()
    assert torch.equal(passes().read(3)[PAIRS[0]], passes(PAIRS[:1]).read(3)[PAIRS[0]])
    assert runs == []


def test_another_model_text_order_context_device_or_size_of_pass_is_not_mixed_up_with_it(lm, passes, runs) -> None:
    folders = {passes().folder}
    weight = lm.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    before = weight.clone()
    weight.mul_(1.01)
    try:
        folders.add(passes().folder)
    finally:
        weight.copy_(before)
    folders |= {passes(context=CONTEXT // 2).folder, passes(data_seed=1).folder, passes(per_pass=5).folder}
    folders |= {passes(device_name="Another").folder, passes(other_text=True).folder}
    assert len(folders) == 7
    assert passes().folder in folders
    manifest = json.loads((passes().folder / "manifest.json").read_text())
    assert manifest == passes().manifest
    assert (manifest["context_size"], manifest["dtype"], manifest["rows_per_pass"]) == (CONTEXT, "float32", 4)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil", [_flip, lambda path: path.write_bytes(path.read_bytes()[:-5]), lambda path: path.write_bytes(b"")]
)
def test_a_damaged_file_is_made_anew(passes, runs, caplog, spoil) -> None:
    reader = passes()
    wanted = reader.read(2)
    path = reader.folder / "L1.resid_post" / "pass-00000002.safetensors"
    spoil(path)
    runs.clear()
    found = reader.read(2)
    assert all(torch.equal(found[pair], wanted[pair]) for pair in PAIRS)
    assert runs == [((1, "resid_post"),)]
    assert "made anew" in caplog.text
    reader.read(2)
    assert len(runs) == 1


def test_a_full_disk_turns_it_off_with_a_sentence_and_all_goes_on(lm, rows, passes, told, runs, monkeypatch) -> None:
    plain, _ = batches(ActivationReader(lm, rows(), PAIRS, 4), 40)
    real, left = cached.save_file, 5

    def full(tensors, path, **more) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, **more)

    monkeypatch.setattr(cached, "save_file", full)
    reader = passes()
    assert same(batches(reader, 40)[0], plain)
    assert told == [
        f"No more activations are kept in {reader.folder} ([Errno 28] No space left on device); training goes on"
        " without."
    ]
    kept = sorted(reader.folder.rglob("*pass*"))
    assert len(kept) == 5
    assert all(file.suffix == ".safetensors" and not file.name.startswith(".") for file in kept)
    # What is kept is read all the same.
    runs.clear()
    reader.read(0)
    assert runs == []


def test_a_disk_that_is_nearly_full_is_left_to_those_who_need_it_more(passes, told, monkeypatch) -> None:
    class Usage:
        free = cached.RESERVE + 10

    monkeypatch.setattr(cached.shutil, "disk_usage", lambda path: Usage)
    reader = passes()
    reader.read(0)
    assert len(told) == 1
    assert "only 1.1 GB are free" in told[0]
    assert not list(reader.folder.rglob("*.safetensors"))


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(lm, rows, tmp_path, told) -> None:
    (tmp_path / "kept").write_text("a file")
    reader = CachedPasses(ActivationReader(lm, rows(), PAIRS, 4), tmp_path / "kept", "A processor", told.append)
    assert reader.read(0)
    assert len(told) == 1


def test_what_is_kept_of_a_hook_is_a_folder_of_activations(passes) -> None:
    reader = passes()
    found = torch.cat([reader.read(number)[PAIRS[1]] for number in range(12)])
    rows = open_folder(reader.folder / "L1.resid_post")
    assert (rows.facts.width, rows.facts.rows) == (16, len(found))
    assert torch.equal(torch.from_numpy(rows.read(0, len(found))), found)


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list((tmp_path / "kept").rglob(f".*.{os.getpid()}"))
