"""What depends on the step alone."""

from __future__ import annotations


def learning_rate(step: int, *, peak: float, warmup: int, decay: int, total: int) -> float:
    """The learning rate of `step` (1 to `total`): linear up to `peak` over the first `warmup` steps, constant, linear
    towards 0 over the last `decay` ones (Anthropic, Circuits Updates April 2024). Where the two overlap, the lower."""
    rising = step / warmup if warmup > 0 else 1.0
    falling = (total - step + 1) / decay if decay > 0 else 1.0
    return peak * max(0.0, min(1.0, rising, falling))
