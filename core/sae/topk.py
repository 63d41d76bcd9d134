"""TopK: the k largest pre-activations of each token are its latents (Gao et al. 2024, arXiv 2406.04093).

    p = (x - b_dec) W_enc + b_enc;   f = relu(p) on the k largest of each token;   t_hat = f W_dec + b_dec
    L = mean‖x - t_hat‖² / V + alpha · L_aux

With free decoder rows the k are chosen by p_i·‖W_dec_i‖, so that folding the norms into the encoder changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import sparse
from .autoencoder import Code, Losses, Seen, Whole
from .counted import Counted


class TopK(Counted):
    """`k` latents a token, and an auxiliary loss of weight `auxk_coefficient` for the dead ones."""

    def losses(self, x: Tensor, step: int, target: Tensor | None = None, whole: Whole | None = None) -> Losses:
        tokens, target = x.shape[0] if whole is None else whole.tokens, x if target is None else target
        centred = self._centred(x)
        # With sparse products only the active entries need a gradient, and `sparse.encode` gives it to them.
        p = self._pre_activations(centred, gradient=not self.sparse)
        indices = self._choose(p.detach())
        f, output = self._sparse(p, centred, indices) if self.sparse else self._dense(p, indices)
        error = target - self._output(output, x)
        squares = error.square().sum()
        total = reconstruction = squares / (tokens * self.variance)
        auxiliary = torch.zeros_like(reconstruction)
        if self.revives and self.firing.dead.numel() > 0:
            auxiliary = self.auxk_coefficient * self._revive(
                p, centred, error.detach(), self.k_aux, whole, with_sparse=self.sparse
            )
            total = reconstruction + auxiliary
        with torch.no_grad():
            spread = (target - target.mean(dim=0)).square().sum() if whole is None else whole.spread
            hits = torch.zeros_like(self.firing.counts)
            hits.index_add_(0, indices.flatten(), (f.flatten() > 0).to(torch.int64))
            seen = Seen(hits, torch.isfinite(squares))
            if whole is None:
                self.settle(seen, tokens, step)
            return Losses(
                total=total,
                reconstruction=reconstruction.detach(),
                sparsity=torch.zeros_like(spread),
                auxiliary=auxiliary.detach(),
                l0=hits.sum() / tokens,
                fvu=squares.detach() / spread,
                dead=self.firing.count_dead(),
                seen=seen,
            )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        p = self._pre_activations(self._centred(x), gradient=False)
        indices = self._choose(p)
        return Code(torch.relu(p.gather(1, indices)).to(x.dtype).flatten(), sparse.Active.of_rows(indices, p.shape[1]))

    def _choose(self, p: Tensor) -> Tensor:
        return self._rank(p).topk(self.k, dim=1, sorted=False).indices

    def _sparse(self, p: Tensor, centred: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Latents at `indices (B, k)` and their output (B, n) without the bias, with gradients."""
        active = sparse.Active.of_rows(indices, self.latents)
        values = p.gather(1, indices).flatten().to(centred.dtype)
        f = torch.relu(self._active_pre_activations(values, centred, active))
        return f, sparse.decode(f, self.W_dec, active)

    def _dense(self, p: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.relu(p.gather(1, indices)).to(self.W_dec.dtype)
        scattered = f.new_zeros(f.shape[0], self.latents).scatter(1, indices, f)
        return f, self._product(scattered, self.W_dec)
