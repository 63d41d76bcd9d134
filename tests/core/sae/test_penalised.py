"""Standard and JumpReLU: losses and gradients against independent formulas, and each trap that can be tested."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.sae import sparse
from core.sae.autoencoder import Losses
from core.sae.control import Fixed
from core.sae.gated import Gated
from core.sae.jumprelu import JumpReLU, jump
from core.sae.normalisation import Ends, Normalisation
from core.sae.penalised import Penalised
from core.sae.standard import Standard
from events.training import TrainingConfig

WIDTH, LATENTS, TOKENS, LAM = 24, 160, 48, 0.03
BANDWIDTH = 0.4
CPU = torch.device("cpu")

PRODUCTS = [
    pytest.param("sparse", marks=pytest.mark.skipif(not sparse.is_fast_on(CPU), reason="needs a CPU torch with MKL")),
    "dense",
]
KINDS = ["standard", "jumprelu", "gated"]


def _model(
    kind: str, products: str = "dense", *, dead: bool = True, dtype: torch.dtype = torch.float64, lam: float = LAM
) -> Penalised:
    shared: dict[str, Any] = {
        "width": WIDTH,
        "latents": LATENTS,
        "variance": 30.0,
        "dead_after": 1000,
        "seed": 2,
        "centre": torch.linspace(-1, 1, WIDTH),
        "dtype": dtype,
        "products": products,
        "control": Fixed(lam, 0),
    }
    model = {
        "standard": lambda: Standard(**shared),
        "gated": lambda: Gated(**shared),
        "jumprelu": lambda: JumpReLU(expected_l0=6.0, threshold=0.5, bandwidth=BANDWIDTH, **shared),
    }[kind]()
    with torch.no_grad():
        model.W_enc.mul_(torch.linspace(3, 8, LATENTS)[:, None])
        model.W_dec.mul_(torch.linspace(5, 15, LATENTS)[:, None])
        (model.b_gate if isinstance(model, Gated) else model.b_enc).copy_(torch.linspace(-1.6, -0.6, LATENTS))
        if isinstance(model, Gated):
            # Some open gates let nothing through.
            model.b_mag.copy_(torch.linspace(-3, 0.5, LATENTS))
            model.r_mag.copy_(torch.linspace(-0.2, 0.4, LATENTS))
        if isinstance(model, JumpReLU):
            model.theta.mul_(torch.linspace(0.5, 1.5, LATENTS))
    model._density.zero_()  # so that the very first step has sparse products
    if dead:
        model.firing.since[::3] = 2000
        model.firing.refresh()
    return model


def _batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 1.2 + 0.5


def _heaviside(p: Tensor, theta: Tensor) -> Tensor:
    """H(p - theta) with -K/eps as the gradient of theta: a term without value carries it."""
    with torch.no_grad():
        gate = (p > theta).to(p.dtype)
        slope = -((p - theta).abs() / BANDWIDTH < 0.5).to(p.dtype) / BANDWIDTH
    return gate + slope * (theta - theta.detach())


def _by_the_book(model: Penalised, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, penalty with its coefficient, and the loss for dead latents, with dense masks and autograd."""
    W_enc, b_enc, W_dec, b_dec = model.W_enc, model.b_enc, model.W_dec, model.b_dec
    p = (x - b_dec) @ W_enc.T + b_enc
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[model.firing.dead] = True
    if isinstance(model, Gated):
        opened = p + model.b_gate
        a = opened.clamp_min(0)
        f = (p * model.r_mag.exp() + model.b_mag).clamp_min(0) * (opened > 0)
        penalty = LAM * (a * W_dec.detach().norm(dim=1)).sum(dim=1).mean()
        push = 1e-3 / model.variance * ((0.1 - opened).clamp_min(0) * dead).sum(dim=1).mean()
        gate = (x - a @ W_dec.detach() - b_dec.detach()).square().sum(dim=1).mean() / model.variance
        return (x - f @ W_dec - b_dec).square().sum(dim=1).mean() / model.variance, penalty, push + gate
    if not isinstance(model, JumpReLU):
        f = p.clamp_min(0)
        penalty = LAM * (f * W_dec.norm(dim=1)).sum(dim=1).mean()
        auxiliary = 1e-3 / model.variance * ((0.1 - p).clamp_min(0) * dead).sum(dim=1).mean()
        return (x - f @ W_dec - b_dec).square().sum(dim=1).mean() / model.variance, penalty, auxiliary
    gate = _heaviside(p, model.theta)
    # df/dtheta = -(theta/eps) K: theta, not p, multiplies the kernel.
    f = p * gate.detach() + model.theta.detach() * (gate - gate.detach())
    error = x - f @ W_dec - b_dec
    rank = (p * W_dec.norm(dim=1)).detach().masked_fill(~dead, -torch.inf)
    helping = (rank >= rank.sort(dim=1, descending=True).values[:, 5:6]) & dead
    residual = error.detach()
    left = residual - p.clamp_min(0) * helping @ W_dec
    share = min(1.0, int(dead.sum()) / 6)
    auxiliary = share / 8 * left.square().mean() / (residual - residual.mean(dim=0)).square().mean()
    return error.square().sum(dim=1).mean() / model.variance, LAM * gate.sum(dim=1).mean(), auxiliary


def _gradients(loss: Tensor, model: Penalised) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_definition(
    kind: str, products: str, dtype: torch.dtype, tolerance: float
) -> None:
    model, x = _model(kind, products, dtype=dtype), _batch(dtype)
    losses = model.losses(x, 1)
    terms = _by_the_book(model, x)
    expected = _gradients(sum(terms, torch.zeros((), dtype=dtype)), model)
    for ours, theirs in zip((losses.reconstruction, losses.sparsity, losses.auxiliary), terms, strict=True):
        assert theirs.item() > 1e-4
        assert ours.item() == pytest.approx(theirs.item(), rel=10 * tolerance)
    fvu = terms[0] * TOKENS * model.variance / (x - x.mean(dim=0)).square().sum()
    assert losses.fvu.item() == pytest.approx(fvu.item(), rel=10 * tolerance)
    for ours, theirs in zip(_gradients(losses.total, model), expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_gradient_of_standard_is_the_slope_of_its_loss(products: str) -> None:
    model, x = _model("standard", products), _batch()
    generator = torch.Generator().manual_seed(8)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
    gradients = _gradients(model.losses(x, 1).total, model)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

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


def test_the_kernel_is_a_rectangle_around_the_threshold_and_sees_both_its_halves() -> None:
    offsets = torch.tensor([-0.21, -0.19, 0.0, 0.19, 0.21], dtype=torch.float64)
    theta = torch.full((5,), 0.7, dtype=torch.float64, requires_grad=True)
    p = (theta.detach() + offsets).requires_grad_()
    f, gate = jump(p, theta, BANDWIDTH)
    assert gate.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(f, p.detach() * gate)
    of_theta, of_p = torch.autograd.grad(f.sum(), (theta, p), retain_graph=True)
    torch.testing.assert_close(of_theta, -0.7 / BANDWIDTH * torch.tensor([0.0, 1, 1, 1, 0]).double())
    assert of_p.tolist() == [0, 0, 0, 1, 1]
    of_theta, of_p = torch.autograd.grad(gate.sum(), (theta, p))
    torch.testing.assert_close(of_theta, -1 / BANDWIDTH * torch.tensor([0.0, 1, 1, 1, 0]).double())
    assert of_p.tolist() == [0] * 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
def test_the_order_of_tokens_in_a_batch_does_not_matter(kind: str, products: str) -> None:
    x = _batch()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    first, second = _model(kind, products).losses(x, 1), _model(kind, products).losses(x[order], 1)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
def test_a_batch_without_any_active_latent_is_a_batch(kind: str, products: str) -> None:
    model = _model(kind, products, dead=False)
    with torch.no_grad():
        model.b_enc.fill_(-100.0)
    losses = model.losses(_batch(), 1)
    losses.total.backward()
    assert (float(losses.l0), float(losses.sparsity)) == (0.0, 0.0)
    assert torch.equal(model.reconstruct(_batch()), model.b_dec.detach().expand(TOKENS, WIDTH))
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
def test_inference_reconstructs_what_training_does(kind: str, products: str) -> None:
    model, x = _model(kind, products, dead=False), _batch()
    code, losses = model.encode(x), model.losses(x, 1)
    assert float(losses.l0) == pytest.approx(float((code.values > 0).sum()) / TOKENS)
    assert float(code.values.min()) >= 0
    assert 1 < float(losses.l0) < LATENTS / 4
    error = x - model.decode(code, x)
    assert float(error.square().sum() / (TOKENS * model.variance)) == pytest.approx(
        float(losses.reconstruction), rel=1e-12
    )
    assert torch.equal(code.active.dense(code.values).count_nonzero(dim=0), model.firing.counts)


def test_the_norm_of_decoder_rows_cannot_be_used_to_dodge_the_penalty() -> None:
    def penalty(factor: float) -> Losses:
        model = _model("standard", dead=False)
        with torch.no_grad():
            model.W_dec.mul_(factor)
            model.W_enc.div_(factor)
            model.b_enc.div_(factor)
        return model.losses(_batch(), 1)

    for ours, theirs in zip(penalty(1.0), penalty(7.0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


@pytest.mark.parametrize("products", PRODUCTS)
def test_dead_latents_of_standard_are_pushed_and_live_ones_left(products: str) -> None:
    model, without, x = _model("standard", products), _model("standard", products, dead=False), _batch()
    ours, theirs = (_gradients(each.losses(x, 1).total, each) for each in (model, without))
    moved = ours[1] - theirs[1]
    alive = torch.ones(LATENTS, dtype=torch.bool)
    alive[model.firing.dead] = False
    assert float(moved[alive].abs().max()) < 1e-15
    assert float(moved[~alive].max()) < 0  # descent raises their bias


def _l0_under(lam: float, model: Penalised, steps: int = 150) -> float:
    """Mean L0 of the last steps of a training with this coefficient."""
    model.control = Fixed(lam, 0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    l0 = []
    for step in range(1, steps + 1):
        if step % 8 == 0:
            model.firing.refresh()
        optimiser.zero_grad()
        losses = model.losses(torch.randn(64, WIDTH, generator=generator), step)
        losses.total.backward()
        model.before_update()
        optimiser.step()
        model.after_update()
        l0.append(float(losses.l0))
    return sum(l0[-20:]) / 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_coefficient_leaves_fewer_latents(kind: str) -> None:
    small, large = (_l0_under(lam, _model(kind, dead=False, dtype=torch.float32)) for lam in (1e-4, 3e-2))
    assert large < 0.7 * small


def test_thresholds_stay_float32_above_zero_and_apart() -> None:
    model = _model("jumprelu", dtype=torch.float32)
    assert isinstance(model, JumpReLU)
    with torch.no_grad():
        model.theta[3] = -0.5
    model.after_update()
    assert model.theta.dtype == torch.float32
    assert _from_config("jumprelu", target_l0=0.05, dtype="bfloat16").get_parameter("theta").dtype == torch.float32
    assert float(model.theta.detach().min()) == 0.0
    assert JumpReLU.unclipped == ("theta",)


@pytest.mark.parametrize("kind", KINDS)
def test_free_rows_start_short_with_an_equal_encoder_and_unit_rows_are_kept(kind: str) -> None:
    def of(normalize: bool) -> Penalised:
        model = _from_config(kind, target_l0=0.05, normalize_decoder=normalize)
        model.scale_encoder(_batch(torch.float32))
        return model

    free, unit = of(False), of(True)
    torch.testing.assert_close(free.W_dec.norm(dim=1), torch.full((LATENTS,), 0.1))
    assert torch.equal(free.W_enc, free.W_dec)
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(LATENTS))
    assert not torch.equal(unit.W_enc, unit.W_dec)
    with torch.no_grad():
        unit.W_dec.mul_(3)
    unit.after_update()
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(LATENTS))


def _from_config(kind: str, **fields: Any) -> Penalised:
    build: Callable[..., Penalised] = {
        "standard": Standard,
        "jumprelu": JumpReLU,
        "gated": Gated,
    }[kind].from_config
    extra = {"initial_threshold": 0.03, "bandwidth": 0.2} if kind == "jumprelu" else {}
    values = {"latent_dim": LATENTS, "dead_token_threshold": 77, "warmup_steps": 10, "total_steps": 100, **extra}
    config = TrainingConfig(architecture_type=kind, **{**values, **fields})  # type: ignore[arg-type]
    return build(config, Ends.same(Normalisation("none", 1.0, 28.0, 0.0), torch.zeros(WIDTH)), CPU)


def _lam(model: Penalised, step: int) -> float:
    return float(model.control.coefficient(torch.tensor(8.0), torch.tensor(True), step))


@pytest.mark.parametrize(("steps", "haste"), [(100, 2.0), (1_500, 2.0), (2_000, 1.5), (3_000, 1.0), (50_000, 1.0)])
def test_the_control_hurries_in_short_runs_and_while_the_learning_rate_falls(steps: int, haste: float) -> None:
    model = _from_config("standard", target_l0=4 / LATENTS, total_steps=steps, decay_steps=steps // 5, warmup_steps=0)

    def moved(step: int) -> float:
        before = float(model.control.tensors()["integral"])
        _lam(model, step)
        return float(model.control.tensors()["integral"]) - before

    error = math.log(0.9 + 0.1 * 2)
    assert moved(1) == pytest.approx(0.003 * haste * error)
    model.control.restore({**model.control.tensors(), "l0": torch.tensor(4.0, dtype=torch.float64)})
    assert moved(steps - steps // 5 + 1) == pytest.approx(4 * 0.003 * haste * error)


def test_the_configuration_reaches_the_model() -> None:
    model = _from_config("jumprelu", sparsity_coeff=0.5, l1_alpha=9.0, auxk_coefficient=0.25)
    assert isinstance(model, JumpReLU)
    assert (model.wanted_l0, model.bandwidth, model.auxk_coefficient) == (None, 0.2, 0.25)
    assert torch.equal(model.theta, torch.full((LATENTS,), 0.03))
    assert [_lam(model, step) for step in (1, 5, 90)] == pytest.approx([0.1, 0.5, 0.5])
    assert _lam(_from_config("jumprelu", l1_alpha=9.0), 100) == 9.0
    assert _lam(_from_config("standard", l1_alpha=0.2), 100) == 0.2
    steered = _from_config("standard", target_l0=0.05, l1_alpha=0.2)
    assert (steered.wanted_l0, steered.variance, steered.firing.dead_after) == (8.0, 28.0, 77)
    assert _lam(steered, 1) == pytest.approx(0.2)
    assert _lam(_from_config("standard", target_l0=0.05), 1) == pytest.approx(0.4 / (28 * 8) ** 0.5)
    for kind in KINDS:
        with pytest.raises(ValueError, match="target_l0"):
            _from_config(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_products_become_sparse_once_few_entries_are_left(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _model(kind, "sparse", dead=False), _batch()
    model._density.fill_(1.0)
    paths: list[str] = []
    for name in ("_dense", "_sparse"):
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *a, n=name, o=original: (paths.append(n), o(*a))[1])
    for _ in range(3):
        model.losses(x, 1)
    assert paths == ["_dense", "_sparse", "_sparse"]
    assert 0 < float(model._density) < 0.15
