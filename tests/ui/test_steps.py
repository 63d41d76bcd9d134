"""History and live steps fit each other, whatever order the log holds them in."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from events.training import StepTrained
from ui.answers import MetricRow
from ui.steps import Series, Steps, until


def row(step: int, sae: int = 0, **values: float | None) -> MetricRow:
    filled: dict[str, float | None] = dict.fromkeys(("loss", "l0", "fvu", "dead_latents"), step + sae / 10)
    shared: dict[str, float | None] = {"learning_rate": 1e-3, "tokens_per_second": 5.0, "tokens": step}
    return MetricRow(step=step, sae=sae, timestamp=second(step), **{**shared, **filled, **values})


def second(step: int) -> int:
    """When a step was: a second after the one before it, in µs."""
    return 1_700_000_000_000_000 + step * 1_000_000


def live(step: int, sae: int = 0) -> tuple[StepTrained, int]:
    value = step + sae / 10
    event = StepTrained(
        step=step,
        sae=sae,
        loss=value,
        loss_reconstruction=value,
        l0=value,
        l0_fraction=0.1,
        fvu=value,
        dead_latents=step,
        learning_rate=1e-3,
        grad_norm=0.0,
        tokens=step,
        tokens_per_second=5.0,
    )
    return event, second(step)


@given(
    saes=st.integers(1, 4),
    known=st.integers(0, 60),
    total=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 240), max_size=8),
)
def test_every_step_comes_once_and_whole_wherever_history_ends_and_batches_are_cut(
    saes: int, known: int, total: int, cuts: list[int]
) -> None:
    written = [(step, sae) for step in range(1, total + 1) for sae in range(saes)]
    known = min(known, len(written))
    steps, columns = Steps.of([row(step, sae) for step, sae in written[:known]], saes=saes)
    edges = sorted({0, len(written), *(min(cut, len(written)) for cut in cuts)})
    # The feed may bring again what the history holds already.
    for begin, end in pairwise(edges):
        added = steps.add([live(step, sae) for step, sae in written[begin:end]])
        assert added is not None
        for name, values in added.items():
            columns[name] += values
    assert columns["step"] == columns["tokens"] == list(range(1, total + 1))
    assert columns["time"] == list(range(total))
    for sae in range(saes):
        assert columns[f"loss_{sae}"] == [step + sae / 10 for step in range(1, total + 1)]
    assert {len(column) for column in columns.values()} == {total}


def test_down_sampled_rows_at_different_steps_make_whole_lines() -> None:
    steps, columns = Steps.of([row(1, 0), row(1, 1), row(9, 0), row(7, 1), row(20, 0), row(20, 1)])
    assert steps.saes == 2
    assert columns["step"] == [1, 7, 9, 20]
    assert columns["loss_0"] == [1, 1, 9, 20]
    assert columns["loss_1"] == [1.1, 7.1, 7.1, 20.1]


def test_an_sae_that_was_not_known_is_reported() -> None:
    steps, _ = Steps.of([row(1, 0)])
    assert steps.add([live(2, 1)]) is None


def test_a_value_that_is_not_there_is_no_number() -> None:
    _, columns = Steps.of([row(1), row(2, loss=None), row(3)])
    assert columns["loss_0"][0] == 1
    assert math.isnan(columns["loss_0"][1])
    assert columns["loss_0"][2] == 3


def test_no_history_has_the_columns_of_its_saes() -> None:
    steps, columns = Steps.of([], saes=2)
    assert steps.names == list(columns)
    assert {"step", "tokens", "time", "loss_0", "loss_1", "grad_norm_1", "learning_rate"} <= set(columns)
    assert not any(columns.values())


def test_time_counts_from_when_the_training_began() -> None:
    _, columns = Steps.of([row(5), row(9)], began=second(2))
    assert columns["time"] == [3, 7]
    # A clock that was set back begins anew rather than counting below zero.
    _, columns = Steps.of([row(5), row(9)], began=second(7))
    assert columns["time"] == [0, 4]


def test_a_range_is_asked_for_with_one_known_step_beyond_each_end() -> None:
    series = Series(Steps.of([row(step) for step in (1, 10, 20, 30)])[1])
    assert series.steps_around("step", 9.5, 20) == (1, 30)
    assert series.steps_around("step", 11, 19) == (10, 20)
    assert series.steps_around("time", -50, 500) == (1, 30)
    assert series.steps_around("tokens", 700, 900) == (30, 30)


def test_live_steps_join_the_series_and_those_of_a_range_can_be_had() -> None:
    steps, columns = Steps.of([row(1), row(2)])
    series = Series(columns)
    added = steps.add([live(3), live(4), live(5)])
    assert added is not None
    series.extend(added)
    assert series.live == 3
    assert series.columns["step"] == [1, 2, 3, 4, 5]
    assert series.after(2, "step", 4.5)["loss_0"] == [3, 4]
    assert series.after(4, "time", 2)["step"] == []
    assert until(added, "tokens", 3)["step"] == [3]
