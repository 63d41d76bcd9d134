"""How activations are scaled before the encoder, and back.

`expected_average_only_in` multiplies by one number, c = sqrt(n) / E‖raw‖, so that E‖x‖ = sqrt(n) (Anthropic, Circuits
Updates April 2024). `layer_norm` and `constant_norm_rescale` scale every token by its own statistics. Number and
variance are fixed before the first step and never updated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Mode = Literal["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"]

_EPSILON_STD = 1e-5
_EPSILON_NORM = 1e-6


@dataclass(frozen=True)
class TokenScale:
    """What one batch was shifted and scaled by: `x = (raw - shift) / size`; (B, 1) or one number."""

    shift: Tensor | float
    size: Tensor | float

    def invert(self, x: Tensor) -> Tensor:
        """From the encoder's units back to raw ones; x (B, n)."""
        return x * self.size + self.shift


@dataclass(frozen=True)
class Normalisation:
    """A mode with its number, and the variance V = E‖x - E x‖² of what comes out (the unit of every loss)."""

    mode: Mode
    scale: float
    variance: float
    mean_ratio: float
    """‖E x‖ / sqrt(V): how far the mean outweighs the spread."""

    @property
    def per_token(self) -> bool:
        """Whether each token has its own scale: it cannot be folded into weights then."""
        return self.mode in ("layer_norm", "constant_norm_rescale")

    def apply(self, raw: Tensor) -> tuple[Tensor, TokenScale]:
        """`raw (B, n)` in the encoder's units, and what leads back."""
        match self.mode:
            case "none":
                return raw, TokenScale(0.0, 1.0)
            case "expected_average_only_in":
                return raw * self.scale, TokenScale(0.0, 1.0 / self.scale)
            case "layer_norm":
                mean = raw.mean(dim=-1, keepdim=True)
                size = raw.std(dim=-1, keepdim=True) + _EPSILON_STD
                return (raw - mean) / size, TokenScale(mean, size)
            case "constant_norm_rescale":
                size = raw.norm(dim=-1, keepdim=True).clamp_min(_EPSILON_NORM) / raw.shape[-1] ** 0.5
                return raw / size, TokenScale(0.0, size)


class Scaled(NamedTuple):
    """The activations at a hook: how they are scaled, and the mean (n) of what comes out of that, in float32."""

    normalisation: Normalisation
    centre: Tensor


class Ends(NamedTuple):
    """The activations that an SAE reads, and those that it is to give: others for a transcoder only."""

    source: Scaled
    target: Scaled

    @classmethod
    def same(cls, normalisation: Normalisation, centre: Tensor) -> Ends:
        """Those of an autoencoder."""
        scaled = Scaled(normalisation, centre)
        return cls(scaled, scaled)


def normalisation(mode: Mode, *, mean: Tensor, mean_norm: float, variance: float, sample: Tensor) -> Scaled:
    """A normalisation from raw statistics.

    `mean (n)`, `mean_norm` = E‖raw‖ and `variance` = E‖raw - E raw‖² are of all tokens that were measured;
    `sample (S, n)` holds some of them, from which the per-token modes take mean and variance.
    Raises ValueError where the activations do not vary: nothing can be learned from them.
    """
    if not variance > 0 or not mean_norm > 0:
        raise ValueError(
            f"The activations do not vary (variance {variance:g}, mean norm {mean_norm:g}): there is nothing to learn."
        )
    scale = mean.shape[0] ** 0.5 / mean_norm if mode == "expected_average_only_in" else 1.0
    if mode in ("none", "expected_average_only_in"):
        centre = mean.double() * scale
        spread = variance * scale * scale
    else:
        x, _ = Normalisation(mode, 1.0, 1.0, 0.0).apply(sample.double())
        centre = x.mean(dim=0)
        spread = float((x - centre).square().sum(dim=1).mean())
        if not spread > 0:
            raise ValueError(f"The activations do not vary under {mode}: there is nothing to learn.")
    ratio = float(centre.norm()) / spread**0.5
    return Scaled(Normalisation(mode, scale, spread, ratio), centre.to(torch.float32))
