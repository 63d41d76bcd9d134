"""One SAE of a training: its normalisation, its parameters and its optimiser."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from core.sae.autoencoder import Code, Losses, SparseAutoencoder
from core.sae.normalisation import Ends, Normalisation, Scaled
from core.sae.penalised import SizePenalised
from core.sae.recipe import Firing
from core.sae.registry import architecture
from core.variants import configurations
from events.training import HookType, Sae, TrainingConfig, sae_name

from . import schedule
from .optim import Adam

log = logging.getLogger("core.training")

Pair = tuple[int, HookType]

STARTING_TOKENS = 512
"""How many tokens of the first batch the encoder's scale is fitted to."""

NON_FINITE_LIMIT = 10
"""Steps in a row with a loss or gradient that is not a finite number, after which an SAE learns no more."""

LEAST_PART = 32
"""Tokens below which a step that does not fit into memory is not divided any more."""

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


@dataclass
class Student:
    """An SAE that reads the activations of `pair`, a layer and a hook, and learns to give those of `target`.

    `normalisation` is that of what it reads, `target_normalisation` that of what it gives. But for transcoders both
    are the same, of the same pair.
    """

    pair: Pair
    target: Pair
    normalisation: Normalisation
    target_normalisation: Normalisation
    sae: SparseAutoencoder
    optimiser: Adam
    config: TrainingConfig
    variant: int | None = None
    part: int | None = None
    """Tokens that are computed at once; None: the whole batch."""
    skipped: int = 0
    """Steps in a row, up to the last that is known of, whose update was skipped."""
    diverged: int | None = None
    """The step after which it learns no more, because too many updates in a row had been skipped.

    On CUDA that is known once the figures have come back, some tens of steps later. Skipped updates change nothing
    until then; should its numbers be finite again in between, it learns from those few steps, which nobody minds: it
    ends a little later, with weights that are finite. Whatever is saved or evaluated knows of it, for both wait for
    the figures.
    """

    @classmethod
    def new(
        cls,
        config: TrainingConfig,
        pair: Pair,
        ends: Ends,
        device: torch.device,
        *,
        target: Pair | None = None,
        variant: int | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> Student:
        """An untrained SAE for the activations that `ends` describes; `config` has its defaults filled in, `target` is
        what a transcoder gives, `variant` which one of a training's configurations it is, `rates` by how much
        some parameters learn faster (None: as its architecture says)."""
        sae = architecture(config.architecture_type, config.activation).from_config(config, ends, device)
        normalisation, target_normalisation = ends.source.normalisation, ends.target.normalisation
        clip = target_normalisation.variance**-0.5 if config.grad_clip_norm is None else config.grad_clip_norm
        optimiser = Adam(
            sae.named_parameters(),
            weight_decay=config.weight_decay,
            clip=clip,
            unclipped=type(sae).unclipped,
            rates=sae.rates if rates is None else rates,
        )
        return cls(
            pair,
            target or pair,
            normalisation,
            target_normalisation,
            sae,
            optimiser,
            config,
            variant,
            config.micro_batch_size,
        )

    @property
    def name(self) -> str:
        """The SAE's name for people, as in `L1.resid_post`."""
        return sae_name(self.describe())

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs whose activations it needs."""
        return tuple(dict.fromkeys((self.pair, self.target)))

    def step(self, batch: Mapping[Pair, Tensor], step: int, learning_rate: float) -> Tensor:
        """Learn from a batch of raw activations, (B, n) by pair, as step number `step` (from 1); the figures of
        `FIELDS` on the device."""
        x, _ = self.normalisation.apply(batch[self.pair].to(torch.float32))
        target = None
        if not self.sae.autoencoder:
            target, _ = self.target_normalisation.apply(batch[self.target].to(torch.float32))
        sae = self.sae
        if step == 1:
            sae.scale_encoder(x[:STARTING_TOKENS])
        if step % Firing.REFRESH == 0:
            sae.firing.refresh()
        losses = self._learn(x, target, step)
        sae.before_update()
        update = self.optimiser.step(learning_rate, losses.total.detach())
        sae.after_update()
        interval = self.config.resample_interval
        if interval and step % interval == 0 and step < self.config.total_steps and isinstance(sae, SizePenalised):
            sae.firing.refresh()
            rows = sae.resample(x, (self.config.seed + step) % 2**63, self.part)
            of_latents = (name for name, _ in sae.named_parameters() if name != "b_dec")
            self.optimiser.forget(of_latents, rows)
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

    def idle(self) -> Tensor:
        """The figures of a step that it does not take any more: its dead latents, and no numbers."""
        figures = torch.full((len(FIELDS),), torch.nan, dtype=torch.float64, device=self.sae.W_dec.device)
        figures[FIELDS.index("dead_latents")] = self.sae.firing.count_dead()
        figures[FIELDS.index("skipped")] = 0
        return figures

    def note(self, step: int, *, skipped: bool) -> bool:
        """Take note of whether the update of `step` was skipped; whether it has diverged by that."""
        self.skipped = self.skipped + 1 if skipped else 0
        if self.skipped < NON_FINITE_LIMIT:
            return False
        self.diverged = step
        return True

    def _learn(self, x: Tensor, target: Tensor | None, step: int) -> Losses:
        """Loss and gradients of a batch. Where it does not fit into memory it is tried again in parts of half the size,
        from then on; raises `torch.OutOfMemoryError` where the smallest do not fit either."""
        before = self.sae.state()
        while True:
            try:
                return self._whole(x, target, step) if self._fits(x) else self._in_parts(x, target, step)
            except torch.OutOfMemoryError:
                tokens = min(self.part or x.shape[0], x.shape[0])
                if tokens <= LEAST_PART:
                    raise
                self.part = max(LEAST_PART, -(-tokens // 2))
            # What the attempt left behind, which would stay alive in the exception that has just been dealt with.
            self.optimiser.drop_gradients()
            self.sae.restore_state(before)
            if x.is_cuda:
                torch.cuda.empty_cache()
            log.warning(
                "%s: step %s does not fit into memory; it is taken again %s tokens at a time, as are all that follow.",
                self.name,
                f"{step:,}",
                f"{self.part:,}",
            )

    def _fits(self, x: Tensor) -> bool:
        return self.part is None or self.part >= x.shape[0]

    def _whole(self, x: Tensor, target: Tensor | None, step: int) -> Losses:
        losses = self.sae.losses(x, step, target)
        losses.total.backward()
        return losses

    def _in_parts(self, x: Tensor, target: Tensor | None, step: int) -> Losses:
        assert self.part is not None
        sae = self.sae
        parts = list(zip(x.split(self.part), (x if target is None else target).split(self.part), strict=True))
        whole = sae.survey(parts, step)
        sums: Losses | None = None
        for one, wanted in parts:
            losses = sae.losses(one, step, wanted, whole)
            losses.total.backward()
            sums = losses if sums is None else sums + losses
        assert sums is not None
        sae.settle(sums.seen, whole.tokens, step)
        return sums._replace(dead=sae.firing.count_dead())

    @property
    def width(self) -> int:
        """Width of the activations that it gives, m."""
        return self.sae.W_dec.shape[1]

    @property
    def source_width(self) -> int:
        """Width of the activations that it reads, n."""
        return self.sae.W_enc.shape[1]

    @torch.no_grad()
    def reconstruct(self, raw: Tensor) -> tuple[Tensor, Code]:
        """Inference on `raw (B, n)` float32: the output (B, m) in raw units, and the latents that it was made of."""
        x, scale = self.normalisation.apply(raw)
        code = self.sae.encode(x)
        output = self.sae.decode(code, x)
        if not self.sae.autoencoder:
            return output / self.target_normalisation.scale, code
        return scale.invert(output), code

    def describe(self) -> Sae:
        """The SAE as events name it."""
        layer, hook = self.pair
        described = Sae(
            layer=layer,
            hook=hook,
            variant=self.variant,
            mean_ratio=self.normalisation.mean_ratio,
            folder=folder_of(self.config),
        )
        if self.sae.autoencoder:
            return described
        target_layer, target_hook = self.target
        return msgspec.structs.replace(described, target_layer=target_layer, target_hook=target_hook)

    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.sae.parameters())

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of it beside its tensors."""
        layer, hook = self.pair
        facts: dict[str, Any] = {"layer": layer, "hook": hook, "normalisation": asdict(self.normalisation)}
        facts["rates"] = self.optimiser.rates
        if self.part != self.config.micro_batch_size:
            facts["part"] = self.part
        if self.variant is not None:
            facts["variant"] = self.variant
        if (folder := folder_of(self.config)) is not None:
            facts["folder"] = folder
        if self.skipped:
            facts["skipped"] = self.skipped
        if self.diverged is not None:
            facts["diverged"] = self.diverged
        if not self.sae.autoencoder:
            target_layer, target_hook = self.target
            facts |= {
                "target_layer": target_layer,
                "target_hook": target_hook,
                "target_normalisation": asdict(self.target_normalisation),
            }
        return facts

    @classmethod
    def of_facts(
        cls, config: TrainingConfig, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
    ) -> Student:
        """The SAE that `facts()` told of in a training of `config`, still without what it has learnt; `tensors` are
        those of its checkpoint, from which its widths are taken."""
        variant = facts.get("variant")
        own = configurations(config)[variant or 0]
        source = Scaled(Normalisation(**facts["normalisation"]), torch.zeros(tensors["W_enc"].shape[1]))
        ends, target = Ends(source, source), None
        if "target_hook" in facts:
            ends = Ends(
                source, Scaled(Normalisation(**facts["target_normalisation"]), torch.zeros_like(tensors["b_dec"]))
            )
            target = (facts["target_layer"], facts["target_hook"])
        # Thresholds learnt at twice the rate before checkpoints said so.
        rates = facts.get("rates", {"theta": 2.0} if "theta" in tensors else {})
        pair: Pair = (facts["layer"], facts["hook"])
        student = cls.new(own, pair, ends, device, target=target, variant=variant, rates=rates)
        student.part = facts.get("part", student.part)
        student.skipped = facts.get("skipped", 0)
        student.diverged = facts.get("diverged")
        return student


def folder_of(config: TrainingConfig) -> str | None:
    """The name of the folder of activations that is trained on; None where it is known of which layer or hook they
    are."""
    if not config.activations or config.training_layers or config.hook_types:
        return None
    return Path(config.activations).name or "activations"


def rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of `step`. Raises ValueError where the configuration's defaults are not filled in."""
    peak, warmup, decay = config.learning_rate, config.warmup_steps, config.decay_steps
    if peak is None or warmup is None or decay is None:
        raise ValueError("learning_rate, warmup_steps and decay_steps must be set before training.")
    return schedule.learning_rate(step, peak=peak, warmup=warmup, decay=decay, total=config.total_steps)
