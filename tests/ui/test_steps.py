"""History and live steps fit each other, whatever order the log holds them in."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from events.training import StepTrained
from ui.gateway import MetricRow
from ui.steps import Steps


def row(step: int, sae: int = 0, **values: float | None) -> MetricRow:
    filled: dict[str, float | None] = dict.fromkeys(("loss", "l0", "fvu", "dead_latents"), step + sae / 10)
    return MetricRow(step=step, sae=sae, learning_rate=1e-3, tokens_per_second=5.0, **{**filled, **values})


def live(step: int, sae: int = 0) -> StepTrained:
    value = step + sae / 10
    return StepTrained(
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
    assert columns["step"] == list(range(1, total + 1))
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
    _, columns = Steps.of([row(1, loss=None), row(2)])
    assert math.isnan(columns["loss_0"][0])
    assert columns["loss_0"][1] == 2


def test_no_history_has_the_columns_of_its_saes() -> None:
    steps, columns = Steps.of([], saes=2)
    assert steps.names == list(columns)
    assert {"step", "loss_0", "loss_1", "learning_rate"} <= set(columns)
    assert not any(columns.values())
