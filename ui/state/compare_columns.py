"""The columns of compared lines: as they are known, smoothed, and the part that a zoom shows in full."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..charts.smoothing import MovingAverage
from ..steps import AXES
from .comparison import METRICS

Columns = dict[str, NDArray[np.float64]]


class LineColumns:
    """The columns of lines by their keys: `known`, and what is `drawn` of them, averaged over `span` steps (0: not)."""

    def __init__(self, span: int = 0) -> None:
        self.span = span
        self.known: dict[str, Columns] = {}
        self.drawn: dict[str, Columns] = {}
        self._averages: dict[str, MovingAverage] = {}

    def put(self, key: str, columns: Columns) -> None:
        """Begin a line, or put other columns in its place."""
        self.known[key] = columns
        self._averages[key] = MovingAverage(self.span or 1, len(METRICS))
        self.drawn[key] = self._averaged(key, columns)

    def add(self, key: str, more: Columns) -> None:
        """Add what comes after a line's last row."""
        for held, added in ((self.known, more), (self.drawn, self._averaged(key, more))):
            held[key] = {name: np.concatenate([values, added[name]]) for name, values in held[key].items()}

    def last(self, key: str) -> dict[str, float]:
        """A line's last row, as it is known."""
        return {name: float(values[-1]) for name, values in self.known[key].items() if len(values)}

    def _averaged(self, key: str, columns: Columns) -> Columns:
        if not self.span:
            return columns
        values: Any = np.array([columns[name] for name in METRICS], dtype=np.float64).T
        averages = self._averages[key].add(columns["step"], values)
        return {name: columns[name] for name in AXES} | {name: averages[:, index] for index, name in enumerate(METRICS)}
