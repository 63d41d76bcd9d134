"""How much of a target an affine map of the source explains: what a transcoder's latents have to add to.

    A = (X'X + r I)^-1 X' T   with X = [x, 1], centred;   FVU = Σ‖t - x A‖² / Σ‖t - mean t‖²

The map is fitted on every other token and judged on the rest, so that it cannot know what it is asked about.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 10
"""Tokens a dimension that the map is fitted on at least: with fewer it fits what they have by chance, and explains
less of the rest than it could."""

_RIDGE = 1e-6
"""As a share of the source's mean variance a dimension: enough for a solution where dimensions depend on each other."""


class _Moments:
    """Sums over tokens, float64: their number, of x (n) and t (m), of their products."""

    def __init__(self, source: int, target: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.tokens = 0
        self.x, self.t = zeros(source), zeros(target)
        self.xx, self.xt, self.tt = zeros(source, source), zeros(source, target), zeros()

    def add(self, x: Tensor, t: Tensor) -> None:
        self.tokens += x.shape[0]
        self.x += x.sum(dim=0)
        self.t += t.sum(dim=0)
        self.xx += x.T @ x
        self.xt += x.T @ t
        self.tt += t.square().sum()


class AffineFit:
    """Takes source and target activations batch by batch; says what an affine map leaves unexplained."""

    def __init__(self, source: int, target: int, device: torch.device) -> None:
        self._fitted = _Moments(source, target, device)
        self._judged = _Moments(source, target, device)

    def add(self, x: Tensor, t: Tensor) -> None:
        """`x (B, n)` and `t (B, m)`, of the same tokens, in any units."""
        x, t = x.double(), t.double()
        self._fitted.add(x[::2], t[::2])
        self._judged.add(x[1::2], t[1::2])

    def fvu(self) -> float | None:
        """The fraction of the target's variance that the map leaves unexplained; None where there is too little."""
        fitted, judged = self._fitted, self._judged
        if fitted.tokens < LEAST * fitted.x.shape[0] or judged.tokens < 2:
            return None
        mean_x, mean_t = fitted.x / fitted.tokens, fitted.t / fitted.tokens
        covariance = fitted.xx / fitted.tokens - torch.outer(mean_x, mean_x)
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        covariance.diagonal().add_(ridge)
        solved = torch.linalg.solve(covariance, fitted.xt / fitted.tokens - torch.outer(mean_x, mean_t))
        # Σ‖(t - b) - x A‖² with b = mean t - mean x A, from sums alone.
        bias = mean_t - mean_x @ solved
        error = (
            judged.tt
            - 2 * (solved * judged.xt).sum()
            + ((judged.xx @ solved) * solved).sum()
            - 2 * (judged.t @ bias)
            + 2 * (judged.x @ solved @ bias)
            + judged.tokens * bias.square().sum()
        )
        variation = judged.tt - judged.t.square().sum() / judged.tokens
        return float(error / variation) if float(variation) > 0 else None
