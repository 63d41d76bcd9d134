"""JumpReLU: a latent is active where its pre-activation exceeds a threshold of its own, which is learnt
(Rajamanoharan et al. 2024, arXiv 2407.14435).

    p = (x - b_dec) W_enc + b_enc;   f_i = p_i H(p_i - theta_i);   t_hat = f W_dec + b_dec
    L = mean‖x - t_hat‖² / V + lam · mean Σ_i H(p_i - theta_i) + alpha · L_aux

A threshold has no gradient of its own. With K(u) = 1 for |u| < 1/2, else 0, and a bandwidth eps these stand for it:

    df/dtheta = -(theta / eps) K((p - theta) / eps);   dH/dtheta = -(1 / eps) K((p - theta) / eps);   dH/dp = 0

Thresholds are float32 numbers of their own, never logarithms (those move by theta times the learning rate only), kept
at or above 0. They have far to go from their start: they learn at twice the rate, and the penalty's gradient on them
must not shrink the others', so they are not clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from events.training import TrainingConfig

from . import sparse
from .autoencoder import Shared, Whole, shared_settings
from .control import Control, Fixed, SignedP
from .normalisation import Ends
from .penalised import LONG_RUN, WARM_UP, Penalised, Terms
from .recipe import auxiliary_latents

THRESHOLD_RATE = 2.0
"""Where a run has `LONG_RUN` steps, thresholds reach where they belong at this rate; in a shorter one they learn
faster still, `MOST_HASTE` times at most."""
MOST_HASTE = 5.0


class _Jump(Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        gate = p > theta
        ctx.save_for_backward(p, theta, gate)
        ctx.bandwidth = bandwidth
        return p * gate, gate.to(p.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable is untyped
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        of_f, of_gate = gradients
        p, theta, gate = ctx.saved_tensors
        near = (p - theta).abs() < ctx.bandwidth / 2
        return of_f * gate, (theta * of_f + of_gate) * near / -ctx.bandwidth, None


def jump(p: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """p H(p - theta) and H(p - theta) for pre-activations `p` and their thresholds `theta` of one shape, H(0) = 0; with
    a rectangle of width `bandwidth` around the threshold in the gradient of theta."""
    return _Jump.apply(p, theta, bandwidth)  # pyright: ignore[reportReturnType]


class JumpReLU(Penalised):
    """Thresholds `theta (F)` start at `threshold`; `bandwidth` is eps, both in units of pre-activations.

    `expected_l0` is the L0 that the auxiliary loss reckons with, `auxk_coefficient` its weight, `threshold_rate` the
    learning rate of thresholds over that of the rest.
    """

    unclipped = ("theta",)

    def __init__(
        self,
        *,
        expected_l0: float,
        threshold: float = 0.02,
        bandwidth: float = 0.1,
        auxk_coefficient: float = 1 / 8,
        threshold_rate: float = THRESHOLD_RATE,
        control: Control,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(control=control, **shared)
        self.threshold_rate = threshold_rate
        self.bandwidth = bandwidth
        self.auxk_coefficient = auxk_coefficient
        self.k_aux = auxiliary_latents(shared["width"], round(expected_l0))
        self.theta = nn.Parameter(torch.full_like(self.b_enc.data, threshold))

    @classmethod
    def from_config(cls, config: TrainingConfig, ends: Ends, device: torch.device) -> Self:
        """Raises ValueError where a field has no value that only the server's rules would have filled in."""
        shared = shared_settings(config, ends, device)
        shared["unit_decoder"] = config.normalize_decoder is True
        if config.initial_threshold is None or config.bandwidth is None:
            raise ValueError("initial_threshold and bandwidth must be set before training.")
        coefficient = config.l1_alpha if config.sparsity_coeff is None else config.sparsity_coeff
        control: Control
        if config.target_l0 is not None:
            expected = config.target_l0 * shared["latents"]
            control = SignedP(expected, device)
        elif coefficient is not None:
            expected = min(50.0, shared["width"] / 8)
            control = Fixed(coefficient, round(WARM_UP * config.total_steps))
        else:
            raise ValueError("target_l0, sparsity_coeff or l1_alpha must be set before training.")
        return cls(
            expected_l0=expected,
            threshold=config.initial_threshold,
            bandwidth=config.bandwidth,
            auxk_coefficient=1 / 8 if config.auxk_coefficient is None else config.auxk_coefficient,
            threshold_rate=THRESHOLD_RATE * min(MOST_HASTE, max(1.0, (LONG_RUN / config.total_steps) ** 2)),
            control=control,
            **cls.own_settings(config),
            **shared,
        )

    @property
    def revives(self) -> bool:
        return self.auxk_coefficient > 0

    @property
    def rates(self) -> Mapping[str, float]:
        return {"theta": self.threshold_rate}

    def threshold(self) -> Tensor:
        return self.theta.detach()

    def after_update(self) -> None:
        super().after_update()
        self.theta.data.clamp_min_(0.0)

    def _dense(self, p: Tensor, tokens: int) -> Terms:
        f, gate = jump(p, self.theta.expand_as(p), self.bandwidth)
        hits = gate.detach().sum(dim=0, dtype=torch.int64)
        near = (p.detach() > self.theta.detach() - self.bandwidth / 2).sum()
        return Terms(self._product(f, self.W_dec), gate.sum() / tokens, hits, near)

    def _sparse(self, p: Tensor, centred: Tensor, tokens: int) -> Terms:
        # The entries just below their threshold are no latents, but have a gradient for it.
        active, places = sparse.Active.of_mask(p > self.theta.detach() - self.bandwidth / 2)
        values = self._active_pre_activations(p.flatten()[places], centred, active)
        f, gate = jump(values, self.theta.index_select(0, active.col), self.bandwidth)
        hits = torch.zeros_like(self.firing.counts).index_add_(0, active.col, gate.detach().to(torch.int64))
        return Terms(sparse.decode(f, self.W_dec, active), gate.sum() / tokens, hits, places.new_tensor(len(places)))

    def _bring_back(
        self, p: Tensor, centred: Tensor, residual: Tensor, whole: Whole | None, *, with_sparse: bool
    ) -> Tensor | None:
        if not self.revives:
            return None
        return self.auxk_coefficient * self._revive(p, centred, residual, self.k_aux, whole, with_sparse=with_sparse)
