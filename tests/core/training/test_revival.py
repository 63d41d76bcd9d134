"""Latents that never fire come back: by the auxiliary loss, by the push, or by beginning anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from synthetic import CPU, config

from core.sae import penalised
from core.sae.normalisation import Ends, Normalisation
from core.training.student import Student, rate

WIDTH, LATENTS, SILENT, STEPS = 16, 64, 32, 250
STEERED: dict[str, Any] = {"k": None, "target_l0": 4 / LATENTS, "auxk_coefficient": None, "normalize_decoder": None}
AUXILIARY: dict[str, dict[str, Any]] = {
    "topk": {},
    "batchtopk": {},
    "matryoshka": {},
    "jumprelu": {**STEERED, "auxk_coefficient": 1 / 8, "initial_threshold": 0.02, "bandwidth": 0.1},
}
SILENCED = {"standard": ("b_enc", -1.0), "gated": ("b_gate", -1.0), "jumprelu": ("theta", 0.7)}
PUSHED: dict[str, dict[str, Any]] = {
    "standard": {**STEERED, "learning_rate": 6e-3},
    "gated": {**STEERED, "learning_rate": 6e-3},
}


def _dead(kind: str, **fields: Any) -> int:
    """How many latents are dead at the end of a training in which half of them were silent at its beginning."""
    chosen = config(
        architecture_type=kind,
        latent_dim=LATENTS,
        batch_size=128,
        total_steps=STEPS,
        dead_token_threshold=500,
        **fields,
    )
    ends = Ends.same(Normalisation("none", 1.0, WIDTH, 0.0), torch.zeros(WIDTH))
    student = Student.new(chosen, (0, "resid_post"), ends, CPU)
    sae, generator = student.sae, torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        student.step({student.pair: torch.randn(128, WIDTH, generator=generator)}, step, rate(chosen, step))
        if step == 1:
            with torch.no_grad():
                # Just so far that they never win; some pre-activations are above 0, or an auxiliary loss had no hold.
                name, value = SILENCED.get(kind, ("b_enc", -1.3))
                sae.get_parameter(name)[:SILENT] = value
    return int(sae.firing.count_dead())


@pytest.mark.slow
@pytest.mark.parametrize("kind", AUXILIARY)
def test_the_auxiliary_loss_brings_silent_latents_back(kind: str) -> None:
    fields = AUXILIARY[kind]
    assert _dead(kind, **fields) < (12 if kind == "batchtopk" else 8)
    assert _dead(kind, **{**fields, "auxk_coefficient": 0.0}) > 18


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUSHED)
def test_the_push_and_beginning_anew_bring_silent_latents_back(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = PUSHED[kind]
    assert _dead(kind, **fields) < 8
    monkeypatch.setattr(penalised, "PUSH", 0.0)
    assert _dead(kind, **fields) > 24
    assert _dead(kind, **fields, resample_interval=80) < 8
