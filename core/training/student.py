"""One SAE of a training: its normalisation, its parameters and its optimiser."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from core.sae.autoencoder import Code, SparseAutoencoder
from core.sae.normalisation import Normalisation
from core.sae.recipe import Firing
from core.sae.registry import architecture
from events.training import HookType, Sae, TrainingConfig

from . import schedule
from .optim import Adam

Pair = tuple[int, HookType]

FIELDS = (
    "loss",
    "loss_reconstruction",
    "loss_sparsity",
    "loss_auxiliary",
    "l0",
    "fvu",
    "dead_latents",
    "sparsity_coefficient",
    "grad_norm",
    "skipped",
)
"""What `Student.step` returns, in this order; 0 for a figure that the architecture does not have."""


@dataclass(frozen=True)
class Student:
    """An SAE that learns the activations of one (layer, hook) pair."""

    pair: Pair
    normalisation: Normalisation
    sae: SparseAutoencoder
    optimiser: Adam

    @classmethod
    def new(
        cls,
        config: TrainingConfig,
        pair: Pair,
        normalisation: Normalisation,
        centre: Tensor,
        device: torch.device,
    ) -> Student:
        """An untrained SAE; `config` has its defaults filled in, `centre (n)` is the mean of what it will see."""
        sae = architecture(config.architecture_type).from_config(config, normalisation, centre, device)
        clip = normalisation.variance**-0.5 if config.grad_clip_norm is None else config.grad_clip_norm
        optimiser = Adam(
            sae.named_parameters(),
            weight_decay=config.weight_decay,
            clip=clip,
            unclipped=type(sae).unclipped,
            rates=type(sae).rates,
        )
        return cls(pair, normalisation, sae, optimiser)

    @property
    def name(self) -> str:
        """The SAE's name for people, as in `L1.resid_post`."""
        layer, hook = self.pair
        return f"L{layer}.{hook}"

    def step(self, raw: Tensor, step: int, learning_rate: float) -> Tensor:
        """Learn from `raw (B, n)` activations as step number `step` (from 1); the figures of `FIELDS` on the device."""
        x, _ = self.normalisation.apply(raw.to(torch.float32))
        sae = self.sae
        if step == 1:
            sae.scale_encoder(x)
        if step % Firing.REFRESH == 0:
            sae.firing.refresh()
        losses = sae.losses(x, step)
        losses.total.backward()
        sae.before_update()
        update = self.optimiser.step(learning_rate, losses.total.detach())
        sae.after_update()
        coefficient = losses.coefficient
        figures = (
            losses.total.detach(),
            losses.reconstruction,
            losses.sparsity,
            losses.auxiliary,
            losses.l0,
            losses.fvu,
            losses.dead,
            torch.zeros_like(losses.fvu) if coefficient is None else coefficient,
            update.grad_norm,
            update.skipped,
        )
        return torch.stack([figure.to(torch.float64) for figure in figures])

    @property
    def width(self) -> int:
        """Width of the activations, n."""
        return self.sae.W_dec.shape[1]

    @torch.no_grad()
    def reconstruct(self, raw: Tensor) -> tuple[Tensor, Code]:
        """Inference on `raw (B, n)` float32: the output in raw units, and the latents that it was made of."""
        x, scale = self.normalisation.apply(raw)
        code = self.sae.encode(x)
        return scale.invert(self.sae.decode(code)), code

    def describe(self) -> Sae:
        """The SAE as events name it."""
        layer, hook = self.pair
        return Sae(layer=layer, hook=hook, mean_ratio=self.normalisation.mean_ratio)

    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.sae.parameters())

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of it beside its tensors."""
        layer, hook = self.pair
        return {"layer": layer, "hook": hook, "normalisation": asdict(self.normalisation)}


def rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of `step`. Raises ValueError where the configuration's defaults are not filled in."""
    peak, warmup, decay = config.learning_rate, config.warmup_steps, config.decay_steps
    if peak is None or warmup is None or decay is None:
        raise ValueError("learning_rate, warmup_steps and decay_steps must be set before training.")
    return schedule.learning_rate(step, peak=peak, warmup=warmup, decay=decay, total=config.total_steps)
