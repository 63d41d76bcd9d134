"""A training with a known number of spikes in every charted metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from events.training import StepTrained

SPIKES = 20


@dataclass(frozen=True)
class Line:
    """A metric that lies at `level`, with single steps at `spike`."""

    level: float
    spike: float


_METRICS = {
    "loss": Line(0.2, 7.5),
    "loss_reconstruction": Line(0.15, 6.5),
    "loss_sparsity": Line(0.04, 5.5),
    "loss_auxiliary": Line(0.01, 4.5),
    "l0": Line(16, 900),
    "fvu": Line(0.14, 3.5),
    "dead_latents": Line(40, 2_000),
    "sparsity_coefficient": Line(1e-4, 0.5),
    "grad_norm": Line(0.4, 60),
    "learning_rate": Line(3e-4, 0.25),
    "tokens_per_second": Line(38_000, 90_000),
    "device_memory": Line(2e9, 8e9),
}

LINES = {
    name if name in ("learning_rate", "tokens_per_second", "device_memory") else f"{name}_0": line
    for name, line in _METRICS.items()
}
"""What the page's columns hold."""


def spiked(step: int, *, total: int) -> StepTrained:
    """A step whose metrics spike at `SPIKES` steps of `total`, each metric at steps of its own."""
    apart = total // SPIKES
    values = {
        # 1,037 steps behind one another: no bucket of a history of `total` steps has the spikes of two.
        name: line.spike if step % apart == (apart // 3 + 1_037 * index) % apart else line.level
        for index, (name, line) in enumerate(_METRICS.items())
    }
    whole = {name: int(values.pop(name)) for name in ("dead_latents", "device_memory")}
    metrics: dict[str, Any] = {**values, **whole}
    return StepTrained(step=step, l0_fraction=0.01, tokens=step * 1_024, **metrics)
