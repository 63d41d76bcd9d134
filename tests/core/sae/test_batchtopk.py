"""BatchTopK and Matryoshka: loss and gradients against independent formulas, the cut, the threshold."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from core.sae import batchtopk, sparse
from core.sae.batchtopk import BatchTopK
from core.sae.matryoshka import Matryoshka
from core.sae.normalisation import Ends, normalisation
from core.sae.registry import architecture
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
KINDS = [BatchTopK, Matryoshka]


def _model(
    kind: type[BatchTopK],
    products: str = "dense",
    *,
    unit: bool = True,
    dead: bool = True,
    dtype: torch.dtype = torch.float64,
) -> BatchTopK:
    model = kind(
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
    # Tokens of very different sizes: they share their latents unequally.
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(0.1, 3.0, TOKENS, dtype=dtype)[:, None]
    return torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype) * sizes + 0.5


def _by_the_book(model: BatchTopK, x: Tensor, *, unit: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction loss, auxiliary loss and active entries, from the definition with dense masks and autograd."""
    W_enc, b_enc, W_dec, b_dec = model.W_enc, model.b_enc, model.W_dec, model.b_dec
    p = (x - b_dec) @ W_enc.T + b_enc
    rank = (p if unit else p * W_dec.norm(dim=1)).detach()
    kept = (rank >= rank.flatten().sort(descending=True).values[K * TOKENS - 1]) & (rank > 0)
    f = torch.relu(p) * kept
    sizes = [LATENTS // 16, LATENTS // 4, LATENTS // 2, LATENTS] if isinstance(model, Matryoshka) else [LATENTS]
    errors = [x - (f[:, :size] @ W_dec[:size] + b_dec) for size in sizes]
    reconstruction = sum((e.square().sum(dim=1).mean() / model.variance for e in errors), torch.zeros(())) / len(sizes)
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[model.firing.dead] = True
    k_aux = min(WIDTH // 2, K)
    masked = rank.masked_fill(~dead, -torch.inf)
    helping = (masked >= masked.sort(dim=1, descending=True).values[:, k_aux - 1 : k_aux]) & dead
    residual = errors[-1].detach()
    left = residual - torch.relu(p) * helping @ W_dec
    spread = (residual - residual.mean(dim=0)).square().mean()
    auxiliary = model.auxk_coefficient * min(1.0, int(dead.sum()) / k_aux) * left.square().mean() / spread
    return reconstruction, auxiliary, kept


def _gradients(loss: Tensor, model: BatchTopK) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_definition(
    kind: type[BatchTopK], products: str, unit: bool, dtype: torch.dtype, tolerance: float
) -> None:
    model, x = _model(kind, products, unit=unit, dtype=dtype), _batch(dtype)
    losses = model.losses(x, 1)
    found = _gradients(losses.total, model)
    reconstruction, auxiliary, kept = _by_the_book(model, x, unit=unit)
    expected = _gradients(reconstruction + auxiliary, model)
    assert auxiliary.item() > 0.01
    assert losses.reconstruction.item() == pytest.approx(reconstruction.item(), rel=tolerance)
    assert losses.auxiliary.item() == pytest.approx(auxiliary.item(), rel=tolerance)
    assert losses.l0.item() == pytest.approx(float(kept.sum()) / TOKENS)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
def test_the_gradient_is_the_slope_of_the_loss(kind: type[BatchTopK], products: str) -> None:
    model, x = _model(kind, products, dead=False), _batch()
    generator = torch.Generator().manual_seed(8)
    directions = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in model.parameters()]
    gradients = _gradients(model.losses(x, 1).total, model)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def loss_at(distance: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, direction in zip(moved.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=distance)
        return moved.losses(x, 1).total.item()

    assert (loss_at(1e-7) - loss_at(-1e-7)) / 2e-7 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("products", PRODUCTS)
def test_the_order_of_tokens_in_a_batch_does_not_matter(kind: type[BatchTopK], products: str) -> None:
    x = _batch()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    first, second = _model(kind, products).losses(x, 1), _model(kind, products).losses(x[order], 1)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("products", PRODUCTS)
def test_a_token_may_take_more_than_the_candidates_that_are_looked_at(products: str) -> None:
    model, x = _model(BatchTopK, products, dead=False), _batch() * 0.01
    x[7] = 100 * torch.linspace(-1, 1, WIDTH)
    losses = model.losses(x, 1)
    reconstruction, _, kept = _by_the_book(model, x, unit=True)
    assert int(kept[7].sum()) > batchtopk.CANDIDATES * K
    assert losses.l0.item() == pytest.approx(K)
    assert losses.reconstruction.item() == pytest.approx(reconstruction.item(), rel=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.98, 1.02, 1.3, float("nan")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_does_not_depend_on_the_threshold_near_which_it_is_looked_for(
    kind: type[BatchTopK], threshold: float
) -> None:
    """Thresholds over the batch's cut: about none of the values lies above the last ones."""
    model, x = _model(kind, "sparse" if sparse.is_fast_on(torch.device("cpu")) else "dense"), _batch()
    p = (x - model.b_dec) @ model.W_enc.T + model.b_enc
    rank = p.detach()
    cut = rank.flatten().sort(descending=True).values[K * TOKENS - 1]
    model.threshold = threshold * cut
    kept, found = model._choose(rank, 1, None)
    active, places = kept.pattern()
    assert found == cut
    assert torch.equal(kept.mask(), rank >= cut)
    # Nor does the order of what is kept.
    assert torch.equal(places, (rank >= cut).flatten().nonzero().flatten())
    assert torch.equal(active.rows() * LATENTS + active.col, places.to(torch.int32))
    model._apart = 1
    _, places = model._choose(rank, 1, None)[0].pattern()
    expected = torch.arange(TOKENS)[:, None] * LATENTS + rank.topk(K, dim=1, sorted=False).indices
    assert torch.equal(places, expected.flatten())


@pytest.mark.parametrize("products", PRODUCTS)
def test_most_of_the_run_each_token_has_latents_of_its_own_as_in_topk(products: str) -> None:
    model, x = _model(BatchTopK, products), _batch()
    model._apart = 5
    topk = TopK(
        width=WIDTH, latents=LATENTS, k=K, variance=30.0, dead_after=1000, dtype=torch.float64, products=products
    )
    topk.restore({name: tensor for name, tensor in model.tensors().items() if name != "threshold"})
    for step in (1, 5):
        ours, theirs = model.losses(x, step), topk.losses(x, step)
        for name in ("total", "reconstruction", "auxiliary", "l0", "fvu"):
            assert getattr(ours, name).item() == pytest.approx(getattr(theirs, name).item(), rel=1e-12), name
        for one, other in zip(_gradients(ours.total, model), _gradients(theirs.total, topk), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        # Inference already shares them, whatever the step kept.
        assert model.encode(x).values.shape[0] == K * TOKENS - 1
    shared = model.losses(x, 6)
    assert shared.l0.item() == pytest.approx(K)
    assert shared.reconstruction.item() != pytest.approx(topk.losses(x, 6).reconstruction.item(), rel=1e-3)


@pytest.mark.parametrize("products", PRODUCTS)
def test_what_is_not_positive_is_not_kept(products: str) -> None:
    model, x = _model(BatchTopK, products, dead=False), _batch()
    with torch.no_grad():
        model.b_enc.fill_(-9.0)
    losses = model.losses(x, 1)
    p = (x - model.b_dec) @ model.W_enc.T + model.b_enc
    assert losses.l0.item() == pytest.approx(min(K, float((p > 0).sum()) / TOKENS))
    assert losses.l0.item() < K


def test_the_threshold_is_the_mean_of_the_cuts_since_the_warm_up() -> None:
    model = BatchTopK(width=WIDTH, latents=LATENTS, k=K, variance=30.0, dead_after=1000, warmup=3, seed=2)
    cuts: list[float] = []
    for step in range(1, 10):
        x = _batch(torch.float32, seed=step)
        rank = ((x - model.b_dec) @ model.W_enc.T + model.b_enc).detach()
        cuts.append(float(rank.flatten().topk(K * TOKENS).values.min()))
        model.losses(x, step)
        wanted = cuts[-1] if step <= 3 else sum(cuts[3:]) / len(cuts[3:])
        assert float(model.threshold) == pytest.approx(wanted, rel=1e-5)
    kept = model.tensors()
    again = BatchTopK(width=WIDTH, latents=LATENTS, k=K, variance=30.0, dead_after=1000, warmup=3, seed=5)
    again.restore(kept)
    assert again.threshold == model.threshold
    # It begins anew where tokens begin to share their latents.
    again._apart = 12
    for step in range(11, 15):
        x = _batch(torch.float32, seed=step)
        cuts.append(float(again.losses(x, step).seen.cut))  # type: ignore[arg-type]
    assert float(again.threshold) == pytest.approx(sum(cuts[-2:]) / 2, rel=1e-6)
    again.restore(kept)
    # A batch that is broken leaves it alone.
    model.losses(torch.full((TOKENS, WIDTH), torch.nan), 10)
    assert again.threshold == model.threshold


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [True, False])
def test_inference_keeps_what_exceeds_the_threshold_one_token_at_a_time(kind: type[BatchTopK], unit: bool) -> None:
    model, x = _model(kind, unit=unit, dead=False), _batch()
    model.losses(x, 1)
    whole = model.encode(x)
    # Training keeps the smallest, inference what is larger.
    assert whole.values.shape[0] == K * TOKENS - 1
    # Away from the one that lies upon it, which products of another shape round differently.
    model.threshold = model.threshold * (1 + 1e-6)
    single = torch.cat([model.reconstruct(x[i : i + 1]) for i in range(TOKENS)])
    torch.testing.assert_close(model.reconstruct(x), single, rtol=1e-10, atol=1e-10)


def test_free_decoder_norms_can_be_folded_into_the_encoder() -> None:
    free, folded, x = _model(BatchTopK, unit=False), _model(BatchTopK, unit=True), _batch()
    norms = free.W_dec.detach().norm(dim=1)
    with torch.no_grad():
        folded.W_dec.copy_(free.W_dec / norms[:, None])
        folded.W_enc.copy_(free.W_enc * norms[:, None])
        folded.b_enc.copy_(free.b_enc * norms)
    free.losses(x, 1)
    folded.losses(x, 1)
    torch.testing.assert_close(free.reconstruct(x), folded.reconstruct(x), rtol=1e-12, atol=1e-12)


def test_the_first_sizes_of_a_matryoshka_do_alone_what_they_can() -> None:
    model = _model(Matryoshka)
    assert isinstance(model, Matryoshka)
    assert model.sizes == [10, 40, 80, 160]
    assert Matryoshka(width=8, latents=8, k=2, variance=1.0, dead_after=10).sizes == [1, 2, 4, 8]


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_a_configuration_makes_one_and_says_what_is_missing(name: str) -> None:
    sample = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0))
    scale, centre = normalisation("none", mean=sample.mean(dim=0), mean_norm=1.0, variance=20.0, sample=sample)
    config = TrainingConfig(
        architecture_type=name,  # type: ignore[arg-type]
        latent_dim=LATENTS,
        dead_token_threshold=100,
        k=K,
        warmup_steps=5,
        share_latents_after=0.8,
    )
    made = architecture(name).from_config(config, Ends.same(scale, centre), torch.device("cpu"))
    assert isinstance(made, BatchTopK)
    assert (made.wanted_l0, made.latents, made.unit_decoder) == (K, LATENTS, True)
    assert made._apart == 0.8 * config.total_steps
    without = TrainingConfig(architecture_type=name, latent_dim=LATENTS, dead_token_threshold=100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be set"):
        architecture(name).from_config(without, Ends.same(scale, centre), torch.device("cpu"))


def test_k_must_fit_the_latents() -> None:
    with pytest.raises(ValueError, match="between 1 and the number of latents, 160; got 161"):
        BatchTopK(width=WIDTH, latents=LATENTS, k=161, variance=1.0, dead_after=1)
