"""TopK: its loss and gradients against independent formulas, and each trap that can be tested."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.sae import sparse
from core.sae.normalisation import Ends, normalisation
from core.sae.topk import TopK
from events.training import TrainingConfig

WIDTH, LATENTS, K, TOKENS = 24, 160, 6, 48

PRODUCTS = [
    pytest.param(
        "sparse",
        marks=pytest.mark.skipif(not sparse.is_fast_on(torch.device("cpu")), reason="needs a CPU torch with MKL"),
    ),
    "dense",
]


def _model(products: str, *, unit: bool = True, dead: bool = True, dtype: torch.dtype = torch.float64) -> TopK:
    model = TopK(
        width=WIDTH,
        latents=LATENTS,
        k=K,
        variance=30.0,
        dead_after=1000,
        unit_decoder=unit,
        seed=2,
        centre=torch.linspace(-1, 1, WIDTH),
        dtype=dtype,
        products=products,
    )
    with torch.no_grad():
        model.b_enc.copy_(torch.linspace(-0.3, 0.3, LATENTS))
        model.W_enc.mul_(torch.linspace(0.5, 1.5, LATENTS)[:, None])
        if not unit:
            model.W_dec.mul_(torch.linspace(0.5, 2, LATENTS)[:, None])
    if dead:
        model.firing.since[::3] = 2000
        model.firing.refresh()
    return model


def _batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 1.2 + 0.5


def _by_the_book(model: TopK, x: Tensor, *, unit: bool) -> tuple[Tensor, Tensor]:
    """Reconstruction and auxiliary loss, written down from the definition with dense masks and plain autograd."""
    W_enc, b_enc, W_dec, b_dec = model.W_enc, model.b_enc, model.W_dec, model.b_dec
    p = (x - b_dec) @ W_enc.T + b_enc
    rank = (p if unit else p * W_dec.norm(dim=1)).detach()
    kept = rank >= rank.sort(dim=1, descending=True).values[:, K - 1 : K]
    error = x - (torch.relu(p) * kept @ W_dec + b_dec)
    reconstruction = error.square().sum(dim=1).mean() / model.variance
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[model.firing.dead] = True
    k_aux = min(WIDTH // 2, K)
    masked = rank.masked_fill(~dead, -torch.inf)
    helping = (masked >= masked.sort(dim=1, descending=True).values[:, k_aux - 1 : k_aux]) & dead
    residual = error.detach()
    left = residual - torch.relu(p) * helping @ W_dec
    share = min(1.0, int(dead.sum()) / k_aux)
    spread = (residual - residual.mean(dim=0)).square().mean()
    return reconstruction, model.auxk_coefficient * share * left.square().mean() / spread


def _gradients(loss: Tensor, model: TopK) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_definition(
    products: str, unit: bool, dtype: torch.dtype, tolerance: float
) -> None:
    model, x = _model(products, unit=unit, dtype=dtype), _batch(dtype)
    losses = model.losses(x, 1)
    found = _gradients(losses.total, model)
    reconstruction, auxiliary = _by_the_book(model, x, unit=unit)
    expected = _gradients(reconstruction + auxiliary, model)
    assert auxiliary.item() > 0.01
    assert losses.reconstruction.item() == pytest.approx(reconstruction.item(), rel=tolerance)
    assert losses.auxiliary.item() == pytest.approx(auxiliary.item(), rel=tolerance)
    assert losses.total.item() == pytest.approx((reconstruction + auxiliary).item(), rel=tolerance)
    # Every dimension varies about its own mean.
    fvu = reconstruction * TOKENS * model.variance / (x - x.mean(dim=0)).square().sum()
    assert losses.fvu.item() == pytest.approx(fvu.item(), rel=tolerance)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_gradient_is_the_slope_of_the_loss(products: str) -> None:
    model, x = _model(products, dead=False), _batch()
    directions = [
        torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        for parameter in model.parameters()
    ]
    slope = sum(
        float((gradient * direction).sum())
        for gradient, direction in zip(_gradients(model.losses(x, 1).total, model), directions, strict=True)
    )

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=distance)
            value = model.losses(x, 1).total.item()
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.sub_(direction, alpha=distance)
        return value

    step = 1e-7
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_order_of_tokens_in_a_batch_does_not_matter(products: str) -> None:
    x = _batch()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    first, second = _model(products).losses(x, 1), _model(products).losses(x[order], 1)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_auxiliary_loss_moves_dead_latents_only(products: str) -> None:
    model, x = _model(products), _batch()
    without = _model(products, dead=False)
    moved = [
        ours - theirs
        for ours, theirs in zip(
            _gradients(model.losses(x, 1).total, model), _gradients(without.losses(x, 1).total, without), strict=True
        )
    ]
    alive = torch.ones(LATENTS, dtype=torch.bool)
    alive[model.firing.dead] = False
    for gradient in moved[:3]:
        # A residual that was not detached, or a decoder bias in its reconstruction, would reach the others too.
        assert float(gradient[alive].abs().max()) < 1e-15
        assert float(gradient[~alive].abs().max()) > 1e-6


def test_no_token_has_more_than_k_latents_and_negative_ones_do_not_count() -> None:
    model, x = _model("dense", dead=False), _batch()
    with torch.no_grad():
        model.b_enc.fill_(-3.0)
    values, active = model.encode(x)
    assert active.crow.diff().tolist() == [K] * TOKENS
    assert float(values.min()) == 0.0
    assert float(model.losses(x, 1).l0) == pytest.approx(float((values > 0).sum()) / TOKENS)
    assert float(model.losses(x, 1).l0) < K


@pytest.mark.parametrize("products", PRODUCTS)
def test_inference_reconstructs_what_training_does(products: str) -> None:
    model, x = _model(products, dead=False), _batch()
    error = x - model.reconstruct(x)
    assert float(error.square().sum() / (TOKENS * model.variance)) == pytest.approx(
        float(model.losses(x, 1).reconstruction), rel=1e-12
    )


def test_free_decoder_norms_can_be_folded_into_the_encoder() -> None:
    free, folded, x = _model("dense", unit=False), _model("dense", unit=True), _batch()
    norms = free.W_dec.detach().norm(dim=1)
    with torch.no_grad():
        folded.W_dec.copy_(free.W_dec / norms[:, None])
        folded.W_enc.copy_(free.W_enc * norms[:, None])
        folded.b_enc.copy_(free.b_enc * norms)
    torch.testing.assert_close(free.reconstruct(x), folded.reconstruct(x), rtol=1e-12, atol=1e-12)


def test_the_first_reconstruction_starts_from_mean_and_least_squares() -> None:
    model, x = _model("dense", dead=False), _batch()
    torch.testing.assert_close(model.b_dec.detach().float(), torch.linspace(-1, 1, WIDTH))
    model = TopK(width=WIDTH, latents=LATENTS, k=K, variance=30.0, dead_after=1, seed=2, centre=x.mean(dim=0).float())
    assert torch.equal(model.W_enc, model.W_dec)
    before = float(model.losses(x.float(), 1).fvu)
    model.scale_encoder(x.float())
    assert float(model.losses(x.float(), 1).fvu) < min(1.0, before)


@pytest.mark.parametrize("products", PRODUCTS)
def test_bfloat16_rounds_the_products_and_keeps_float32_weights(products: str) -> None:
    def losses(matmul_dtype: torch.dtype | None) -> tuple[float, Tensor]:
        model = TopK(
            width=WIDTH,
            latents=LATENTS,
            k=K,
            variance=30.0,
            dead_after=9,
            seed=1,
            products=products,
            matmul_dtype=matmul_dtype,
        )
        total = model.losses(_batch(torch.float32), 1).total
        total.backward()
        assert model.W_enc.grad is not None
        assert model.W_enc.dtype == model.W_enc.grad.dtype == total.dtype == torch.float32
        return float(total.detach()), model.W_enc.grad

    (rounded, gradient), (exact, reference) = losses(torch.bfloat16), losses(None)
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact
    assert float((gradient - reference).norm() / reference.norm()) < 0.2


def test_the_configuration_reaches_the_model() -> None:
    x = _batch(torch.float32)
    mean = x.mean(dim=0)
    scale, centre = normalisation("none", mean=mean, mean_norm=5.0, variance=28.0, sample=x)
    config = TrainingConfig(
        latent_dim=96,
        k=5,
        dead_token_threshold=77,
        auxk_coefficient=0.25,
        normalize_decoder=False,
        dtype="bfloat16",
        seed=9,
    )
    model = TopK.from_config(config, Ends.same(scale, centre), torch.device("cpu"))
    assert (model.latents, model.k, model.wanted_l0, model.variance) == (96, 5, 5, 28.0)
    assert (model.firing.dead_after, model.auxk_coefficient, model.unit_decoder) == (77, 0.25, False)
    assert model.matmul_dtype is torch.bfloat16
    torch.testing.assert_close(model.b_dec.detach(), mean)
    assert torch.equal(model.W_dec, TopK.from_config(config, Ends.same(scale, centre), torch.device("cpu")).W_dec)
    with pytest.raises(ValueError, match="k"):
        TopK.from_config(TrainingConfig(latent_dim=96), Ends.same(scale, centre), torch.device("cpu"))


def test_a_checkpoint_of_another_shape_is_refused_by_name() -> None:
    model = _model("dense")
    tensors = {name: tensor.clone() for name, tensor in model.tensors().items()}
    with pytest.raises(ValueError, match="W_dec"):
        model.restore({**tensors, "W_dec": tensors["W_dec"][:, :3]})
    del tensors["firing.since"]
    with pytest.raises(ValueError, match=r"firing\.since"):
        model.restore(tensors)
