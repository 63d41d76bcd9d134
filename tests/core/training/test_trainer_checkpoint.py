"""A checkpoint is whole or it is not there, and a damaged one is never believed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from core.training.checkpoint import (
    Checkpoints,
    DamagedCheckpoint,
    Snapshot,
    load,
    random_state,
    restore_random_state,
)


def _snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "sae-0": {"W": torch.randn(4, 3, generator=generator), "since": torch.tensor([1, 2**40])},
        "optimiser-0": {"empty": torch.zeros(0, dtype=torch.int64), "turned": torch.arange(6.0).reshape(2, 3).T},
    }
    return Snapshot(step, {"seconds": 0.1 + step, "nested": {"list": [1, 2.5e-17, None]}}, tensors)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", kept=2)


def test_what_was_saved_comes_back_bit_by_bit(checkpoints: Checkpoints) -> None:
    saved = checkpoints.save(_snapshot(7))
    assert saved.path.name == "step-00000007"
    assert saved.size == sum(file.stat().st_size for file in saved.path.iterdir())
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.state) == (7, _snapshot(7).state)
    for file, tensors in _snapshot(7).tensors.items():
        assert found.tensors[file].keys() == tensors.keys()
        assert all(torch.equal(found.tensors[file][name], tensor) for name, tensor in tensors.items())


def test_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 15, 20):
        checkpoints.save(_snapshot(step))
    assert checkpoints.prune({}) == [5, 10]
    assert checkpoints.steps() == [15, 20]
    assert checkpoints.prune({}) == []


def test_the_best_is_kept_until_there_is_a_better_one(checkpoints: Checkpoints) -> None:
    fvu = {7: 0.01, 5: 0.2, 10: 0.3}  # Step 7 was evaluated and not saved.
    for step in (5, 10, 15):
        checkpoints.save(_snapshot(step))
    assert checkpoints.prune(fvu) == []
    checkpoints.save(_snapshot(20))
    assert checkpoints.prune(fvu) == [10]
    assert checkpoints.prune({**fvu, 20: 0.1}) == [5]
    assert checkpoints.steps() == [15, 20]


@pytest.mark.parametrize("file", ["sae-0.safetensors", "optimiser-0.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(
    checkpoints: Checkpoints, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(_snapshot(5))
    path = checkpoints.save(_snapshot(10)).path / file
    content = bytearray(path.read_bytes())
    match damage:
        case "flipped":
            place = content.index(b"seconds") + 11 if file == "state.json" else len(content) - 3
            content[place] ^= 1
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case _:
            path.unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert checkpoints.steps() == [5]
    assert "set aside" in caplog.text
    assert file in caplog.text
    assert path.parent.with_name(".damaged-step-00000010").is_dir()


def test_there_may_be_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.prune({}) == []
    checkpoints.tidy()


def test_a_step_that_comes_again_replaces_its_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(_snapshot(5))
    changed = _snapshot(5)
    changed.state["seconds"] = 99
    checkpoints.save(changed)
    found = checkpoints.newest()
    assert found is not None
    assert found.state["seconds"] == 99
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-00000005"]


def test_a_write_that_fails_leaves_what_was_there(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(_snapshot(5))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoints.save(_snapshot(10))
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-00000005"]


def test_a_crash_while_writing_is_undone_at_the_next_start(checkpoints: Checkpoints) -> None:
    checkpoints.save(_snapshot(5))
    checkpoints.save(_snapshot(10))
    (checkpoints.folder / ".draft-step-00000015").mkdir()
    (checkpoints.folder / ".draft-step-00000015" / "sae-0.safetensors").write_bytes(b"half")
    # The moment between the two renames of a replacement: the old one was moved, the new one is still a draft.
    checkpoints.path(10).rename(checkpoints.folder / ".old-step-00000010")
    checkpoints.tidy()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 10
    assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ["step-00000005", "step-00000010"]


def test_a_newer_format_is_refused_by_its_number(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(_snapshot(5)).path
    state = json.loads((path / "state.json").read_text())
    from core.training import checkpoint

    del state["digest"]
    state["format"] = 99
    state["digest"] = checkpoint._digest(state)
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DamagedCheckpoint, match="99"):
        load(path)


def test_every_random_generator_goes_on_where_it_was() -> None:
    facts, tensors = random_state()
    facts = json.loads(json.dumps(facts))
    first = (random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(())))
    restore_random_state(facts, tensors)
    assert (random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))) == first
