"""Every architecture finds the features of a world that it is trained on (FeatRec-S)."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from featrec import SMALL, World, mean_cosine

from core.sae.normalisation import normalisation
from core.training.student import Student, rate
from events.training import TrainingConfig

L0 = 8.6 / 512
PENALISED: dict[str, dict[str, Any]] = {
    "standard": {"architecture_type": "standard", "target_l0": L0},
    "jumprelu": {"architecture_type": "jumprelu", "target_l0": L0, "initial_threshold": 0.02, "bandwidth": 0.1},
}


class Recovered(NamedTuple):
    """How well features were found, and what the SAE does on activations that it never saw."""

    mcc: float
    l0: float
    explained: float
    dead: int


def recover(steps: int, seed: int, factor: float = 1.0, **fields: Any) -> Recovered:
    """Train on the world of `seed`, its activations times `factor`."""
    world = World(SMALL, seed)
    sample = factor * world.activations(torch.Generator().manual_seed(1), 8192)
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
        total_steps=steps,
        batch_size=SMALL.batch,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        decay_steps=steps // 5,
        dead_token_threshold=10_000,
        seed=seed,
        **fields,
    )
    student = Student.new(config, (0, "resid_post"), scale, centre, torch.device("cpu"))
    for step in range(1, steps + 1):
        student.step(factor * world.batch(step), step, rate(config, step))
    return _evaluated(student, world, factor)


def _evaluated(student: Student, world: World, factor: float) -> Recovered:
    fired = torch.zeros(student.sae.latents, dtype=torch.int64)
    error, raws = 0.0, []
    for number in range(40):
        generator = torch.Generator().manual_seed(2_000_000_011 + 7919 * world.seed + number)
        raw = factor * world.activations(generator, 1024)
        output, code = student.reconstruct(raw)
        fired.index_add_(0, code.active.col, (code.values > 0).to(torch.int64))
        error += float((raw - output).square().sum())
        raws.append(raw)
    seen = torch.cat(raws)
    return Recovered(
        mcc=mean_cosine(student.sae.W_dec.detach(), world.directions),
        l0=float(fired.sum()) / len(seen),
        explained=1 - error / float((seen - seen.mean(dim=0)).square().sum()),
        dead=int((fired == 0).sum()),
    )


@pytest.mark.slow
def test_features_are_found_far_above_chance_within_a_few_steps() -> None:
    assert recover(130, seed=0, k=9).mcc > 0.43  # chance is 0.38


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_thousand_steps_recover_the_world() -> None:
    assert recover(3000, seed=0, k=9).mcc > 0.88


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "mcc"), [("standard", 0.77), ("jumprelu", 0.82)])
def test_a_steered_penalty_recovers_the_world_at_the_wanted_l0(kind: str, mcc: float) -> None:
    found = recover(3000, seed=0, **PENALISED[kind])
    assert found.l0 == pytest.approx(8.6, rel=0.05)
    assert found.mcc > mcc
    assert found.dead < 10
