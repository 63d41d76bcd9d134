"""Transcoder and skip: losses and gradients against independent formulas, where they begin, and what latents add."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.sae import sparse
from core.sae.batchtopk import BatchTopK
from core.sae.control import Fixed
from core.sae.jumprelu import JumpReLU
from core.sae.normalisation import Ends, Normalisation, Scaled
from core.sae.registry import architecture
from core.sae.skip import SKIPS, Skip
from core.sae.topk import TopK
from core.sae.transcoder import TRANSCODERS, Transcoder
from core.training.affine import AffineFit
from core.training.student import Student
from events.training import TrainingConfig

SOURCE, TARGET, LATENTS, TOKENS, LAM, BANDWIDTH = 20, 12, 96, 40, 0.03, 0.4
CPU = torch.device("cpu")

PRODUCTS = [
    pytest.param("sparse", marks=pytest.mark.skipif(not sparse.is_fast_on(CPU), reason="needs a CPU torch with MKL")),
    "dense",
]
ACTIVATIONS = list(TRANSCODERS)


def _settings(activation: str) -> dict[str, Any]:
    if activation == "batchtopk":
        return {"k": 5}
    steered: dict[str, Any] = {"control": Fixed(LAM, 0)}
    return steered | (
        {"expected_l0": 5.0, "threshold": 0.5, "bandwidth": BANDWIDTH} if activation == "jumprelu" else {}
    )


def _new(activation: str, *, skip: bool = False, rank: int | None = None, **settings: Any) -> Transcoder:
    kinds = SKIPS if skip else TRANSCODERS
    shared: dict[str, Any] = {
        "width": TARGET,
        "latents": LATENTS,
        "variance": 7.0,
        "dead_after": 1000,
        "unit_decoder": False,
        "seed": 3,
        "centre": torch.linspace(-1, 1, TARGET),
        "source_centre": torch.linspace(-2, 4, SOURCE),
        "dtype": torch.float64,
    }
    own = {"rank": rank} if skip else {}
    return kinds[activation](**{**shared, **_settings(activation), **own, **settings})


def _under_way(activation: str, products: str, **settings: Any) -> Transcoder:
    """One whose decoder says something, with dead latents."""
    model = _new(activation, products=products, **settings)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
        model.W_enc.mul_(torch.linspace(0.8, 1.6, LATENTS)[:, None] / model.W_enc.norm(dim=1, keepdim=True))
        # Free rows of very different norms: ranked by them, other latents would be chosen.
        model.W_dec.mul_(torch.linspace(0.2, 4, LATENTS)[:, None])
    if not isinstance(model, BatchTopK):
        model._density.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    model.firing.since[::3] = 2000
    model.firing.refresh()
    return model


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TOKENS, SOURCE, generator=generator, dtype=torch.float64) + torch.linspace(-2, 4, SOURCE)
    t = torch.randn(TOKENS, TARGET, generator=generator, dtype=torch.float64) * 0.7 - 0.3
    return x, t


def _by_the_book(model: Transcoder, activation: str, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, penalty with its coefficient, and the loss for dead latents, with dense masks and autograd."""
    p = x @ model.W_enc.T + model.b_enc
    past: Tensor | float = 0.0
    if isinstance(model, Skip):
        past = x @ (model.W_skip if model.rank is None else model.W_skip @ model.Q_skip).T
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[model.firing.dead] = True
    nothing = torch.zeros((), dtype=x.dtype)
    k_aux = 5
    penalty = nothing
    if activation == "relu":
        f = p.clamp_min(0)
        penalty = LAM * (f * model.W_dec.norm(dim=1)).sum(dim=1).mean()
    elif activation == "batchtopk":
        cut = p.flatten().sort(descending=True).values[5 * TOKENS - 1]
        f = p.clamp_min(0) * (p >= cut)
    else:
        assert isinstance(model, JumpReLU)
        theta = model.theta
        with torch.no_grad():
            gate = (p > theta).to(p.dtype)
            slope = -((p - theta).abs() / BANDWIDTH < 0.5).to(p.dtype) / BANDWIDTH
        moving = gate + slope * (theta - theta.detach())
        f = p * gate + theta.detach() * (moving - moving.detach())
        penalty = LAM * moving.sum(dim=1).mean()
    error = t - f @ model.W_dec - model.b_dec - past
    reconstruction = error.square().sum(dim=1).mean() / model.variance
    if activation == "relu":
        push = ((0.1 - p).clamp_min(0) * dead).sum(dim=1).mean()
        return reconstruction, penalty, 1e-3 / model.variance * push
    rank = p.detach().masked_fill(~dead, -torch.inf)
    helping = (rank >= rank.sort(dim=1, descending=True).values[:, k_aux - 1 : k_aux]) & dead
    residual = error.detach()
    left = residual - (p.clamp_min(0) * helping) @ model.W_dec
    return reconstruction, penalty, left.square().mean() / (residual - residual.mean(dim=0)).square().mean() / 8


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("rank", ["none", "full", "low"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_definition(
    activation: str, rank: str, products: str, dtype: torch.dtype, tolerance: float
) -> None:
    skip: dict[str, Any] = {"none": {}, "full": {"skip": True}, "low": {"skip": True, "rank": 3}}[rank]
    model = _under_way(activation, products, dtype=dtype, **skip)
    x, t = (each.to(dtype) for each in _batch())
    losses = model.losses(x, 1, t)
    terms = _by_the_book(model, activation, x, t)
    for ours, theirs in zip((losses.reconstruction, losses.sparsity, losses.auxiliary), terms, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=10 * tolerance)
    assert float(losses.fvu) == pytest.approx(
        float(losses.reconstruction) * TOKENS * model.variance / float((t - t.mean(dim=0)).square().sum()),
        rel=10 * tolerance,
    )
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(sum(terms, torch.zeros(())), list(parameters.values()))
    found = torch.autograd.grad(losses.total, list(parameters.values()))
    for name, ours, theirs in zip(parameters, found, expected, strict=True):
        assert float(theirs.abs().max()) > 0, name
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance, name


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_begins_at_the_targets_mean_with_latents_centred_on_the_source(activation: str, skip: bool) -> None:
    model = _new(activation, skip=skip)
    x, _ = _batch()
    model.scale_encoder(x)
    assert torch.equal(model.reconstruct(x), torch.linspace(-1, 1, TARGET).double().expand(TOKENS, TARGET))
    assert model.W_enc.norm(dim=1).std() < 1e-6
    p = x @ model.W_enc.T + model.b_enc
    # The mean is far larger than the spread; not centred, half of the latents would fire for every token or for none.
    fires = (p > 0).double().mean(dim=0)
    assert 0.2 < float(fires.quantile(0.05)) < float(fires.quantile(0.95)) < 0.8


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_targets_bias_is_not_subtracted_from_what_it_reads(activation: str) -> None:
    # As wide as the source: nothing but the rule keeps it from being subtracted.
    model, (x, _) = _under_way(activation, "dense", width=SOURCE, centre=torch.zeros(SOURCE)), _batch()
    before = model.encode(x)
    with torch.no_grad():
        model.b_dec.add_(10.0)
    after = model.encode(x)
    assert torch.equal(before.active.col, after.active.col)
    assert torch.equal(before.values, after.values)


def test_an_autoencoder_has_no_target_and_a_transcoder_must_have_one() -> None:
    with pytest.raises(ValueError, match="TopK cannot give the activations of another hook"):
        TopK(width=4, latents=8, k=1, variance=1.0, dead_after=1, source_centre=torch.zeros(4))
    with pytest.raises(TypeError, match="source_centre"):
        TRANSCODERS["batchtopk"](width=4, latents=8, k=1, variance=1.0, dead_after=1)  # pyright: ignore
    with pytest.raises(ValueError, match="has no activation 'gelu'; there is batchtopk, relu, jumprelu"):
        architecture("transcoder", "gelu")


class _Teacher:
    """A small MLP whose input and output are to be learnt, with a linear part beside it."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.into = torch.randn(SOURCE, 40, generator=generator)
        self.out = torch.randn(40, TARGET, generator=generator)
        self.past = torch.randn(SOURCE, TARGET, generator=generator)

    def batch(self, number: int, tokens: int = 256) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 + number)
        x = torch.randn(tokens, SOURCE, generator=generator) + 1.5
        return 3 * x, 0.2 * (torch.relu(x @ self.into - 6.0) @ self.out + x @ self.past)


def _learn(kind: str, **fields: Any) -> tuple[float, float]:
    """FVU of the trained SAE, and that of an affine map, on tokens it never saw."""
    teacher = _Teacher()
    x, t = teacher.batch(-1, 4096)

    def scaled(raw: Tensor) -> Scaled:
        scale = raw.shape[1] ** 0.5 / float(raw.norm(dim=1).mean())
        centre = scale * raw.mean(dim=0)
        variance = float((scale * raw - centre).square().sum(dim=1).mean())
        return Scaled(Normalisation("expected_average_only_in", scale, variance, 1.0), centre)

    config = TrainingConfig(
        architecture_type=kind, hidden_dim=SOURCE, latent_dim=LATENTS, total_steps=400, batch_size=256,
        learning_rate=3e-3, warmup_steps=20, decay_steps=80, dead_token_threshold=20_000, target_hook_type="mlp_out",
        **fields,
    )  # type: ignore[arg-type]  # fmt: skip
    source, target = (0, "mlp_in"), (0, "mlp_out")
    student = Student.new(config, source, Ends(scaled(x), scaled(t)), CPU, target=target)
    for step in range(1, 401):
        raw, wanted = teacher.batch(step)
        student.step({source: raw, target: wanted}, step, 3e-3)
    x, t = teacher.batch(-2, 4096)
    output, _ = student.reconstruct(x)
    affine = AffineFit(SOURCE, TARGET, CPU)
    affine.add(x, t)
    without = affine.fvu()
    assert without is not None
    return float((t - output).square().sum() / (t - t.mean(dim=0)).square().sum()), without


SPARSITY: dict[str, dict[str, Any]] = {
    "batchtopk": {"k": 12},
    "relu": {"target_l0": 12 / LATENTS},
    "jumprelu": {"target_l0": 12 / LATENTS, "initial_threshold": 0.02, "bandwidth": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_skips_latents_explain_what_no_affine_map_does(activation: str) -> None:
    fvu, affine = _learn("skip", activation=activation, **SPARSITY[activation])
    assert fvu < 0.9 * affine
    alone, _ = _learn("transcoder", activation=activation, **SPARSITY[activation])
    assert fvu < alone < 0.9


def test_what_an_affine_map_leaves_is_that_of_least_squares() -> None:
    x, t = _Teacher().batch(1, 2000)
    fit = AffineFit(SOURCE, TARGET, CPU)
    for begin in range(0, 2000, 500):
        fit.add(x[begin : begin + 500], t[begin : begin + 500])
    ones = torch.cat([x, torch.ones(2000, 1)], dim=1).double()
    solved = torch.linalg.lstsq(ones[::2], t[::2].double()).solution
    left = (t[1::2].double() - ones[1::2] @ solved).square().sum()
    variation = (t[1::2] - t[1::2].mean(dim=0)).square().sum()
    assert fit.fvu() == pytest.approx(float(left / variation), rel=1e-4)
    exact = AffineFit(SOURCE, TARGET, CPU)
    exact.add(x, x[:, :TARGET] * 2 + 1)
    assert exact.fvu() == pytest.approx(0.0, abs=1e-9)
    assert AffineFit(SOURCE, TARGET, CPU).fvu() is None
