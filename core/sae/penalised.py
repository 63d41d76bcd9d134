"""What architectures share whose latents are as many as their values call for, kept few by a penalty.

    L = mean‖x - t_hat‖² / V + lam · penalty + L_dead

Decoder rows are free and start at norm 0.1 with an equal encoder (Anthropic, Circuits Updates April 2024), or are kept
at norm 1. Where few latents are active the products are sparse: which ones a step uses is decided by how many entries
the step before it had, so that a resumed training decides alike.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self, Unpack

import torch
from torch import Tensor

from events.training import TrainingConfig

from . import sparse
from .autoencoder import Code, Losses, Parts, Seen, Shared, SparseAutoencoder, Whole, shared_settings
from .control import Control, Fixed, LogPI
from .normalisation import Ends
from .recipe import draw_by_error

WARM_UP = 0.05
"""Share of the run over which a fixed coefficient rises from 0."""

PUSH = 1e-3
PUSHED_TO = 0.1
"""Pre-activation up to which dead latents are pushed."""

RESAMPLED = 0.2
"""Encoder rows of latents that begin anew, over those of live ones: small enough not to disturb what is there."""

LONG_RUN = 3_000
"""Steps in which coefficients and thresholds find their way at their own pace; in shorter runs they have to hurry."""

MOST_HASTE = 2.0
"""How many times faster a coefficient goes at most."""

_ROW_NORM = 0.1
_SPARSE_BELOW = 0.15
"""Above this share of entries dense products are faster."""


def starting_coefficient(variance: float, wanted_l0: float) -> float:
    """Where the control starts, 0.4 / sqrt(V L0*): the penalty of L0* latents is then about 0.4 of the variance."""
    return 0.4 / (variance * wanted_l0) ** 0.5


def control_of_size(config: TrainingConfig, latents: int, variance: float, device: torch.device) -> Control:
    """What `config` says about the coefficient of a penalty on the latents' size.

    Raises ValueError where a field has no value that only the server's rules would have filled in.
    """
    if config.target_l0 is not None:
        if config.warmup_steps is None:
            raise ValueError("warmup_steps must be set before training.")
        wanted = config.target_l0 * latents
        start = starting_coefficient(variance, wanted) if config.l1_alpha is None else config.l1_alpha
        return LogPI(
            wanted,
            start=start,
            begin=config.warmup_steps,
            late=config.total_steps - (config.decay_steps or 0),
            haste=min(MOST_HASTE, max(1.0, LONG_RUN / config.total_steps)),
            device=device,
        )
    if config.l1_alpha is not None:
        return Fixed(config.l1_alpha, round(WARM_UP * config.total_steps))
    raise ValueError("target_l0 or l1_alpha must be set before training.")


class Terms(NamedTuple):
    """What a batch's pre-activations lead to.

    `output (B, n)` without the decoder's bias, `penalty` per token before its coefficient, `hits (F)` int64 how often
    each latent fired, `entries` how many entries of (B, F) have a gradient. `gate (B, n)` is what the gates alone make
    of the decoder as it stands, without its bias; None where there are none.
    """

    output: Tensor
    penalty: Tensor
    hits: Tensor
    entries: Tensor
    gate: Tensor | None = None


class Penalised(SparseAutoencoder):
    """`control` sets the coefficient of the penalty."""

    penalised = True

    def __init__(self, *, control: Control, **shared: Unpack[Shared]) -> None:
        if not shared.setdefault("unit_decoder", False):
            shared.setdefault("row_norm", _ROW_NORM)
        super().__init__(**shared)
        self.control = control
        self._density = torch.ones((), dtype=torch.float64, device=self.W_dec.device)

    @property
    def wanted_l0(self) -> float | None:
        return self.control.wanted_l0

    @abstractmethod
    def threshold(self) -> Tensor | float:
        """What a pre-activation must exceed for its latent to be active: one number, or one a latent (F)."""

    @abstractmethod
    def _dense(self, p: Tensor, tokens: int) -> Terms:
        """From `p (B, F)` with gradient, a part of a batch of `tokens`."""

    @abstractmethod
    def _sparse(self, p: Tensor, centred: Tensor, tokens: int) -> Terms:
        """From `p (B, F)` without gradient, of `centred (B, n)`."""

    @abstractmethod
    def _bring_back(
        self, p: Tensor, centred: Tensor, residual: Tensor, whole: Whole | None, *, with_sparse: bool
    ) -> Tensor | None:
        """The loss that brings dead latents back, of which there are some; None where it is turned off."""

    def scale_encoder(self, x: Tensor) -> None:
        # Free rows start with the encoder as it is: it is their norm that is chosen.
        if self.unit_decoder:
            super().scale_encoder(x)

    def losses(self, x: Tensor, step: int, target: Tensor | None = None, whole: Whole | None = None) -> Losses:
        tokens, target = x.shape[0] if whole is None else whole.tokens, x if target is None else target
        centred = self._centred(x)
        # Sparse products are for the CPU, where reading a number waits for nothing.
        with_sparse = self.sparse and float(self._density) < _SPARSE_BELOW
        p = self._pre_activations(centred, gradient=not with_sparse).to(x.dtype)
        terms = self._sparse(p, centred, tokens) if with_sparse else self._dense(p, tokens)
        error = target - self._output(terms.output, x)
        squares = error.square().sum()
        reconstruction = squares / (tokens * self.variance)
        with torch.no_grad():
            l0, seen = terms.hits.sum() / tokens, Seen(terms.hits, torch.isfinite(squares), entries=terms.entries)
            if whole is None:
                coefficient = self.control.coefficient(l0, seen.valid, step)
            else:
                assert whole.coefficient is not None
                coefficient = whole.coefficient
        sparsity = coefficient.to(x.dtype) * terms.penalty
        total = reconstruction + sparsity
        auxiliary = None
        if self.firing.dead.numel() > 0:
            auxiliary = self._bring_back(p, centred, error.detach(), whole, with_sparse=with_sparse)
        if terms.gate is not None:
            gate = (target - self.b_dec.detach() - terms.gate).square().sum() / (tokens * self.variance)
            auxiliary = gate if auxiliary is None else auxiliary + gate
        if auxiliary is not None:
            total = total + auxiliary
        with torch.no_grad():
            variation = (target - target.mean(dim=0)).square().sum() if whole is None else whole.spread
            if whole is None:
                self.settle(seen, tokens, step)
            return Losses(
                total=total,
                reconstruction=reconstruction.detach(),
                sparsity=sparsity.detach(),
                auxiliary=torch.zeros_like(squares) if auxiliary is None else auxiliary.detach(),
                l0=l0,
                fvu=squares.detach() / variation,
                dead=self.firing.count_dead(),
                seen=seen,
                coefficient=coefficient,
            )

    @torch.no_grad()
    def survey(self, parts: Parts, step: int) -> Whole:
        whole = super().survey(parts, step)
        # Of what the step will use: which latents are active does not depend on the coefficient.
        values = [self.encode(x).values if self.sparse else self._encode_dense(x) for x, _ in parts]
        l0 = torch.stack([(each > 0).sum() for each in values]).sum() / whole.tokens
        valid = torch.isfinite(whole.spread + torch.stack([each.sum() for each in values]).sum())
        return whole._replace(coefficient=self.control.coefficient(l0, valid, step))

    def settle(self, seen: Seen, tokens: int, step: int) -> None:
        super().settle(seen, tokens, step)
        assert seen.entries is not None
        self._density = seen.entries.to(torch.float64) / (tokens * self.latents)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        p = self._pre_activations(self._centred(x), gradient=False).to(x.dtype)
        active, places = sparse.Active.of_mask(p > self.threshold())
        return Code(p.flatten()[places], active)

    @torch.no_grad()
    def _encode_dense(self, x: Tensor) -> Tensor:
        p = self._pre_activations(self._centred(x), gradient=False).to(x.dtype)
        return torch.where(p > self.threshold(), p, 0)

    def state(self) -> dict[str, Tensor]:
        control = {f"control.{name}": tensor for name, tensor in self.control.tensors().items()}
        return super().state() | control | {"density": self._density}

    def restore_state(self, tensors: dict[str, Tensor]) -> None:
        super().restore_state(tensors)
        self.control.restore({name: tensors[f"control.{name}"] for name in self.control.tensors()})
        self._density = tensors["density"].to(self._density.device)


class SizePenalised(Penalised):
    """With a penalty on the latents' size; dead latents are pushed."""

    @classmethod
    def from_config(cls, config: TrainingConfig, ends: Ends, device: torch.device) -> Self:
        """Raises ValueError where a field has no value that only the server's rules would have filled in."""
        shared = shared_settings(config, ends, device)
        shared["unit_decoder"] = config.normalize_decoder is True
        control = control_of_size(config, shared["latents"], shared["variance"], device)
        return cls(control=control, **cls.own_settings(config), **shared)

    @torch.no_grad()
    def resample(self, x: Tensor, seed: int, part: int | None = None) -> Tensor:
        """Let dead latents begin anew as directions of tokens of `x (B, n)` that are reconstructed badly (Bricken et
        al. 2023): decoder rows of the live ones' mean norm, encoder rows of a fifth of theirs, biases 0.

        `part` tokens are looked at at once (None: all). Returns which they are (n_resampled), so that what the
        optimiser remembers of them can be forgotten.
        """
        dead = self.firing.dead
        alive = torch.ones(self.latents, dtype=torch.bool, device=dead.device)
        alive[dead] = False
        if dead.numel() == 0 or not bool(alive.any()):
            return dead[:0]
        parts = x.split(part or x.shape[0])
        errors = torch.cat([(one - self.reconstruct(one)).square().sum(dim=1) for one in parts])
        tokens = draw_by_error(errors, dead.numel(), seed)
        dead = dead[: len(tokens)]
        directions = x[tokens] - self.b_dec
        directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.W_dec[dead] = directions * self.W_dec[alive].norm(dim=1).mean()
        self.W_enc[dead] = directions * (RESAMPLED * self.W_enc[alive].norm(dim=1).mean())
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1 and name != "b_dec":
                parameter[dead] = 0
        self.firing.since[dead] = 0
        self.firing.refresh()
        return dead

    def _push(self, centred: Tensor, bias: Tensor, whole: Whole | None) -> Tensor:
        """lam_P · mean Σ_dead relu(0.1 - p_i) with the pre-activations' `bias (F)`, lam_P = 1e-3 / V (after Circuits
        Updates January 2025, for dead latents only): they have p <= 0 everywhere and no other gradient."""
        dead = self.firing.dead
        p = self._linear(centred, self.W_enc[dead], bias[dead]).to(centred.dtype)
        tokens = centred.shape[0] if whole is None else whole.tokens
        return PUSH / self.variance * torch.relu(PUSHED_TO - p).sum() / tokens
