"""Steps as columns: what the charts of a training share, with one column for each metric and SAE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from events.training import StepTrained

from .gateway import MetricRow

PER_SAE = ("loss", "l0", "fvu", "dead_latents")
"""Metrics that every SAE has for itself: columns loss_0, loss_1, …"""

SHARED = ("learning_rate", "tokens_per_second")
"""Metrics of the whole training: one column each."""

Columns = dict[str, list[float]]

_Rows = dict[int, MetricRow | StepTrained]


class Steps:
    """A training's steps, first its history and then what comes live, as columns that fit each other.

    `saes` is the number of SAEs and `last` the last step that has been given out. A step is given out when all of its
    SAEs are there, so that no line runs ahead of another.
    """

    def __init__(self, saes: int) -> None:
        self.saes = saes
        self.last = 0
        self.names = ["step", *(f"{metric}_{sae}" for metric in PER_SAE for sae in range(saes)), *SHARED]
        self._open: dict[int, _Rows] = {}

    @classmethod
    def of(cls, history: Iterable[MetricRow], *, saes: int = 0) -> tuple[Steps, Columns]:
        """The steps of a down-sampled history, of at least `saes` SAEs, and its columns, one entry a step.

        Rows of two SAEs may stand at different steps; a cell that has no row of its own repeats the one before it.
        """
        by_step: dict[int, _Rows] = {}
        last: dict[int, int] = {}
        for row in history:
            by_step.setdefault(row.step, {})[row.sae] = row
            last[row.sae] = max(row.step, last.get(row.sae, 0))
        steps = cls(max(saes, max(last, default=-1) + 1))
        columns = steps._empty()
        newest = max(last.values(), default=0)
        # The log may hold the newest step of one SAE and not yet that of the next: the live events complete it.
        unfinished = newest > 0 and any(last.get(sae, 0) == newest - 1 for sae in range(steps.saes))
        for step in sorted(by_step):
            if unfinished and step == newest:
                steps._open[step] = by_step[step]
            else:
                steps._give_out(step, by_step[step], columns)
        return steps, columns

    def add(self, events: Sequence[StepTrained]) -> Columns | None:
        """The columns of the steps that `events` complete; None where they tell of an SAE that was not known."""
        columns = self._empty()
        for event in events:
            if event.sae >= self.saes:
                return None
            if event.step <= self.last:
                continue
            rows = self._open.setdefault(event.step, {})
            rows[event.sae] = event
            if len(rows) == self.saes:
                # Steps are written in order: what an earlier one lacks will not come any more.
                for step in sorted(step for step in self._open if step <= event.step):
                    self._give_out(step, self._open.pop(step), columns)
        return columns

    def _empty(self) -> Columns:
        return {name: [] for name in self.names}

    def _give_out(self, step: int, rows: _Rows, columns: Columns) -> None:
        self.last = step
        columns["step"].append(step)
        for metric in PER_SAE:
            for sae in range(self.saes):
                _put(columns[f"{metric}_{sae}"], getattr(rows.get(sae), metric, None))
        first = rows[min(rows)]
        for metric in SHARED:
            _put(columns[metric], getattr(first, metric))


def _put(column: list[float], value: float | None) -> None:
    if value is not None:
        column.append(value)
    else:
        column.append(column[-1] if column else math.nan)
