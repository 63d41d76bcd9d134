"""Gated: whether a latent is active and how strong it is are decided apart (Rajamanoharan et al. 2024,
arXiv 2404.16014, 3.2).

    u = (x - b_dec) W_enc;   g = H(u + b_gate);   f = g · relu(u · exp(r_mag) + b_mag);   t_hat = f W_dec + b_dec
    a = relu(u + b_gate);    L = mean‖x - t_hat‖² / V + lam · mean Σ_i a_i ‖W_dec_i‖ + mean‖x - t_hat_a‖² / V + L_dead

The penalty makes the gates few without making the latents small. Gates have no gradient of their own: they learn from
the penalty and from what they alone would reconstruct, t_hat_a = a W_dec + b_dec, and both hold decoder and norms
still, or the decoder would learn to please them. What dead latents learn from is the push of `SizePenalised`.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from . import sparse
from .autoencoder import Code, Shared, Whole
from .control import Control
from .penalised import SizePenalised, Terms


class Gated(SizePenalised):
    """Parameters `b_gate`, `b_mag`, `r_mag (F)`, all 0 in the beginning, in place of b_enc."""

    def __init__(self, *, control: Control, **shared: Unpack[Shared]) -> None:
        super().__init__(control=control, **shared)
        zeros = self.b_enc.detach()
        del self.b_enc
        # The pre-activations that are shared with other architectures have a bias; here it is none.
        self.register_buffer("b_enc", zeros, persistent=False)
        self.b_gate = nn.Parameter(zeros.clone())
        self.b_mag = nn.Parameter(zeros.clone())
        self.r_mag = nn.Parameter(zeros.clone())

    def threshold(self) -> Tensor:
        return -self.b_gate

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        u = self._pre_activations(self._centred(x), gradient=False).to(x.dtype)
        active, places = sparse.Active.of_mask(u > self.threshold())
        return Code(self._magnitudes(u.flatten()[places], active.col), active)

    @torch.no_grad()
    def _encode_dense(self, x: Tensor) -> Tensor:
        u = self._pre_activations(self._centred(x), gradient=False).to(x.dtype)
        return torch.where(u > self.threshold(), torch.relu(u * self.r_mag.exp() + self.b_mag), 0)

    def _magnitudes(self, u: Tensor, columns: Tensor) -> Tensor:
        """f (nnz) of open gates: their pre-activations `u (nnz)` in `columns (nnz)`."""
        return torch.relu(u * self.r_mag.exp()[columns] + self.b_mag[columns])

    def _dense(self, p: Tensor, tokens: int) -> Terms:
        a = torch.relu(p + self.b_gate)
        f = torch.where(a.detach() > 0, torch.relu(p * self.r_mag.exp() + self.b_mag), 0)
        hits = (f.detach() > 0).sum(dim=0)
        return Terms(
            output=self._product(f, self.W_dec),
            penalty=self._penalty(a.sum(dim=0), tokens),
            hits=hits,
            entries=(a.detach() > 0).sum(),
            gate=self._product(a, self.W_dec.detach()),
        )

    def _sparse(self, p: Tensor, centred: Tensor, tokens: int) -> Terms:
        active, places = sparse.Active.of_mask(p > self.threshold().detach())
        u = self._active_pre_activations(p.flatten()[places], centred, active)
        a = u + self.b_gate[active.col]
        f = self._magnitudes(u, active.col)
        sizes = a.new_zeros(self.latents).index_add(0, active.col, a)
        fired = (f.detach() > 0).to(torch.int64)
        return Terms(
            output=sparse.decode(f, self.W_dec, active),
            penalty=self._penalty(sizes, tokens),
            hits=torch.zeros_like(self.firing.counts).index_add_(0, active.col, fired),
            entries=torch.full((), places.numel(), dtype=torch.int64, device=p.device),
            gate=sparse.decode(a, self.W_dec.detach(), active),
        )

    def _penalty(self, sizes: Tensor, tokens: int) -> Tensor:
        """mean Σ_i a_i ‖W_dec_i‖ from `sizes (F)`, the open gates' sums over the batch."""
        return (sizes * self.W_dec.detach().norm(dim=1)).sum() / tokens

    def _bring_back(
        self, p: Tensor, centred: Tensor, residual: Tensor, whole: Whole | None, *, with_sparse: bool
    ) -> Tensor:
        return self._push(centred, self.b_gate, whole)
