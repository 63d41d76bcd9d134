"""TopK finds the features of a world that it is trained on (FeatRec-S)."""

from __future__ import annotations

import pytest
import torch
from featrec import SMALL, World, mean_cosine

from core.sae.normalisation import normalisation
from core.training.student import Student, rate
from events.training import TrainingConfig


def _recover(steps: int, seed: int) -> float:
    world = World(SMALL, seed)
    sample = world.activations(torch.Generator().manual_seed(1), 8192)
    mean = sample.mean(dim=0)
    scale, centre = normalisation(
        "expected_average_only_in",
        mean=mean,
        mean_norm=float(sample.norm(dim=1).mean()),
        variance=float((sample - mean).square().sum(dim=1).mean()),
        sample=sample,
    )
    config = TrainingConfig(
        latent_dim=512,
        k=9,
        total_steps=steps,
        batch_size=SMALL.batch,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        decay_steps=steps // 5,
        dead_token_threshold=10_000,
        auxk_coefficient=1 / 8,
        seed=seed,
    )
    student = Student.new(config, (0, "resid_post"), scale, centre, torch.device("cpu"))
    for step in range(1, steps + 1):
        student.step(world.batch(step), step, rate(config, step))
    return mean_cosine(student.sae.W_dec.detach(), world.directions)


def test_features_are_found_far_above_chance_within_a_few_steps() -> None:
    assert _recover(130, seed=0) > 0.43  # chance is 0.38


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_thousand_steps_recover_the_world() -> None:
    assert _recover(3000, seed=0) > 0.88
