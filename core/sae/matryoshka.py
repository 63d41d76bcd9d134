"""Matryoshka: BatchTopK whose first latents must do alone, in several sizes (Bussmann et al. 2025, arXiv 2503.17547).

    F_1 < … < F_G = F;   t_hat_j = b_dec + f[:, :F_j] W_dec[:F_j];   L = 1/G Σ_j mean‖x - t_hat_j‖² / V + alpha · L_aux

One selection of latents serves all sizes, and each output is the one before plus what its group of latents adds, so
that decoding costs what it costs without sizes. The auxiliary loss explains what all latents together left over.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from . import sparse
from .batchtopk import BatchTopK

SHARES = (16, 4, 2, 1)
"""The sizes are F divided by these."""


class Matryoshka(BatchTopK):
    """Nested sizes of one dictionary: a sixteenth, a quarter, a half and all of its latents."""

    @property
    def sizes(self) -> list[int]:
        """F_1 … F_G, each at least 1."""
        return sorted({max(1, self.latents // share) for share in SHARES})

    def _outputs_sparse(self, f: Tensor, active: sparse.Active) -> list[Tensor]:
        bounds = [0, *self.sizes]
        parts = self.W_dec.split([end - begin for begin, end in pairwise(bounds)])
        rows = active.rows()
        added: list[Tensor] = []
        for (begin, end), part in zip(pairwise(bounds), parts, strict=True):
            inside = ((active.col >= begin) & (active.col < end)).nonzero().flatten()
            crow = torch.zeros_like(active.crow)
            counts = torch.bincount(rows[inside], minlength=active.shape[0])
            torch.cumsum(counts, dim=0, dtype=torch.int32, out=crow[1:])
            group = sparse.Active(crow, active.col[inside] - begin, (active.shape[0], end - begin))
            added.append(sparse.decode(f[inside], part, group))
        return list(accumulate(added))

    def _outputs_dense(self, f: Tensor) -> list[Tensor]:
        bounds = [0, *self.sizes]
        parts = self.W_dec.split([end - begin for begin, end in pairwise(bounds)])
        added = [
            self._product(f[:, begin:end], part) for (begin, end), part in zip(pairwise(bounds), parts, strict=True)
        ]
        return list(accumulate(added))
