"""Batches of activations that need no language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.sae.normalisation import Ends, normalisation
from core.training.loop import Loop
from core.training.student import Pair, Student
from events.event import Event
from events.training import TrainingConfig

PAIRS: tuple[Pair, ...] = ((0, "resid_post"), (1, "mlp_out"))
WIDTH = 16
CPU = torch.device("cpu")


class Synthetic:
    """The same batches every time: sparse combinations of fixed directions, other ones for every pair."""

    def __init__(
        self, pairs: Sequence[Pair] = PAIRS, *, batch: int = 64, factor: float = 1.0, device: torch.device = CPU
    ) -> None:
        self.pairs = tuple(pairs)
        self.device = device
        self.factor = factor
        self.batch = batch
        self.served = 0

    def sample(self, number: int, tokens: int) -> dict[Pair, Tensor]:
        found: dict[Pair, Tensor] = {}
        for index, pair in enumerate(self.pairs):
            directions = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(index))
            generator = torch.Generator().manual_seed(1000 * number + index)
            on = torch.rand(tokens, 40, generator=generator) < 0.08
            size = torch.rand(tokens, 40, generator=generator) + 0.5
            found[pair] = (self.factor * ((on * size) @ directions + 0.7)).to(self.device)
        return found

    def next_batch(self) -> dict[Pair, Tensor]:
        self.served += 1
        return self.sample(self.served, self.batch)

    def state(self) -> dict[str, Any]:
        return {"served": self.served}

    def restore(self, state: dict[str, Any]) -> None:
        self.served = state["served"]


def config(**changed: Any) -> TrainingConfig:
    """A small training whose latents can die and be revived within a few steps."""
    values: dict[str, Any] = {
        "latent_dim": 96,
        "k": 4,
        "total_steps": 40,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "warmup_steps": 4,
        "decay_steps": 8,
        "dead_token_threshold": 200,
        "auxk_coefficient": 1 / 8,
        "normalize_decoder": True,
    }
    return TrainingConfig(**{**values, **changed})


def students(chosen: TrainingConfig, source: Synthetic) -> list[Student]:
    scaled = {}
    for pair, raw in source.sample(0, 4096).items():
        mean = raw.mean(dim=0)
        scaled[pair] = normalisation(
            chosen.normalize_activations,
            mean=mean,
            mean_norm=float(raw.norm(dim=1).mean()),
            variance=float((raw - mean).square().sum(dim=1).mean()),
            sample=raw,
        )
    device = source.device
    if chosen.architecture_type in ("transcoder", "skip"):
        # The first pair is read, the last one is to be given.
        read, *_, given = source.pairs
        return [Student.new(chosen, read, Ends(scaled[read], scaled[given]), device, target=given)]
    return [Student.new(chosen, pair, Ends.same(*ends), device) for pair, ends in scaled.items()]


class Told:
    """Collects what is emitted."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.times: list[int | None] = []

    def __call__(self, event: Event, occurred_at: int | None) -> None:
        self.events.append(event)
        self.times.append(occurred_at)


def loop(chosen: TrainingConfig, source: Synthetic | None = None) -> tuple[Loop, Told]:
    """A loop on synthetic activations, and what it tells."""
    source = source or Synthetic(batch=chosen.batch_size)
    told = Told()
    return Loop(chosen, source, students(chosen, source), source.device, told), told
