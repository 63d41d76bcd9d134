"""Skip transcoder: a transcoder with an affine way past its latents (Paulo et al. 2025, arXiv 2501.18823).

    t_hat = f W_dec + b_dec + x W_skip^T

What is linear in `x` need not be said with latents then. `W_skip (m, n)` starts at 0 and is not penalised; with a rank
r it is U Q, U (m, r) at 0 and Q (r, n) random. From a hook to itself the identity would make f = 0 optimal: source and
target must differ. Whether the latents add anything is told by `fvu / fvu_affine` of the evaluation: below 1 they do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from events.training import TrainingConfig

from .batchtopk import BatchTopK
from .jumprelu import JumpReLU
from .standard import Standard
from .transcoder import Transcoder


class Skip(Transcoder):
    """`rank` is that of the skip, None for full rank."""

    def __init__(self, *, source_centre: Tensor, seed: int = 0, rank: int | None = None, **settings: Any) -> None:
        super().__init__(source_centre=source_centre, seed=seed, **settings)
        target, source = self.b_dec.shape[0], source_centre.shape[0]
        self.rank = rank
        like = self.W_dec.detach()
        self.W_skip = nn.Parameter(like.new_zeros(target, source if rank is None else rank))
        if rank is not None:
            # Another seed than that of the encoder, whose first directions these would be.
            generator = torch.Generator().manual_seed((seed + 1) % 2**63)
            reading = torch.randn(rank, source, generator=generator) / source**0.5
            self.Q_skip = nn.Parameter(reading.to(like))

    @classmethod
    def own_settings(cls, config: TrainingConfig) -> dict[str, Any]:
        return {**super().own_settings(config), "rank": config.skip_rank}

    def _output(self, decoded: Tensor, x: Tensor) -> Tensor:
        with self._rounded():
            read = x if self.rank is None else linear(x, self.Q_skip)
            past = linear(read, self.W_skip).to(decoded.dtype)
        return super()._output(decoded, x) + past


class BatchTopKSkip(Skip, BatchTopK):
    """`k` latents a token on average."""


class ReLUSkip(Skip, Standard):
    """A penalty on the latents' size keeps them few."""


class JumpReLUSkip(Skip, JumpReLU):
    """Every latent has a threshold that it learns."""


SKIPS: dict[str, type[Skip]] = {"batchtopk": BatchTopKSkip, "relu": ReLUSkip, "jumprelu": JumpReLUSkip}
"""By activation."""
