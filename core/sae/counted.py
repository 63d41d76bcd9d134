"""What architectures share that are told how many latents a token has, k, and revive dead ones by an auxiliary loss."""

from __future__ import annotations

from typing import Self, Unpack

import torch

from events.training import TrainingConfig

from .autoencoder import Shared, SparseAutoencoder, shared_settings
from .normalisation import Ends
from .recipe import auxiliary_latents


class Counted(SparseAutoencoder):
    """`k` latents a token, and an auxiliary loss of weight `auxk_coefficient` for the dead ones."""

    def __init__(self, *, k: int, auxk_coefficient: float = 1 / 8, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)
        if not 1 <= k <= self.latents:
            raise ValueError(f"k must lie between 1 and the number of latents, {self.latents}; got {k}.")
        self.k = k
        self.auxk_coefficient = auxk_coefficient
        self.k_aux = auxiliary_latents(shared["width"], k)

    @classmethod
    def from_config(cls, config: TrainingConfig, ends: Ends, device: torch.device) -> Self:
        """Raises ValueError where a field has no value that only the server's rules would have filled in."""
        shared = shared_settings(config, ends, device)
        shared["unit_decoder"] = cls.autoencoder and config.normalize_decoder is not False
        if config.k is None:
            raise ValueError("k must be set before training.")
        auxk = 1 / 8 if config.auxk_coefficient is None else config.auxk_coefficient
        return cls(k=config.k, auxk_coefficient=auxk, **cls.own_settings(config), **shared)

    @property
    def revives(self) -> bool:
        return self.auxk_coefficient > 0

    @property
    def wanted_l0(self) -> float:
        return self.k
