"""What is exported does to raw activations what the trained SAE does, by the formulas of the program that loads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core.export import Exported, ExportError, exported, write
from core.run import RunSpec
from core.sae.normalisation import Ends, Scaled, normalisation
from core.training.checkpoint import Checkpoints, Snapshot
from core.training.student import Student
from events.catalog import DatasetRegistered, ModelRegistered
from events.control import TrainingCreated
from events.training import TrainingConfig

WIDTH, LATENTS, K = 16, 96, 5
KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka": {"k": K},
    "standard": {"target_l0": K / LATENTS},
    "gated": {"target_l0": K / LATENTS},
    "jumprelu": {"target_l0": K / LATENTS, "initial_threshold": 0.02, "bandwidth": 0.1},
}
TRANSCODERS: dict[str, dict[str, Any]] = {
    "batchtopk": KINDS["batchtopk"],
    "relu": KINDS["standard"],
    "jumprelu": KINDS["jumprelu"],
}
MODEL = ModelRegistered(
    model_id="tiny", source="/models/tiny", family="llama", hidden_dim=WIDTH, layers=4, hooks=("resid_post",),
    context_size=64,
)  # fmt: skip
WORDS = DatasetRegistered(dataset_id="words", source="/data/words.txt", format="text")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The products are small, and tests share their cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def activations(tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 7.0 * torch.randn(tokens, WIDTH, generator=generator) + torch.linspace(-3, 3, WIDTH)


def answers(raw: torch.Tensor) -> torch.Tensor:
    """What a transcoder is to give for them: wider, smaller, and not linear."""
    generator = torch.Generator().manual_seed(7)
    into = torch.randn(WIDTH, 24, generator=generator)
    return 0.05 * torch.relu(raw @ into - 4.0) + 0.3


def scaled(sample: torch.Tensor, mode: Any) -> Scaled:
    mean = sample.mean(dim=0)
    return normalisation(
        mode,
        mean=mean,
        mean_norm=float(sample.norm(dim=1).mean()),
        variance=float((sample - mean).square().sum(dim=1).mean()),
        sample=sample,
    )


def trained(kind: str, folder: Path, mode: Any, **fields: Any) -> tuple[Student, Path, RunSpec]:
    """A student after some steps, its checkpoint and what its run was told."""
    sample = activations(4_096, 0)
    source = scaled(sample, mode)
    transcoder = kind in ("transcoder", "skip")
    ends = Ends(source, scaled(answers(sample), mode) if transcoder else source)
    sparsity = TRANSCODERS[fields["activation"]] if transcoder else KINDS[kind]
    config = TrainingConfig(
        architecture_type=kind,  # type: ignore[arg-type]
        model="tiny",
        datasets=("words",),
        latent_dim=LATENTS,
        batch_size=256,
        total_steps=60,
        learning_rate=1e-2,
        warmup_steps=2,
        decay_steps=10,
        dead_token_threshold=10_000,
        context_size=64,
        **sparsity,
        **fields,
    )
    at, target = (2, "mlp_in" if transcoder else "resid_post"), (3, "mlp_out")
    student = Student.new(config, at, ends, torch.device("cpu"), target=target if transcoder else None)
    for step in range(1, 61):
        raw = activations(256, step)
        student.step({at: raw, target: answers(raw)}, step, 1e-2)
    state = {"config": json.loads(msgspec.json.encode(config)), "saes": [student.facts()]}
    saved = Checkpoints(folder, 3).save(Snapshot(60, state, {"sae-0": student.sae.tensors()}))
    spec = RunSpec(
        id="0exp0rt0000000", name="A run", config=config, model=MODEL, datasets=(WORDS,), data_dir=folder,
        created_at=1, created=TrainingCreated(name="A run"),
    )  # fmt: skip
    return student, saved.path, spec


def loaded(config: dict[str, Any], tensors: dict[str, np.ndarray], raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents and output for `raw (B, n)`, as SAELens computes them for each architecture."""
    x, size, shift = raw, np.float32(1.0), np.float32(0.0)
    if config["normalize_activations"] == "layer_norm":
        shift = raw.mean(axis=1, keepdims=True)
        size = raw.std(axis=1, keepdims=True, ddof=1) + 1e-5
        x = (raw - shift) / size
    pre = (x - tensors["b_dec"] if config["apply_b_dec_to_input"] else x) @ tensors["W_enc"]
    past = x @ tensors["W_skip"].T if "W_skip" in tensors else np.float32(0.0)
    match config["architecture"]:
        case "gated":
            opened = pre + tensors["b_gate"] > 0
            f = opened * np.maximum(pre * np.exp(tensors["r_mag"]) + tensors["b_mag"], 0)
        case "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder":
            pre = pre + tensors["b_enc"]
            f = np.maximum(pre, 0) * (pre > tensors["threshold"])
        case "topk":
            pre = pre + tensors["b_enc"]
            kept = np.argsort(-pre, axis=1)[:, : config["k"]]
            f = np.zeros_like(pre)
            np.put_along_axis(f, kept, np.maximum(np.take_along_axis(pre, kept, axis=1), 0), axis=1)
        case other:
            assert other in ("standard", "transcoder", "skip_transcoder")
            f = np.maximum(pre + tensors["b_enc"], 0)
    return f, (f @ tensors["W_dec"] + tensors["b_dec"] + past) * size + shift


@pytest.mark.parametrize(
    "mode",
    [
        "expected_average_only_in",
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("layer_norm", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("unit", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_does_what_was_trained(kind: str, unit: bool, mode: str, tmp_path: Path) -> None:
    student, checkpoint, spec = trained(kind, tmp_path / "c", mode, normalize_decoder=unit)
    (one,) = exported(checkpoint, spec)
    folder = write(one, tmp_path / "out")
    assert folder.name == "L2.resid_post"
    config = json.loads((folder / "cfg.json").read_text())
    tensors = load_file(folder / "sae_weights.safetensors")
    assert config["normalize_activations"] == ("layer_norm" if mode == "layer_norm" else "none")
    norms = np.linalg.norm(tensors["W_dec"], axis=1)
    assert np.allclose(norms, 1, atol=1e-5)
    raw = activations(1_000, 99)
    f, output = loaded(config, tensors, raw.numpy())
    ours, code = student.reconstruct(raw)
    assert np.abs(output - ours.numpy()).max() / np.abs(ours.numpy()).max() < 1e-4
    active = code.active.dense((code.values > 0).to(torch.float32)).numpy() > 0
    differing = (f > 0) != active
    assert differing.mean() < 1e-4
    assert 0.5 < active.sum() / 1_000 < LATENTS


@pytest.mark.parametrize("mode", ["expected_average_only_in", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("activation", TRANSCODERS)
@pytest.mark.parametrize(("kind", "rank"), [("transcoder", None), ("skip", None), ("skip", 3)])
def test_a_loaded_transcoder_does_what_was_trained(
    kind: str, rank: int | None, activation: str, mode: str, tmp_path: Path
) -> None:
    low = {} if rank is None else {"skip_rank": rank}
    student, checkpoint, spec = trained(kind, tmp_path / "c", mode, activation=activation, **low)
    (one,) = exported(checkpoint, spec)
    folder = write(one, tmp_path / "out")
    assert folder.name == "L2.mlp_in-to-L3.mlp_out"
    config = json.loads((folder / "cfg.json").read_text())
    tensors = load_file(folder / "sae_weights.safetensors")
    assert (config["d_in"], config["d_out"], config["d_sae"]) == (WIDTH, 24, LATENTS)
    assert config["metadata"]["hook_name"] == "blocks.2.mlp.hook_in"
    assert config["metadata"]["hook_name_out"] == "blocks.3.hook_mlp_out"
    raw = activations(1_000, 99)
    f, output = loaded(config, tensors, raw.numpy())
    ours, code = student.reconstruct(raw)
    assert np.abs(output - ours.numpy()).max() / np.abs(ours.numpy()).max() < 1e-4
    active = code.active.dense((code.values > 0).to(torch.float32)).numpy() > 0
    assert ((f > 0) != active).mean() < 1e-4
    assert 0.5 < active.sum() / 1_000 < LATENTS


def test_what_describes_it_says_where_it_belongs(tmp_path: Path) -> None:
    _, checkpoint, spec = trained("batchtopk", tmp_path / "c", "none")
    (one,) = exported(checkpoint, spec)
    assert (one.config["architecture"], one.config["d_in"], one.config["d_sae"]) == ("jumprelu", WIDTH, LATENTS)
    metadata = one.config["metadata"]
    assert metadata["hook_name"] == "blocks.2.hook_resid_post"
    assert metadata["hf_hook_name"] == "model.layers.2.output"
    assert (metadata["model_name"], metadata["dataset_path"]) == ("/models/tiny", "/data/words.txt")
    assert (metadata["training_architecture"], metadata["context_size"]) == ("batchtopk", 64)
    assert metadata["sae_studio"]["step"] == 60
    (topk,) = exported(*trained("topk", tmp_path / "d", "none")[1:])
    assert (topk.config["k"], topk.config["rescale_acts_by_decoder_norm"]) == (K, False)


def test_a_damaged_checkpoint_is_not_exported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    _, checkpoint, spec = trained("topk", tmp_path / "c", "none")
    (one,) = exported(checkpoint, spec)
    write(one, tmp_path / "out")
    with pytest.raises(ExportError, match="is there already"):
        write(one, tmp_path / "out")
    weights = checkpoint / "sae-0.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ExportError, match=r"sae-0\.safetensors is damaged"):
        exported(checkpoint, spec)
    with pytest.raises(ExportError, match="cannot be read"):
        exported(tmp_path / "nowhere", spec)


@pytest.mark.parametrize(
    ("kind", "besides"),
    [("gated", {"b_gate", "b_mag", "r_mag"}), ("jumprelu", {"b_enc", "threshold"}), ("topk", {"b_enc"})],
)
def test_an_export_is_of_plain_arrays_and_of_no_others_than_are_known(kind: str, besides: set, tmp_path: Path) -> None:
    _, checkpoint, spec = trained(kind, tmp_path / "c", "none")
    (one,) = exported(checkpoint, spec)
    assert isinstance(one, Exported)
    assert set(one.tensors) == {"W_enc", "W_dec", "b_dec", *besides}
    assert {str(each.dtype) for each in one.tensors.values()} == {"float32"}
    assert one.tensors["W_enc"].shape == (WIDTH, LATENTS)
