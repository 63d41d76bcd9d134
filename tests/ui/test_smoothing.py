"""Moving averages that do not depend on how densely their rows lie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.charts.smoothing import MovingAverage


def test_a_constant_stays_what_it_is_from_the_first_step() -> None:
    steps = np.array([1.0, 2, 3, 50, 1_000])
    averages = MovingAverage(30, 2).add(steps, np.tile([3.0, -7.0], (5, 1)))
    assert averages == pytest.approx(np.tile([3.0, -7.0], (5, 1)))


def test_what_lies_a_span_back_weighs_a_third() -> None:
    steps = np.arange(1.0, 5_000)
    # A step from 0 to 1 after a long time at 0, read a span later.
    values = (steps >= 4_000).astype(float)[:, None]
    averages = MovingAverage(100, 1).add(steps, values)[:, 0]
    assert averages[3_998] < 0.01
    assert averages[4_098] == pytest.approx(1 - np.exp(-1), abs=0.01)


@given(cuts=st.lists(st.integers(0, 60), max_size=6), span=st.sampled_from([10, 100, 3_000]))
def test_rows_that_come_one_by_one_are_averaged_as_all_at_once(cuts: list[int], span: int) -> None:
    steps = np.arange(1.0, 61)
    values = np.stack([np.sin(steps), np.where(steps % 7 == 0, np.nan, steps)], axis=1)
    whole = MovingAverage(span, 2).add(steps, values)
    average = MovingAverage(span, 2)
    edges = [0, *sorted(cuts), 60]
    parts = [average.add(steps[a:b], values[a:b]) for a, b in pairwise(edges)]
    assert np.concatenate(parts) == pytest.approx(whole)


def test_a_down_sampled_history_gives_the_middle_of_its_buckets() -> None:
    steps = np.arange(1.0, 20_001)
    noise = np.where(steps % 2 == 0, 1.0, 3.0)[:, None]
    dense = MovingAverage(1_000, 1).add(steps, noise)[-1, 0]
    # Two rows a bucket of 200 steps: the least at its first step and the greatest at its last.
    begins = np.arange(1.0, 20_001, 200)
    sparse_steps = np.stack([begins, begins + 199], axis=1).ravel()
    sparse = MovingAverage(1_000, 1).add(sparse_steps, np.tile([1.0, 3.0], len(begins))[:, None])[-1, 0]
    assert dense == pytest.approx(2, abs=0.01)
    assert sparse == pytest.approx(2, abs=0.01)


def test_a_row_without_a_number_changes_nothing_and_before_the_first_there_is_none() -> None:
    averages = MovingAverage(10, 1).add(np.arange(1.0, 5), np.array([[np.nan], [4.0], [np.nan], [np.inf]]))[:, 0]
    assert np.isnan(averages[0])
    assert averages[1:] == pytest.approx([4, 4, 4])
