"""What the training loop and the evaluation need of an architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from events.training import TrainingConfig

from .normalisation import Normalisation
from .recipe import Firing


class Losses(NamedTuple):
    """Scalars of one batch, on the device and in units of FVU; `total` carries the gradient, the rest none.

    `l0` is the mean number of active latents per token, `fvu` = Σ‖e‖² / Σ‖x - mean x‖² over the batch, `dead` the
    number of dead latents after it.
    """

    total: Tensor
    reconstruction: Tensor
    sparsity: Tensor
    auxiliary: Tensor
    l0: Tensor
    fvu: Tensor
    dead: Tensor


class SparseAutoencoder(nn.Module, ABC):
    """A trainable sparse autoencoder. Inputs and outputs (B, n) are in normalised units."""

    unclipped: ClassVar[tuple[str, ...]] = ()
    """Parameters that count neither in the gradient's norm nor in the clipping."""

    W_dec: nn.Parameter
    firing: Firing

    @classmethod
    @abstractmethod
    def from_config(
        cls, config: TrainingConfig, normalisation: Normalisation, centre: Tensor, device: torch.device
    ) -> Self:
        """A new SAE on `device` for activations of mean `centre (n)`; `config` has its defaults filled in."""

    @property
    @abstractmethod
    def wanted_l0(self) -> float:
        """Active latents per token that the configuration asks for."""

    @property
    def latents(self) -> int:
        """Number of latents, F."""
        return self.W_dec.shape[0]

    @abstractmethod
    def scale_encoder(self, x: Tensor) -> None:
        """Fit the encoder's scale to the first batch `x (B, n)`; once, before the first step."""

    @abstractmethod
    def losses(self, x: Tensor) -> Losses:
        """Loss of a batch `x (B, n)`; records which latents fired."""

    @abstractmethod
    def before_update(self) -> None:
        """After the backward pass, before clipping."""

    @abstractmethod
    def after_update(self) -> None:
        """After the optimiser's step."""

    @abstractmethod
    def active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inference: values, none negative, and latents' numbers, both (B, j), of `x (B, n)`."""

    @abstractmethod
    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Output (B, n) of latents `indices (B, j)` with `values (B, j)`."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps, by name: parameters, and what the dead-latent rule remembers."""
        firing = {f"firing.{name}": tensor for name, tensor in self.firing.tensors().items()}
        return {name: parameter.detach() for name, parameter in self.named_parameters()} | firing

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors()` gave. Raises ValueError where a name is missing or unknown, or a shape differs."""
        own = dict(self.named_parameters())
        expected = set(own) | {f"firing.{name}" for name in self.firing.tensors()}
        if set(tensors) != expected:
            missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
            raise ValueError(f"The checkpoint does not fit this architecture: missing {missing}, unknown {unknown}.")
        for name, parameter in own.items():
            if tensors[name].shape != parameter.shape:
                raise ValueError(
                    f"The checkpoint's {name} has shape {tuple(tensors[name].shape)}; {tuple(parameter.shape)} is"
                    " needed."
                )
            parameter.copy_(tensors[name])
        self.firing.restore({name: tensors[f"firing.{name}"] for name in self.firing.tensors()})
