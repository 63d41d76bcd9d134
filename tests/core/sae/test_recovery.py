"""Every architecture finds the features of a world that it is trained on (FeatRec-S)."""

from __future__ import annotations

import pytest
from recovery import LEAST, recover


@pytest.mark.slow
def test_features_are_found_far_above_chance_within_a_few_steps() -> None:
    assert recover("topk", 130, seed=0).mcc > 0.43  # chance is 0.38


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["topk", "standard", "jumprelu"])
def test_three_thousand_steps_recover_the_world_at_the_wanted_l0(kind: str) -> None:
    found = recover(kind, 3_000, seed=0)
    assert found.l0 == pytest.approx(9.0 if kind == "topk" else 8.6, rel=0.05)
    assert found.mcc > LEAST[kind]
    assert found.dead < 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka", "gated"])
def test_the_others_are_on_their_way_after_some_hundred_steps(kind: str) -> None:
    # What they reach after 3,000 is for the benchmark.
    assert recover(kind, 400, seed=0).mcc > 0.42
