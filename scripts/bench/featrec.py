"""A world of known features: sparse, correlated, partly hierarchical, and how well decoder rows find them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.sae.normalisation import Scaled, normalisation


@dataclass(frozen=True)
class Preset:
    features: int
    width: int
    rank: int
    batch: int


SMALL = Preset(features=512, width=64, rank=8, batch=1024)


def normalised(sample: Tensor) -> Scaled:
    """The default normalisation and the centre for activations like those of `sample (N, n)`."""
    mean = sample.mean(dim=0)
    return normalisation(
        "expected_average_only_in",
        mean=mean,
        mean_norm=float(sample.norm(dim=1).mean()),
        variance=float((sample - mean).square().sum(dim=1).mean()),
        sample=sample,
    )


class World:
    """x = s(aD + b): `D` unit directions, `a` sparse magnitudes whose supports are correlated by a Gaussian copula."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self.preset = preset
        self.seed = seed
        generator = torch.Generator().manual_seed(10_000 + seed)
        features, width = preset.features, preset.width
        directions = _unit(torch.randn(features, width, generator=generator))
        for _ in range(20):
            gram = directions @ directions.T
            gram.fill_diagonal_(0)
            directions = _unit(directions - 0.5 * gram**3 @ directions)
        self.directions = directions
        self.probability = 0.30 * torch.arange(1, features + 1).double() ** -0.60
        self._factors = _unit(torch.randn(features, preset.rank, generator=generator)) * math.sqrt(0.5)
        self._children = torch.arange(features - features // 4, features)
        self._parents = torch.randint(8, 72, (features // 4,), generator=generator)
        own = self.probability.clone()
        own[self._children] = (self.probability[self._children] / self.probability[self._parents]).clamp_max(0.9)
        self._thresholds = (math.sqrt(2) * torch.erfinv(1 - 2 * own)).float()
        self._magnitudes = 1 + 0.5 * torch.rand(features, generator=generator)
        self._bias = _unit(torch.randn(1, width, generator=generator))
        self._scale = 1.0
        sample = self.activations(torch.Generator().manual_seed(77 + seed), 8192)
        self._scale = math.sqrt(width) / float(sample.norm(dim=1).mean())

    def activations(self, generator: torch.Generator, tokens: int) -> Tensor:
        """(tokens, width) activations."""
        features, rank = self.preset.features, self.preset.rank
        shared = torch.randn(tokens, rank, generator=generator)
        z = shared @ self._factors.T + math.sqrt(0.5) * torch.randn(tokens, features, generator=generator)
        on = z > self._thresholds
        on[:, self._children] &= on[:, self._parents]
        size = (self._magnitudes + 0.2 * torch.randn(tokens, features, generator=generator)).abs()
        return self._scale * ((on * size) @ self.directions + self._bias)

    def batch(self, step: int) -> Tensor:
        """The training batch of `step`."""
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + step)
        return self.activations(generator, self.preset.batch)


def mean_cosine(decoder: Tensor, directions: Tensor) -> float:
    """MCC: the mean |cos| under the best one-to-one assignment of decoder rows to directions."""
    cosines = (_unit(decoder.float()) @ directions.T).abs().double().numpy()
    return float(cosines[_assignment(-cosines), np.arange(cosines.shape[1])].mean())


def _assignment(cost: np.ndarray) -> np.ndarray:
    """For each column the row that it gets at the least total cost (Hungarian method, shortest augmenting paths)."""
    cost = cost.T
    columns, rows = cost.shape
    u, v = np.zeros(columns + 1), np.zeros(rows + 1)
    owner = np.zeros(rows + 1, dtype=int)
    for column in range(1, columns + 1):
        owner[0], at = column, 0
        least, before = np.full(rows + 1, np.inf), np.zeros(rows + 1, dtype=int)
        used = np.zeros(rows + 1, dtype=bool)
        while owner[at]:
            used[at] = True
            free = ~used[1:]
            reduced = cost[owner[at] - 1] - u[owner[at]] - v[1:]
            better = free & (reduced < least[1:])
            least[1:][better], before[1:][better] = reduced[better], at
            following = 1 + int(np.argmin(np.where(free, least[1:], np.inf)))
            delta = least[following]
            u[owner[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            at = following
        while at:
            owner[at], at = owner[before[at]], before[at]
    return np.array([int(np.flatnonzero(owner == column)[0]) - 1 for column in range(1, columns + 1)])


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
