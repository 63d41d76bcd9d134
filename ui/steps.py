"""Steps as columns: what the charts of a training share, with one column for each metric and SAE."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from events.training import StepTrained

from .answers import MetricRow

PER_SAE = (
    "loss",
    "loss_reconstruction",
    "loss_sparsity",
    "loss_auxiliary",
    "l0",
    "fvu",
    "dead_latents",
    "sparsity_coefficient",
    "grad_norm",
)
"""Metrics that every SAE has for itself: columns loss_0, loss_1, …"""

SHARED = ("learning_rate", "tokens_per_second", "device_memory")
"""Metrics of the whole training: one column each."""

AXES = ("step", "tokens", "time")
"""Columns that steps can be laid out by; `time` is in seconds since the training began. All of them rise."""

Columns = dict[str, list[float]]

_Rows = dict[int, tuple[MetricRow | StepTrained, int]]


class Steps:
    """A training's steps, first its history and then what comes live, as columns that fit each other.

    `saes` is the number of SAEs and `last` the last step that has been given out. A step is given out when all of its
    SAEs are there, so that no line runs ahead of another. `began` (µs since 1970) is when the training began, or its
    first step where that is earlier or nothing else is known.
    """

    def __init__(self, saes: int, *, began: int | None = None) -> None:
        self.saes = saes
        self.last = 0
        self.began = began
        self.names = [*AXES, *(f"{metric}_{sae}" for metric in PER_SAE for sae in range(saes)), *SHARED]
        self._open: dict[int, _Rows] = {}

    @classmethod
    def of(cls, history: Iterable[MetricRow], *, saes: int = 0, began: int | None = None) -> tuple[Steps, Columns]:
        """The steps of a down-sampled history, of at least `saes` SAEs, and its columns, one entry a step.

        Rows of two SAEs may stand at different steps; a cell that has no row of its own repeats the one before it.
        """
        by_step: dict[int, _Rows] = {}
        last: dict[int, int] = {}
        for row in history:
            by_step.setdefault(row.step, {})[row.sae] = (row, row.timestamp)
            last[row.sae] = max(row.step, last.get(row.sae, 0))
        steps = cls(max(saes, max(last, default=-1) + 1), began=began)
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

    def add(self, events: Sequence[tuple[StepTrained, int]]) -> Columns | None:
        """The columns of the steps that `events`, each with its `occurred_at`, complete.

        None where they tell of an SAE that was not known.
        """
        columns = self._empty()
        for event, occurred_at in events:
            if event.sae >= self.saes:
                return None
            if event.step <= self.last:
                continue
            rows = self._open.setdefault(event.step, {})
            rows[event.sae] = (event, occurred_at)
            if len(rows) == self.saes:
                # Steps are written in order: what an earlier one lacks will not come any more.
                for step in sorted(step for step in self._open if step <= event.step):
                    self._give_out(step, self._open.pop(step), columns)
        return columns

    def _empty(self) -> Columns:
        return {name: [] for name in self.names}

    def _give_out(self, step: int, rows: _Rows, columns: Columns) -> None:
        self.last = step
        first, timestamp = rows[min(rows)]
        if self.began is None or timestamp < self.began:
            self.began = timestamp
        columns["step"].append(step)
        columns["tokens"].append(_number(first.tokens))
        columns["time"].append((timestamp - self.began) / 1e6)
        for sae in range(self.saes):
            if sae in rows:
                row = rows[sae][0]
                for metric in PER_SAE:
                    columns[f"{metric}_{sae}"].append(_number(getattr(row, metric)))
            else:
                for metric in PER_SAE:
                    column = columns[f"{metric}_{sae}"]
                    column.append(column[-1] if column else math.nan)
        for metric in SHARED:
            columns[metric].append(_number(getattr(first, metric)))


class Series:
    """All steps that a page knows of a training: its history, and every live step since.

    What the charts show may be a part of it. `live` counts the steps after the history.
    """

    def __init__(self, columns: Columns) -> None:
        self.live = 0
        self._columns = {name: list(values) for name, values in columns.items()}

    @property
    def columns(self) -> Columns:
        """The columns, to be read only."""
        return self._columns

    def extend(self, columns: Columns) -> None:
        """Add the steps that came after the last one."""
        self.live += len(columns["step"])
        for name, values in columns.items():
            self._columns[name] += values

    def steps_around(self, axis: str, start: float, end: float) -> tuple[int, int]:
        """The first and last step of those between `start` and `end` on an axis, and one known step beyond each.

        With the steps beyond, lines reach to the edges of what is shown.
        """
        along = self._columns[axis]
        begin = bisect_left(along, start) - 1
        stop = bisect_right(along, end)
        steps = self._columns["step"]
        return int(steps[max(0, min(begin, len(steps) - 1))]), int(steps[min(stop, len(steps) - 1)])

    def after(self, step: int, axis: str, end: float) -> Columns:
        """The known steps after `step` that lie up to `end` on an axis."""
        return until(self._columns, axis, end, begin=bisect_right(self._columns["step"], step))


def until(columns: Columns, axis: str, end: float, *, begin: int = 0) -> Columns:
    """The rows of `columns`, from the one number `begin`, that lie up to `end` on an axis."""
    stop = bisect_right(columns[axis], end)
    return {name: values[begin : max(begin, stop)] for name, values in columns.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
