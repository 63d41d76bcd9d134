"""What activations look like before training: the constants that scale them, and a sample to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .hooks import Pair
from .reading import Passes, no_progress
from .tokens import Progress

SAMPLE_TOKENS = 32_768


@dataclass(frozen=True)
class HookStatistics:
    """Of the activations x (raw, n dimensions) at one hook, over `tokens` kept tokens.

    `mean` is E x (n) and `sample` the first of these tokens (S, n), both float32 on the device that they came on.
    """

    tokens: int
    mean: Tensor
    mean_norm: float
    """E‖x‖"""
    variance: float
    """V = E‖x - E x‖², summed over dimensions."""
    sample: Tensor

    @property
    def scale(self) -> float:
        """c = sqrt(n) / E‖x‖: scaled activations have a mean norm of sqrt(n)."""
        return math.sqrt(len(self.mean)) / self.mean_norm

    @property
    def mean_ratio(self) -> float:
        """‖E x‖ / ‖sigma‖: how far the activations lie from the origin, against their spread."""
        return float(self.mean.double().norm()) / math.sqrt(self.variance)


def statistics_tokens(total_tokens: int) -> int:
    """How many tokens are measured for a training of `total_tokens`: 5 %, between 32,768 and a million."""
    return min(max(total_tokens // 20, 32_768), 1_000_000)


def measure(
    reader: Passes,
    *,
    total_tokens: int,
    sample: int = SAMPLE_TOKENS,
    progress: Progress | None = None,
) -> dict[Pair, HookStatistics]:
    """Measure all pairs of `reader` in one reading of its first passes, in float64; the same every time.

    Raises ValueError where the activations of a hook are not finite or do not vary.
    """
    wanted = statistics_tokens(total_tokens)
    wanted = wanted if reader.tokens is None else min(wanted, reader.tokens)
    report = progress or no_progress
    sums = {pair: _Sums(sample) for pair in reader.pairs}
    done = number = 0
    while done < wanted:
        report("Measuring activations", done, wanted)
        read = reader.read(number)
        number += 1
        done += len(read[reader.pairs[0]])
        for pair, values in read.items():
            sums[pair].add(values)
        if done == 0 and number * reader.rows_per_pass >= 10_000:
            raise ValueError("The text consists of special tokens only; there are no activations to train on.")
    report("Measuring activations", wanted, wanted)
    return {pair: found.statistics(pair) for pair, found in sums.items()}


class _Sums:
    """Running float64 sums over the tokens of one hook; they stay on the device until the end."""

    def __init__(self, sample: int) -> None:
        self._tokens = 0
        self._sums: list[Tensor] | None = None
        self._sample: list[Tensor] = []
        self._wanted = sample

    def add(self, values: Tensor) -> None:
        norms = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
        parts = [values.sum(0, dtype=torch.float64), norms.sum(), norms.square().sum()]
        self._sums = (
            parts if self._sums is None else [total + part for total, part in zip(self._sums, parts, strict=True)]
        )
        self._tokens += len(values)
        missing = self._wanted - sum(map(len, self._sample))
        if missing > 0:
            self._sample.append(values[:missing].float())

    def statistics(self, pair: Pair) -> HookStatistics:
        assert self._sums is not None
        total, norms, squares = (part / self._tokens for part in self._sums)
        variance = float(squares - total.square().sum())
        name = f"layer {pair[0]}, {pair[1]}"
        if not math.isfinite(variance) or not math.isfinite(float(norms)):
            raise ValueError(f"The activations at {name} are not finite numbers.")
        if variance <= 1e-12 * float(squares):
            raise ValueError(f"The activations at {name} are the same for every token.")
        return HookStatistics(
            tokens=self._tokens,
            mean=total.float().clone(),
            mean_norm=float(norms),
            variance=variance,
            sample=torch.cat(self._sample),
        )
