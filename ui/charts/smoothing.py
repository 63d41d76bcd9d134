"""Smooth lines through noisy ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPANS = (0, 10, 30, 100, 300, 1_000, 3_000, 10_000)
"""Spans that can be chosen, in steps; 0 is none."""


class MovingAverage:
    """An exponential moving average of some columns, weighted by steps and not by rows.

    What lies `span` steps back weighs 1/e. Rows may be a step apart or, in a down-sampled history, a thousand: between
    two rows the line is taken for the mean of its ends, so that the least and greatest value of a bucket give its
    middle, and live steps after a coarse history are averaged as any others. The beginning is not drawn to zero: the
    weights are divided by their sum (Kingma and Ba 2015, section 3). A row without a number changes nothing.
    """

    def __init__(self, span: float, columns: int) -> None:
        self._span = span
        self._step: float | None = None
        self._mean = np.zeros(columns)
        self._weight = np.zeros(columns)
        self._last = np.full(columns, np.nan)

    def add(self, steps: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        """The averages (rows, columns) at `steps` (rows, rising), which come after those added before.

        `values` is (rows, columns), and so is the answer; not a number where there has been none yet.
        """
        averages = np.empty(values.shape)
        for row, step in enumerate(steps):
            here = values[row]
            present = np.isfinite(here)
            between = np.where(np.isfinite(self._last), (self._last + here) / 2, here)
            apart = 1 if self._step is None else step - self._step
            decay = math.exp(-apart / self._span)
            new = 1 - decay
            weight = decay * self._weight + new
            mean = self._mean + (between - self._mean) * (new / weight)
            self._mean = np.where(present, mean, self._mean)
            self._weight = np.where(present, weight, self._weight)
            self._last = np.where(present, here, self._last)
            self._step = step
            averages[row] = np.where(self._weight > 0, self._mean, np.nan)
        return averages
