"""SAELens itself loads what is exported, and does with raw activations what the trained SAE does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saelens
import torch
from test_export import KINDS, TRANSCODERS, activations, trained

from core.export import Tensors, exported, write

TOKENS = 1_000
SCALED = "expected_average_only_in"
CASES: list[tuple[str, str, dict[str, Any]]] = [(kind, SCALED, {}) for kind in KINDS]
CASES += [("jumprelu", "none", {}), ("jumprelu", "layer_norm", {}), ("gated", "layer_norm", {})]
CASES += [("standard", "constant_norm_rescale", {})]
CASES += [(kind, SCALED, {"activation": one}) for kind in ("transcoder", "skip") for one in TRANSCODERS]
CASES += [("skip", "none", {"activation": "batchtopk", "skip_rank": 3})]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_architecture_does_in_saelens_what_was_trained(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    interpreter = saelens.environment(pytestconfig.cache)
    torch.set_num_threads(1)
    raw = activations(TOKENS, 99)
    ours: dict[str, tuple[np.ndarray, np.ndarray, Tensors]] = {}
    for kind, mode, fields in CASES:
        name = "-".join(map(str, (kind, mode, *fields.values())))
        student, checkpoint, spec = trained(kind, tmp_path / name, mode, **fields)
        (one,) = exported(checkpoint, spec)
        write(one, tmp_path / "out").rename(tmp_path / "out" / name)
        output, code = student.reconstruct(raw)
        active = code.active.dense((code.values > 0).to(torch.float32)).numpy() > 0
        pre, cut = decision(kind, one.tensors, in_units_of(mode, raw).numpy())
        near = np.abs(pre - cut) <= 1e-5 * np.abs(pre).max()
        ours[name] = output.numpy(), active, near
    theirs = saelens.load(interpreter, tmp_path / "out", raw.numpy(), tmp_path)
    assert theirs.keys() == ours.keys()
    for name, (output, active, near) in ours.items():
        differing = (theirs[name].latents > 0) != active
        assert not (differing & ~near).any(), name
        same = ~differing.any(axis=1)
        assert same.mean() > 0.99, name
        error = np.abs(theirs[name].output - output)[same].max() / np.abs(output).max()
        assert error <= 1e-5, (name, error)
        assert 0.5 < active.sum() / TOKENS < active.shape[1] / 2, name


def in_units_of(mode: str, raw: torch.Tensor) -> torch.Tensor:
    """What a per-token mode, which no file can hold folded, makes of raw activations."""
    if mode == "layer_norm":
        return (raw - raw.mean(dim=1, keepdim=True)) / (raw.std(dim=1, keepdim=True) + 1e-5)
    if mode == "constant_norm_rescale":
        return raw / raw.norm(dim=1, keepdim=True) * raw.shape[1] ** 0.5
    return raw


def decision(kind: str, tensors: Tensors, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations (B, F) of an exported SAE, and what each has to exceed for its latent to be active."""
    centred = 0.0 if kind in ("transcoder", "skip") else tensors["b_dec"]
    pre = (x.astype(np.float64) - centred) @ tensors["W_enc"]
    if kind == "gated":
        return pre + tensors["b_gate"], np.zeros(1)
    pre = pre + tensors["b_enc"]
    if kind == "topk":
        ordered = np.sort(pre, axis=1)
        k = KINDS[kind]["k"]
        return pre, (ordered[:, -k, None] + ordered[:, -k - 1, None]) / 2
    return pre, tensors.get("threshold", np.zeros(1))
