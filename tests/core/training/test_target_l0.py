"""With a target, L0 ends where it was told, from a start ten times off either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from featrec import Preset, World, normalised

from core.sae.normalisation import Ends
from core.sae.penalised import starting_coefficient
from core.training.student import Student, rate
from events.training import TrainingConfig

WORLD = Preset(features=96, width=24, rank=4, batch=128)
WANTED = 6.0


def _last_l0(kind: str, factor: float, steps: int) -> float:
    """Mean L0 of the last tenth of a run whose start is `factor` times the default."""
    world = World(WORLD, 0)
    sample = world.activations(torch.Generator().manual_seed(1), 4096)
    scale, centre = normalised(sample)
    start: dict[str, Any] = {"l1_alpha": factor * starting_coefficient(scale.variance, WANTED)}
    if kind == "jumprelu":
        start = {"initial_threshold": factor * 0.02, "bandwidth": 0.1}
    config = TrainingConfig(
        architecture_type=kind,  # type: ignore[arg-type]
        latent_dim=WORLD.features,
        target_l0=WANTED / WORLD.features,
        batch_size=WORLD.batch,
        total_steps=steps,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        decay_steps=steps // 5,
        dead_token_threshold=10_000,
        **start,
    )
    student = Student.new(config, (0, "resid_post"), Ends.same(scale, centre), torch.device("cpu"))
    l0 = [
        float(student.step({student.pair: world.batch(step)}, step, rate(config, step))[4])
        for step in range(1, steps + 1)
    ]
    return sum(l0[-steps // 10 :]) / (steps // 10)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_a_start_ten_times_off_either_way_ends_within_a_twentieth_of_the_target(kind: str, factor: float) -> None:
    assert _last_l0(kind, factor, 3_000) == pytest.approx(WANTED, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_a_short_run_ends_within_a_seventh_of_the_target(kind: str) -> None:
    assert _last_l0(kind, 1.0, 600) == pytest.approx(WANTED, rel=0.15)
