"""What a training is said to need is what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from memory_peak import MODEL

from core.config_rules import resolve
from core.estimate import estimate
from events.training import TrainingConfig

KINDS: dict[str, dict[str, Any]] = {
    "topk": {},
    "batchtopk": {},
    "matryoshka": {},
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "transcoder": {},
    "skip": {"activation": "jumprelu"},
    "topk in parts": {"micro_batch_size": 256},
}


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", KINDS)
def test_the_memory_of_a_step_is_within_a_quarter_of_what_was_measured(name: str, device: str) -> None:
    config = TrainingConfig(
        model="m", datasets=("d",), architecture_type=name.split()[0], latent_dim=8_192, batch_size=2_048,
        total_steps=100, device=device, **KINDS[name],
    )  # type: ignore[arg-type]  # fmt: skip
    program = Path(__file__).with_name("memory_peak.py")
    asked = [sys.executable, str(program), msgspec.json.encode(config).decode()]
    said_by_torch = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    measured, parameters = map(int, said_by_torch.split())
    found = estimate(resolve(config, MODEL), MODEL)
    said = sum(found.memory[part] for part in ("weights", "gradients", "optimizer", "step"))
    assert said == pytest.approx(measured, rel=0.25)
    assert found.parameters == pytest.approx(parameters, rel=0.02)


def test_a_gpu_that_auto_would_choose_is_reckoned_with() -> None:
    config = resolve(TrainingConfig(model="m", datasets=("d",), latent_dim=8_192), MODEL)
    here, there = estimate(config, MODEL, devices=("cpu",)), estimate(config, MODEL, devices=("cpu", "cuda:0"))
    # Dense products hold more, and the model's type is half as wide.
    assert there.memory["step"] > 2 * here.memory["step"]
    assert there.memory["buffer"] == here.memory["buffer"] / 2
