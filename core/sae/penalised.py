"""What architectures share whose latents are as many as their values call for, kept few by a penalty.

    L = mean‖x - t_hat‖² / V + lam · penalty + L_dead

Decoder rows are free and start at norm 0.1 with an equal encoder (Anthropic, Circuits Updates April 2024), or are kept
at norm 1. Where few latents are active the products are sparse: which ones a step uses is decided by how many entries
the step before it had, so that a resumed training decides alike.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from . import sparse
from .autoencoder import Code, Losses, Shared, SparseAutoencoder
from .control import Control

WARM_UP = 0.05
"""Share of the run over which a fixed coefficient rises from 0."""

_ROW_NORM = 0.1
_SPARSE_BELOW = 0.15
"""Above this share of entries dense products are faster."""


class Terms(NamedTuple):
    """What a batch's pre-activations lead to.

    `output (B, n)` without the decoder's bias, `penalty` per token before its coefficient, `hits (F)` int64 how often
    each latent fired, `entries` how many entries of (B, F) have a gradient.
    """

    output: Tensor
    penalty: Tensor
    hits: Tensor
    entries: Tensor


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
    def _dense(self, p: Tensor) -> Terms:
        """From `p (B, F)` with gradient."""

    @abstractmethod
    def _sparse(self, p: Tensor, centred: Tensor) -> Terms:
        """From `p (B, F)` without gradient, of `centred (B, n)`."""

    @abstractmethod
    def _bring_back(self, p: Tensor, centred: Tensor, residual: Tensor, *, with_sparse: bool) -> Tensor | None:
        """The loss that brings dead latents back, of which there are some; None where it is turned off."""

    def scale_encoder(self, x: Tensor) -> None:
        # Free rows start with the encoder as it is: it is their norm that is chosen.
        if self.unit_decoder:
            super().scale_encoder(x)

    def losses(self, x: Tensor, step: int) -> Losses:
        tokens = x.shape[0]
        centred = x - self.b_dec.detach()
        # Sparse products are for the CPU, where reading a number waits for nothing.
        with_sparse = self.sparse and float(self._density) < _SPARSE_BELOW
        p = self._pre_activations(centred, gradient=not with_sparse).to(x.dtype)
        terms = self._sparse(p, centred) if with_sparse else self._dense(p)
        error = x - (terms.output + self.b_dec)
        squares = error.square().sum()
        reconstruction = squares / (tokens * self.variance)
        with torch.no_grad():
            l0 = self.firing.record_hits(terms.hits, tokens) / tokens
            self._density = terms.entries.to(torch.float64) / p.numel()
            coefficient = self.control.coefficient(l0, torch.isfinite(squares), step)
        sparsity = coefficient.to(x.dtype) * terms.penalty
        total = reconstruction + sparsity
        auxiliary = None
        if self.firing.dead.numel() > 0:
            auxiliary = self._bring_back(p, centred, error.detach(), with_sparse=with_sparse)
        if auxiliary is not None:
            total = total + auxiliary
        with torch.no_grad():
            spread = (x - x.mean(dim=0)).square().sum()
            return Losses(
                total=total,
                reconstruction=reconstruction.detach(),
                sparsity=sparsity.detach(),
                auxiliary=torch.zeros_like(spread) if auxiliary is None else auxiliary.detach(),
                l0=l0,
                fvu=squares.detach() / spread,
                dead=self.firing.count_dead(),
                coefficient=coefficient,
            )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        p = self._pre_activations(x - self.b_dec, gradient=False).to(x.dtype)
        active, places = sparse.Active.of_mask(p > self.threshold())
        return Code(p.flatten()[places], active)

    def _state(self) -> dict[str, Tensor]:
        control = {f"control.{name}": tensor for name, tensor in self.control.tensors().items()}
        return super()._state() | control | {"density": self._density}

    def _restore_state(self, tensors: dict[str, Tensor]) -> None:
        super()._restore_state(tensors)
        self.control.restore({name: tensors[f"control.{name}"] for name in self.control.tensors()})
        self._density = tensors["density"].to(self._density.device)
