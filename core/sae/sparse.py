"""Products with the active latents only.

Of a step's `B·F` latents a few per token are active, so the decoder and every gradient need a fraction of the dense
work. The active set is kept as CSR of shape (B, F); with `S` its values and `g` the gradient of the output:

- decode `S @ W_dec`; gradient of the values `(g @ W_dec^T)` sampled at the active entries;
- both weight gradients are products with the transpose, which is built once per step by a stable sort of the columns.

The result is differentiable by autograd and equal to the dense computation up to rounding.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def _csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


with warnings.catch_warnings():
    # torch says once per process that CSR tensors are in beta; every use of them here is held by tests.
    warnings.simplefilter("ignore")
    _index = torch.zeros(2, dtype=torch.int32)
    _csr(_index, _index[:0], torch.zeros(0), (1, 1))


def is_fast_on(device: torch.device) -> bool:
    """Whether sparse products beat dense ones: on a CPU with MKL. Elsewhere torch has no fast kernel for them."""
    return device.type == "cpu" and torch.backends.mkl.is_available()


class Active:
    """Which latents are active for which token: a CSR pattern of shape (B, F), without values.

    `crow (B+1)` and `col (nnz)` are int32; columns need not be sorted within a row.
    """

    def __init__(self, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        self.crow = crow
        self.col = col
        self.shape = shape
        self._transposed: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def of_rows(cls, indices: Tensor, latents: int) -> Active:
        """Every row of `indices (B, k)` names k different latents out of `latents`."""
        tokens, k = indices.shape
        crow = torch.arange(0, tokens * k + 1, k, dtype=torch.int32, device=indices.device)
        return cls(crow, indices.flatten().to(torch.int32), (tokens, latents))

    @classmethod
    def of_mask(cls, mask: Tensor) -> tuple[Active, Tensor]:
        """The entries where `mask (B, F)` is true, and their places (nnz) in the flattened matrix.

        How many there are is read from the device: on a GPU this waits for it.
        """
        tokens, latents = mask.shape
        places = mask.flatten().nonzero().flatten()
        return cls.of_places(places, (tokens, latents)), places

    @classmethod
    def of_places(cls, places: Tensor, shape: tuple[int, int]) -> Active:
        """The entries at `places (nnz)` of the flattened matrix, in ascending order."""
        tokens, latents = shape
        bounds = torch.arange(0, (tokens + 1) * latents, latents, device=places.device)
        crow = torch.searchsorted(places, bounds, out_int32=True)
        return cls(crow, (places % latents).to(torch.int32), shape)

    def rows(self) -> Tensor:
        """The token (nnz) of every entry, int32."""
        entries = self.crow.diff().to(torch.int64)
        tokens = torch.arange(self.shape[0], dtype=torch.int32, device=self.col.device)
        return tokens.repeat_interleave(entries, output_size=self.col.shape[0])

    def dense(self, values: Tensor) -> Tensor:
        """The dense matrix (B, F) with `values (nnz)`, zeros elsewhere."""
        matrix = values.new_zeros(self.shape)
        matrix[self.rows().to(torch.int64), self.col.to(torch.int64)] = values
        return matrix

    def matrix(self, values: Tensor) -> Tensor:
        """The CSR matrix (B, F) with `values (nnz)`."""
        return _csr(self.crow, self.col, values, self.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """The CSR matrix (F, B) with `values (nnz)`, given in the order of `matrix`."""
        if self._transposed is None:
            col, order = self.col.sort(stable=True)
            bounds = torch.arange(self.shape[1] + 1, dtype=torch.int32, device=col.device)
            crow = torch.searchsorted(col, bounds, out_int32=True)
            self._transposed = crow, self.rows()[order], order
        crow, row, order = self._transposed
        return _csr(crow, row, values[order], (self.shape[1], self.shape[0]))


class _Encode(Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, centred: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None, active: Active
    ) -> Tensor:
        ctx.save_for_backward(centred, weight)
        ctx.active = active
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable is untyped
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        centred, weight = ctx.saved_tensors
        active: Active = ctx.active
        bias_gradient = weight.new_zeros(weight.shape[0]).index_add_(0, active.col, gradient)
        weight_gradient = active.transposed(gradient) @ centred
        # The centre enters every pre-activation as -W·centre: summed over the batch before the product.
        centre_gradient = -(bias_gradient @ weight) if ctx.needs_input_grad[4] else None
        return None, None, weight_gradient, bias_gradient, centre_gradient, None


class _Decode(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, active: Active) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.active = active
        return active.matrix(values) @ weight

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable is untyped
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        values, weight = ctx.saved_tensors
        active: Active = ctx.active
        sampled = torch.sparse.sampled_addmm(active.matrix(values), gradient, weight.T, beta=0.0).values()
        weight_gradient = active.transposed(values) @ gradient if ctx.needs_input_grad[1] else None
        return sampled, weight_gradient, None


def encode(
    values: Tensor, centred: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None, active: Active
) -> Tensor:
    """The active pre-activations with their gradient.

    `values (nnz)` are the entries of `centred @ weight^T + bias` at `active`, computed without gradient, where
    `centred (B, n)` is the input less `centre (n)` (None: the input); `weight (F, n)`, `bias (F)`. Returns `values`
    with a gradient for weight, bias and centre.
    """
    return _Encode.apply(values, centred, weight, bias, centre, active)  # pyright: ignore[reportReturnType]


def decode(values: Tensor, weight: Tensor, active: Active) -> Tensor:
    """`f @ weight` (B, m), where f has `values (nnz)` at `active` and zeros elsewhere; `weight (F, m)`."""
    return _Decode.apply(values, weight, active)  # pyright: ignore[reportReturnType]
