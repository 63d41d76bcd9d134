"""A batch that is computed in parts gives what it gives as a whole, whatever its tokens decide together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.sae import sparse
from core.sae.autoencoder import Losses, SparseAutoencoder
from core.sae.batchtopk import BatchTopK
from core.sae.normalisation import Ends, Normalisation, Scaled
from core.sae.registry import architecture
from events.training import TrainingConfig

WIDTH, LATENTS, TOKENS = 24, 160, 50
CPU = torch.device("cpu")
SHARING: dict[str, Any] = {"k": 5, "total_steps": 3}
"""In the third of three steps tokens share their latents, in the third of many each has its own."""
STEERED: dict[str, Any] = {"target_l0": 0.05}
JUMPRELU: dict[str, Any] = {**STEERED, "initial_threshold": 0.3, "bandwidth": 0.4}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {"k": 5}),
    "topk, free rows": ("topk", {"k": 5, "normalize_decoder": False}),
    "batchtopk": ("batchtopk", SHARING),
    "batchtopk, apart": ("batchtopk", {"k": 5, "share_latents_after": 0.8}),
    "matryoshka": ("matryoshka", SHARING),
    "standard": ("standard", STEERED),
    "gated": ("gated", STEERED),
    "jumprelu": ("jumprelu", JUMPRELU),
    "transcoder": ("transcoder", {"activation": "batchtopk", **SHARING}),
    "skip": ("skip", {"activation": "jumprelu", **JUMPRELU}),
    "skip relu": ("skip", {"activation": "relu", **STEERED}),
}
PRODUCTS = [
    pytest.param("sparse", marks=pytest.mark.skipif(not sparse.is_fast_on(CPU), reason="needs a CPU torch with MKL")),
    "dense",
]


def _made(name: str, products: str, *, dead: bool) -> SparseAutoencoder:
    kind, fields = KINDS[name]
    settings: dict[str, Any] = {
        "architecture_type": kind, "latent_dim": LATENTS, "dead_token_threshold": 1000, "warmup_steps": 0,
        "total_steps": 5_000,
    }  # fmt: skip
    config = TrainingConfig(**{**settings, **fields})
    source = Scaled(Normalisation("none", 1.0, 30.0, 0.0), torch.linspace(-1, 1, WIDTH))
    target = source if kind not in ("transcoder", "skip") else Scaled(source.normalisation, torch.linspace(0, 1, WIDTH))
    made = architecture(kind, config.activation).from_config(config, Ends(source, target), CPU).double()
    made.sparse = products == "sparse"
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
        made.W_enc.mul_(torch.linspace(0.5, 1.5, LATENTS)[:, None] / made.W_enc.norm(dim=1, keepdim=True))
    if "density" in made.state():
        made._density = torch.zeros((), dtype=torch.float64)  # type: ignore[assignment]
    if dead:
        made.firing.since[::3] = 2000
        made.firing.refresh()
    return made


def _batch() -> tuple[Tensor, Tensor]:
    # Tokens of very different sizes share a batch's latents unequally, and the parts differ.
    sizes = torch.linspace(0.1, 3.0, TOKENS, dtype=torch.float64)[:, None]
    x, t = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x * sizes + 0.5, 0.5 * t


def _gradients(made: SparseAutoencoder) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("name", KINDS)
def test_parts_add_up_to_the_whole(name: str, products: str, dead: bool) -> None:
    whole, parted = _made(name, products, dead=dead), _made(name, products, dead=dead)
    x, t = _batch()
    target = None if whole.autoencoder else t
    expected = whole.losses(x, 3, target)
    expected.total.backward()
    parts = list(zip(x.split(17), (x if target is None else target).split(17), strict=True))
    batch = parted.survey(parts, 3)
    found: Losses | None = None
    for one, wanted in parts:
        losses = parted.losses(one, 3, wanted, batch)
        losses.total.backward()
        found = losses if found is None else found + losses
    assert found is not None
    parted.settle(found.seen, TOKENS, 3)
    for field in ("total", "reconstruction", "sparsity", "auxiliary", "l0", "fvu"):
        ours, theirs = (float(getattr(one, field).detach()) for one in (found, expected))
        # L0 is a quotient of integers, in float32.
        assert ours == pytest.approx(theirs, rel=1e-6 if field == "l0" else 1e-10), field
    assert (float(expected.auxiliary) > 0) == (dead or name == "gated")
    if expected.coefficient is not None:
        assert found.coefficient is not None
        assert float(found.coefficient) == pytest.approx(float(expected.coefficient), rel=1e-12)
    for name_, gradient in _gradients(whole).items():
        torch.testing.assert_close(_gradients(parted)[name_], gradient, rtol=1e-9, atol=1e-12, msg=name_)
    for name_, tensor in whole.state().items():
        torch.testing.assert_close(parted.state()[name_], tensor, rtol=1e-12, atol=0, msg=name_)


def test_a_token_with_far_more_latents_than_its_share_keeps_them_in_parts_too() -> None:
    whole, parted = (_made("batchtopk", "dense", dead=False) for _ in range(2))
    assert isinstance(whole, BatchTopK)
    x = _batch()[0] * 0.01
    x[0] = 100.0  # Nearly all that the batch may keep is this token's.
    cut = whole.losses(x, 3).seen.cut
    assert cut is not None
    surveyed = parted.survey([(part, part) for part in x.split(7)], 3).cut
    assert surveyed is not None
    assert float(surveyed) == pytest.approx(float(cut), rel=1e-12)
    assert float(parted.losses(x[:7], 3, None, parted.survey([(x, x)], 3)).seen.hits.sum()) > 4 * 5
