"""L0 ends where it was told: with a target from a start ten times off either way, and at inference on other tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from featrec import Preset, World, normalised

from core.sae.normalisation import Ends
from core.sae.penalised import starting_coefficient
from core.training.student import Student, rate
from events.training import TrainingConfig

WORLD = Preset(features=96, width=24, rank=4, batch=128)
WANTED = 6.0


STARTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {"initial_threshold": 0.02, "bandwidth": 0.1},
}


class Ended(NamedTuple):
    """Mean L0 of the last tenth of a run, and what the SAE does at inference with tokens that it never saw."""

    l0: float
    inferred_l0: float
    fvu: float


def _trained(kind: str, steps: int, **fields: Any) -> Ended:
    """Train on a small world; `fields` are of the configuration."""
    world = World(WORLD, 0)
    sample = world.activations(torch.Generator().manual_seed(1), 4096)
    config = TrainingConfig(
        architecture_type=kind,  # type: ignore[arg-type]
        latent_dim=WORLD.features,
        batch_size=WORLD.batch,
        total_steps=steps,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        decay_steps=steps // 5,
        dead_token_threshold=10_000,
        **fields,
    )
    student = Student.new(config, (0, "resid_post"), Ends.same(*normalised(sample)), torch.device("cpu"))
    l0 = [
        float(student.step({student.pair: world.batch(step)}, step, rate(config, step))[4])
        for step in range(1, steps + 1)
    ]
    raw = world.activations(torch.Generator().manual_seed(2), 100_000)
    outputs, codes = zip(*(student.reconstruct(part) for part in raw.split(10_000)), strict=True)
    variation = (raw - raw.mean(dim=0)).square().sum()
    return Ended(
        l0=sum(l0[-steps // 10 :]) / (steps // 10),
        inferred_l0=sum(int((code.values > 0).sum()) for code in codes) / len(raw),
        fvu=float((raw - torch.cat(outputs)).square().sum() / variation),
    )


def _last_l0(kind: str, factor: float, steps: int) -> float:
    """Mean L0 of the last tenth of a run whose start is `factor` times the default."""
    start = dict(STARTS[kind])
    if kind == "jumprelu":
        start["initial_threshold"] *= factor
    else:
        sample = World(WORLD, 0).activations(torch.Generator().manual_seed(1), 4096)
        start["l1_alpha"] = factor * starting_coefficient(normalised(sample).normalisation.variance, WANTED)
    return _trained(kind, steps, target_l0=WANTED / WORLD.features, **start).l0


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_a_start_ten_times_off_either_way_ends_within_a_twentieth_of_the_target(kind: str, factor: float) -> None:
    assert _last_l0(kind, factor, 3_000) == pytest.approx(WANTED, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_a_short_run_ends_within_a_seventh_of_the_target(kind: str) -> None:
    assert _last_l0(kind, 1.0, 600) == pytest.approx(WANTED, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STARTS)
def test_with_more_latents_a_token_less_is_left_unexplained(kind: str) -> None:
    few, some, many = (_trained(kind, 300, target_l0=l0 / WORLD.features, **STARTS[kind]) for l0 in (5, 9, 18))
    assert 1.2 * few.l0 < some.l0
    assert 1.2 * some.l0 < many.l0
    assert few.fvu > 1.2 * some.fvu
    assert some.fvu > 1.2 * many.fvu


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_threshold_keeps_k_latents_of_tokens_that_were_never_seen(kind: str) -> None:
    ended = _trained(kind, 1_500, k=6, share_latents_after=0.8)
    assert ended.inferred_l0 == pytest.approx(6, rel=0.02)
    assert ended.fvu < 0.2
