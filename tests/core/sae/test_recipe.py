"""Initialisation, unit rows and dead latents."""

from __future__ import annotations

import torch

from core.sae.recipe import (
    Firing,
    auxiliary_latents,
    normalise_rows_,
    project_rows_,
    random_directions,
    tied_scale,
)


def test_directions_follow_from_the_seed_alone() -> None:
    first = random_directions(16, 8, seed=4)
    torch.rand(3)
    assert torch.equal(first, random_directions(16, 8, seed=4))
    assert not torch.equal(first, random_directions(16, 8, seed=5))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(16))


def test_a_projected_gradient_is_tangent_and_rows_end_with_norm_one() -> None:
    rows = random_directions(16, 8, seed=0)
    gradient = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    project_rows_(gradient, rows)
    torch.testing.assert_close((gradient * rows).sum(dim=1), torch.zeros(16), rtol=0, atol=1e-6)
    rows -= 0.3 * gradient
    normalise_rows_(rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(16))


def test_the_tied_scale_is_the_least_squares_factor() -> None:
    output = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    assert float(tied_scale(output, 2.5 * output)) == torch.tensor(2.5)
    assert float(tied_scale(torch.zeros(32, 8), output)) == 1.0


def test_a_latent_is_dead_by_tokens_and_not_by_batches() -> None:
    firing = Firing(3, dead_after=100, device=torch.device("cpu"))
    silent = torch.zeros(3, dtype=torch.int64)
    for _ in range(100):
        firing.record(silent, tokens=1)
    assert int(firing.count_dead()) == 0
    firing.record(torch.tensor([0, 2, 0]), tokens=1)
    assert int(firing.count_dead()) == 2
    assert firing.since.tolist() == [101, 0, 101]
    assert firing.counts.tolist() == [0, 2, 0]
    firing.record(silent, tokens=101)
    assert int(firing.count_dead()) == 3


def test_the_list_of_dead_latents_changes_at_a_refresh_only() -> None:
    firing = Firing(2, dead_after=10, device=torch.device("cpu"))
    firing.record(torch.tensor([1, 0]), tokens=11)
    assert firing.dead.tolist() == []
    firing.refresh()
    assert firing.dead.tolist() == [1]


def test_helpers_are_counted_from_the_width_and_k() -> None:
    assert auxiliary_latents(width=64, k=50) == 32
    assert auxiliary_latents(width=64, k=9) == 9
    assert auxiliary_latents(width=1, k=1) == 1
