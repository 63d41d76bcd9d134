"""Sparse products equal the dense ones, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.sae import sparse

pytestmark = pytest.mark.skipif(
    not sparse.is_fast_on(torch.device("cpu")), reason="sparse products need a CPU torch with MKL"
)

TOKENS, WIDTH, LATENTS = 7, 5, 11


@pytest.fixture
def uneven() -> tuple[sparse.Active, Tensor]:
    """Rows with 0 to 4 active latents, some latents never active; and the same as a mask."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(TOKENS, LATENTS, generator=generator) < 0.2
    mask[2] = False
    mask[:, 4] = False
    csr = mask.double().to_sparse_csr()
    active = sparse.Active(csr.crow_indices().int(), csr.col_indices().int(), (TOKENS, LATENTS))
    return active, mask


def _leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def test_decoding_rows_of_unequal_length_has_the_right_gradient(uneven: tuple[sparse.Active, Tensor]) -> None:
    active, mask = uneven
    values, weight = _leaves((int(mask.sum()),), (LATENTS, WIDTH))
    assert torch.autograd.gradcheck(lambda v, w: sparse.decode(v, w, active), (values, weight))
    dense = torch.zeros(TOKENS, LATENTS, dtype=torch.float64).masked_scatter(mask, values.detach())
    torch.testing.assert_close(sparse.decode(values, weight, active), dense @ weight, rtol=1e-12, atol=1e-12)


def test_encoding_gives_the_active_entries_the_gradient_of_the_dense_product(
    uneven: tuple[sparse.Active, Tensor],
) -> None:
    active, mask = uneven
    x, weight, bias, centre = _leaves((TOKENS, WIDTH), (LATENTS, WIDTH), (LATENTS,), (WIDTH,))
    x.requires_grad_(False)
    seed = torch.randn(int(mask.sum()), generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    dense = ((x - centre) @ weight.T + bias)[mask]
    expected = torch.autograd.grad(dense, (weight, bias, centre), seed)
    values = sparse.encode(dense.detach(), (x - centre).detach(), weight, bias, centre, active)
    found = torch.autograd.grad(values, (weight, bias, centre), seed)
    assert torch.equal(values, dense)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_unsorted_columns_are_the_same_pattern() -> None:
    indices = torch.tensor([[3, 0], [1, 2], [3, 1]])
    values = torch.tensor([1.0, 2, 3, 4, 5, 6])
    active = sparse.Active.of_rows(indices, 5)
    dense = torch.zeros(3, 5).scatter(1, indices, values.reshape(3, 2))
    assert torch.equal(active.matrix(values).to_dense(), dense)
    assert torch.equal(active.transposed(values).to_dense(), dense.T)
