"""Standard: every positive pre-activation is a latent, and a penalty on their sizes keeps them few.

    p = (x - b_dec) W_enc + b_enc;   f = relu(p);   t_hat = f W_dec + b_dec
    L = mean‖x - t_hat‖² / V + lam · mean Σ_i f_i ‖W_dec_i‖ + lam_P · mean Σ_dead relu(0.1 - p_i)

(Bricken et al. 2023; weighted by the decoder's norms: Anthropic, Circuits Updates April 2024.) A dead latent has p <= 0
everywhere and no gradient but that of the last term, lam_P = 1e-3 / V (after Circuits Updates January 2025, for dead
latents only). The penalty makes latents smaller than they should be; this shrinkage is inherent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import sparse
from .autoencoder import Whole
from .penalised import SizePenalised, Terms


class Standard(SizePenalised):
    """Autoencoder with a penalty on the size of its latents."""

    def threshold(self) -> float:
        return 0.0

    def _dense(self, p: Tensor, tokens: int) -> Terms:
        f = torch.relu(p)
        hits = (f.detach() > 0).sum(dim=0)
        return Terms(self._product(f, self.W_dec), self._penalty(f.sum(dim=0), tokens), hits, hits.sum())

    def _sparse(self, p: Tensor, centred: Tensor, tokens: int) -> Terms:
        active, places = sparse.Active.of_mask(p > 0)
        f = self._active_pre_activations(p.flatten()[places], centred, active)
        sizes = f.new_zeros(self.latents).index_add(0, active.col, f)
        hits = torch.zeros_like(self.firing.counts).index_add_(0, active.col, torch.ones_like(places))
        penalty = self._penalty(sizes, tokens)
        return Terms(sparse.decode(f, self.W_dec, active), penalty, hits, hits.sum())

    def _penalty(self, sizes: Tensor, tokens: int) -> Tensor:
        """mean Σ_i f_i ‖W_dec_i‖ from `sizes (F)`, the latents' sums over the batch."""
        return (sizes * self.W_dec.norm(dim=1)).sum() / tokens

    def _bring_back(
        self, p: Tensor, centred: Tensor, residual: Tensor, whole: Whole | None, *, with_sparse: bool
    ) -> Tensor:
        return self._push(centred, self.b_enc, whole)
