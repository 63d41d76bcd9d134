"""A training with a cache of its activations is the one without, the first time and every other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import history, small_model, specification
from test_trainer import Run

from core.activations import cached
from core.run import RunSpec
from core.training.checkpoint import load
from events.control import PauseRequested
from events.training import TrainingCompleted, TroubleReported

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunSpec]:
    model = small_model(tmp_path_factory.mktemp("models") / "small")
    data = tmp_path_factory.mktemp("data")
    return lambda **changed: specification(data, model, **changed)


def test_it_is_the_same_to_the_bit_with_resumes_and_without(spec: Callable[..., RunSpec]) -> None:
    plain = Run(spec())
    plain()
    first = Run(spec(cache=True))
    first()
    assert history(first.told) == history(plain.told)
    again = spec(cache=True)
    before = Run(again, at={8: PauseRequested()})
    before()
    after = Run(again, resume=True)
    after()
    assert history([*before.told, *after.told]) == history(plain.told)
    ends = [load(run.checkpoints / "step-00000020").tensors for run in (plain, after)]
    for file, tensors in ends[0].items():
        assert all(torch.equal(tensor, ends[1][file][name]) for name, tensor in tensors.items()), file
    (folder,) = (again.data_dir / "activations").iterdir()
    assert {entry.name for entry in folder.iterdir()} == {"manifest.json", "L1.resid_post", "L2.resid_post"}


def test_a_full_disk_is_told_on_the_card_and_the_training_completes(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached, "save_file", full)
    run = Run(spec(cache=True, data_seed=3))
    assert run() == "completed"
    assert len(run.of(TrainingCompleted)) == 1
    (trouble,) = run.of(TroubleReported)
    assert "No more activations are kept in" in trouble.message
    assert trouble.message.endswith("([Errno 28] No space left on device); training goes on without.")
    assert Path(trouble.message.split(" kept in ")[1].split(" (")[0]).is_dir()
