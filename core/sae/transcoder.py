"""Transcoder: reads the activations at one hook and gives those at another (Dunefsky et al. 2024, arXiv 2406.11944).

    p = x W_enc + b_enc;   f = activation(p);   t_hat = f W_dec + b_dec;   L = mean‖t - t_hat‖² / V + …

`x` and the target `t` belong to the same token. The bias b_dec belongs to the target's space and is not subtracted from
`x`. Activation, sparsity and what revives dead latents are those of an autoencoder: BatchTopK, ReLU (`standard`) or
JumpReLU. Encoder rows start in random directions, the decoder at 0 (EleutherAI/sparsify), so that the first output is
the target's mean; the encoder's bias starts at -mean(x) W_enc, which centres what it reads: where the mean outweighs
the spread most latents could otherwise never fire (Simon et al. 2026, arXiv 2605.31518).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autoencoder import SparseAutoencoder
from .batchtopk import BatchTopK
from .jumprelu import JumpReLU
from .recipe import random_directions
from .standard import Standard


class Transcoder(SparseAutoencoder):
    """What an autoencoder becomes that comes after it in the list of bases; `source_centre (n)` is the mean of `x`."""

    autoencoder = False

    def __init__(self, *, source_centre: Tensor, seed: int = 0, **settings: Any) -> None:
        super().__init__(source_centre=source_centre, seed=seed, **settings)
        norm = self.W_enc.detach()[0].norm()
        directions = random_directions(self.latents, source_centre.shape[0], seed)
        self.W_enc.data = directions.to(self.W_enc) * norm
        self.W_dec.data.zero_()
        with torch.no_grad():
            self.b_enc.copy_(-(self.W_enc @ source_centre.to(self.W_enc)))


class BatchTopKTranscoder(Transcoder, BatchTopK):
    """`k` latents a token on average."""


class ReLUTranscoder(Transcoder, Standard):
    """A penalty on the latents' size keeps them few."""


class JumpReLUTranscoder(Transcoder, JumpReLU):
    """Every latent has a threshold that it learns."""


TRANSCODERS: dict[str, type[Transcoder]] = {
    "batchtopk": BatchTopKTranscoder,
    "relu": ReLUTranscoder,
    "jumprelu": JumpReLUTranscoder,
}
"""By activation."""
