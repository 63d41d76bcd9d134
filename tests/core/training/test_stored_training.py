"""A training on a folder of activations, from its start to its export, without any language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import history
from safetensors.torch import load_file, save_file
from stored_folders import make_folder
from test_trainer import Run

from core.activations.buffer import ActivationBuffer
from core.activations.stored import ActivationsError, open_folder
from core.config_rules import resolve
from core.export import exported, write
from core.run import RunSpec, read
from core.run import write as write_spec
from core.training.checkpoint import load
from core.training.stored import FolderChanged
from events.control import PauseRequested, TrainingCreated
from events.event import now_us
from events.ids import new_id
from events.training import EvaluationMade, StepTrained, TrainingConfig, TrainingStarted, sae_name

SMALL: dict[str, Any] = {
    "latent_dim": 96, "k": 4, "batch_size": 64, "total_steps": 40, "learning_rate": 3e-3, "checkpoint_interval": 10,
    "eval_interval": 0, "dead_token_threshold": 200, "device": "cpu",
}  # fmt: skip


def specification(tmp_path: Path, **changed: Any) -> RunSpec:
    folder = tmp_path / "kept"
    if not folder.exists():
        target_width = 12 if changed.get("architecture_type") in ("transcoder", "skip") else None
        make_folder(folder, [700, 500], target_width=target_width, dtype=torch.bfloat16)
    facts = open_folder(folder).facts
    config = resolve(TrainingConfig(activations=str(folder), **{**SMALL, **changed}), facts)
    created = TrainingCreated(name="A test", config=config, launcher="external")
    return RunSpec(
        id=new_id(), name="A test", config=config, stored=facts, data_dir=tmp_path, created_at=now_us(), created=created
    )


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_it_tells_all_that_a_training_tells_and_that_there_was_no_language_model(tmp_path: Path, kind: str) -> None:
    sparsity = {} if kind == "topk" else {"k": None, "target_l0": 0.04}
    spec = specification(tmp_path, architecture_type=kind, total_steps=150, **sparsity)
    run = Run(spec)
    assert run() == "completed"
    (started,) = run.of(TrainingStarted)
    assert started.data_fingerprint == open_folder(tmp_path / "kept").fingerprint
    # Nobody said of which layer and hook the activations are.
    assert [sae_name(sae) for sae in started.saes] == ["kept.x"]
    steps = run.of(StepTrained)
    assert len(steps) == 150
    assert steps[-1].fvu < steps[0].fvu
    (made,) = run.of(EvaluationMade)
    assert made.tokens == 60
    assert 0 < made.fvu < 1
    assert made.l0 > 0
    assert (made.ce_clean, made.ce_spliced, made.kl_spliced, made.loss_recovered) == (None,) * 4
    assert made.verdict is not None
    assert made.reasons[-1] == "There is no language model here: this is judged by reconstruction and latents alone."


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transcoder", "skip"])
def test_a_transcoder_gives_t_for_x_of_another_width_and_resumes_to_the_bit(tmp_path: Path, kind: str) -> None:
    spec = specification(tmp_path, architecture_type=kind, total_steps=150, seed=1)
    whole = Run(spec)
    assert whole() == "completed"
    (made,) = whole.of(EvaluationMade)
    assert 0 < made.fvu < 1.2
    # Sixty rows are held out, too few for an affine map to be judged on.
    assert made.fvu_affine is None
    (started,) = whole.of(TrainingStarted)
    (sae,) = started.saes
    assert (sae.hook, sae.target_hook) == ("mlp_in", "mlp_out")
    assert sae_name(sae) == "kept.x → t"
    spec = specification(tmp_path, architecture_type=kind, total_steps=150, seed=1)
    before = Run(spec, at={70: PauseRequested()})
    assert before() == "paused"
    after = Run(spec, resume=True)
    assert after() == "completed"
    assert history([*before.told, *after.told]) == history(whole.told)
    (one,) = exported(after.checkpoints / "step-00000150", spec)
    assert (one.config["d_in"], one.config["d_out"]) == (16, 12)
    metadata = one.config["metadata"]
    assert (metadata["hook_name"], metadata["hook_name_out"], metadata["hf_hook_name_out"]) == (None, None, None)


def test_variants_learn_the_same_rows_side_by_side(tmp_path: Path) -> None:
    both = Run(specification(tmp_path, variants=({"k": 4}, {"k": 8, "seed": 1})))
    assert both() == "completed"
    alone = Run(specification(tmp_path, k=8, seed=1))
    assert alone() == "completed"
    theirs = [one.loss for one in both.of(StepTrained) if one.sae == 1]
    assert theirs == [one.loss for one in alone.of(StepTrained)]
    assert len(both.of(EvaluationMade)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "variants",
    [
        [{"k": 8}, {"architecture_type": "batchtopk"}, {"architecture_type": "matryoshka", "k": 6}]
        + [{"architecture_type": kind, "target_l0": 0.04} for kind in ("standard", "gated", "jumprelu")],
        [{"architecture_type": "skip", "k": 4}]
        + [{"architecture_type": "transcoder", "activation": one, "target_l0": 0.04} for one in ("relu", "jumprelu")],
    ],
    ids=["autoencoders", "transcoders"],
)
def test_a_variant_of_any_architecture_is_bit_by_bit_what_it_would_be_alone(
    tmp_path: Path, variants: list[dict[str, Any]]
) -> None:
    kind = "topk" if variants[0] == {"k": 8} else "transcoder"
    spec = specification(tmp_path, architecture_type=kind, variants=tuple(variants))
    together = Run(spec)
    assert together() == "completed"
    path = together.checkpoints / "step-00000040"
    ours, exports = load(path).tensors, list(exported(path, spec))
    assert len({one.name for one in exports}) == len(variants)
    for number, variant in enumerate(variants):
        own: dict[str, Any] = {"architecture_type": kind, "k": None if "target_l0" in variant else 4, **variant}
        spec = specification(tmp_path, **own)
        alone = Run(spec)
        assert alone() == "completed"
        path = alone.checkpoints / "step-00000040"
        theirs = load(path).tensors
        for file in ("sae", "optimiser"):
            mine, other = ours[f"{file}-{number}"], theirs[f"{file}-0"]
            assert mine.keys() == other.keys()
            assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items()), (variant, file)
        losses = [one.loss for one in together.of(StepTrained) if one.sae == number]
        assert losses == [one.loss for one in alone.of(StepTrained)]
        (one,) = exported(path, spec)
        assert one.config["architecture"] == exports[number].config["architecture"]
        assert one.tensors.keys() == exports[number].tensors.keys()
        assert all((tensor == exports[number].tensors[name]).all() for name, tensor in one.tensors.items())


def test_it_evaluates_on_the_rows_at_the_end_which_it_never_reads(tmp_path: Path) -> None:
    spec = specification(tmp_path, total_steps=20)
    path = tmp_path / "kept" / "part-2.safetensors"
    first = Run(spec)
    first()
    x = load_file(path)["x"]
    assert len(x) == 500
    x[-60:] *= 3
    save_file({"x": x}, path)
    second = Run(specification(tmp_path, total_steps=20))
    second()
    same, other = first.of(StepTrained), second.of(StepTrained)
    assert [one.loss for one in same] == [one.loss for one in other]
    assert first.of(EvaluationMade)[0].fvu != second.of(EvaluationMade)[0].fvu


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path: Path, shuffle: bool) -> None:
    whole = Run(specification(tmp_path, shuffle=shuffle))
    assert whole() == "completed"
    spec = specification(tmp_path, shuffle=shuffle)
    before = Run(spec, at={23: PauseRequested()})
    assert before() == "paused"
    after = Run(spec, resume=True)
    assert after() == "completed"
    assert history([*before.told, *after.told]) == history(whole.told)
    ends = [load(run.checkpoints / "step-00000040").tensors for run in (whole, after)]
    for file, tensors in ends[0].items():
        assert all(torch.equal(tensor, ends[1][file][name]) for name, tensor in tensors.items()), file


def test_a_resume_from_another_place_in_the_data_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the one before: it goes red where the place in the data is not restored."""
    whole = Run(specification(tmp_path))
    whole()
    spec = specification(tmp_path)
    before = Run(spec, at={23: PauseRequested()})
    before()
    monkeypatch.setattr(ActivationBuffer, "restore", lambda self, state: None)
    after = Run(spec, resume=True)
    after()
    assert history([*before.told, *after.told]) != history(whole.told)


def test_a_resume_on_other_files_is_refused_in_a_sentence(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    assert Run(spec, at={23: PauseRequested()})() == "paused"
    path = tmp_path / "kept" / "part-1.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FolderChanged, match=r"are not those that the checkpoint of step 2\d was trained on; put these"):
        Run(spec, resume=True)()
    path.unlink()
    (tmp_path / "kept" / "part-2.safetensors").unlink()
    with pytest.raises(ActivationsError, match=r"holds no \.safetensors files"):
        Run(spec, resume=True)()


def test_what_it_trained_is_exported_without_a_model(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    run = Run(spec)
    run()
    folder = tmp_path / "trainings" / spec.id
    write_spec(folder, spec)
    (one,) = exported(run.checkpoints / "step-00000040", read(folder))
    assert one.name == "kept.x"
    described = json.loads((write(one, tmp_path / "out") / "cfg.json").read_text())
    assert (described["architecture"], described["d_in"], described["d_sae"]) == ("topk", 16, 96)
    metadata = described["metadata"]
    assert (metadata["model_name"], metadata["hook_name"], metadata["hf_hook_name"]) == (None, None, None)
    assert (metadata["dataset_path"], metadata["prepend_bos"]) == (str(tmp_path / "kept"), False)
    named = specification(tmp_path, training_layers=(3,), hook_types=("mlp_out",))
    run = Run(named)
    run()
    (one,) = exported(run.checkpoints / "step-00000040", named)
    assert (one.name, one.config["metadata"]["hook_name"]) == ("L3.mlp_out", "blocks.3.hook_mlp_out")
