from __future__ import annotations

import math
from typing import Any

import pytest
from folded_log import Log, step
from hypothesis import given, settings
from hypothesis import strategies as st

from events import tables
from events.training import MetricsLogged, TrainingResumed
from projections import metrics
from projections.projection import QueryRefused

T = "training-one"


def steps(log: Log, first: int, last: int, saes: int = 1, **figures: Any) -> None:
    log.append(*((T, step(n, sae, **figures)) for n in range(first, last + 1) for sae in range(saes)))


def shown(log: Log, *names: str, **query: Any) -> list[tuple[Any, ...]]:
    rows = metrics.history(log.con, "one", **query).to_pylist()
    return [tuple(row[name] for name in names) for row in rows]


def test_a_row_has_the_events_figures_and_the_time_they_occurred(log: Log) -> None:
    log.append((T, step(3, sae=1, loss=0.5, l0_fraction=0.25, device_memory=2**40)))
    (row,) = metrics.history(log.con, "one").to_pylist()
    assert (row["step"], row["sae"]) == (3, 1)
    assert (row["loss"], row["l0_sparsity"], row["tokens"], row["device_memory"]) == (0.5, 0.25, 192, 2**40)
    assert row["timestamp"] == 1_000
    assert row["sparsity_coefficient"] is None
    assert "l0_fraction" not in row


def test_a_training_without_steps_has_no_rows_and_all_columns(log: Log) -> None:
    for query in ({}, {"points": 100}, {"order": "desc"}):
        table = metrics.history(log.con, "one", **query)
        assert table.num_rows == 0
        assert table.column_names == ["step", "sae", *metrics.METRICS, "timestamp"]


def test_a_resume_preempts_what_came_before_it_beyond_its_step(log: Log) -> None:
    steps(log, 1, 10, loss=1.0)
    log.append((T, TrainingResumed(step=6)))
    steps(log, 7, 8, loss=2.0)
    assert shown(log, "step", "loss") == [*((n, 1.0) for n in range(1, 7)), (7, 2.0), (8, 2.0)]
    log.append((T, TrainingResumed(step=7)), (T, step(8, loss=3.0)))
    assert shown(log, "step", "loss")[-2:] == [(7, 2.0), (8, 3.0)]
    log.append((T, TrainingResumed(step=0)))
    assert shown(log, "step") == []


def test_a_resume_concerns_its_own_training_only(log: Log) -> None:
    steps(log, 1, 3)
    log.append(("training-two", step(1)), ("training-two", TrainingResumed(step=0)))
    assert shown(log, "step") == [(1,), (2,), (3,)]


def test_the_view_for_peoples_queries_shows_the_same_rows(log: Log) -> None:
    steps(log, 1, 10, saes=2)
    log.append((T, TrainingResumed(step=4)), (T, step(5)))
    names = "step, sae, loss, l0_sparsity, timestamp"
    found = log.con.execute(f"SELECT {names} FROM metrics WHERE training = 'one' ORDER BY step, sae").fetchall()
    assert found == shown(log, *names.split(", "))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"limit": 2}, [1, 1, 2, 2]),
        ({"limit": 2, "order": "desc"}, [10, 10, 9, 9]),
        ({"limit": 2, "from_step": 4}, [4, 4, 5, 5]),
        ({"limit": 2, "to_step": 4, "order": "desc"}, [4, 4, 3, 3]),
        ({"from_step": 3, "to_step": 4}, [3, 3, 4, 4]),
        ({"limit": 3, "sae": 1}, [1, 2, 3]),
        ({"limit": 10**30, "from_step": 10, "to_step": 10**30}, [10, 10]),
    ],
)
def test_limit_counts_steps_and_not_rows(log: Log, query: dict[str, Any], expected: list[int]) -> None:
    steps(log, 1, 10, saes=2)
    assert [row[0] for row in shown(log, "step", **query)] == expected


def test_limit_counts_the_steps_that_were_reported_where_some_were_not(log: Log) -> None:
    log.append(*((T, step(n)) for n in (1, 10, 1_000, 1_001, 50_000)))
    assert shown(log, "step", limit=3, order="desc") == [(50_000,), (1_001,), (1_000,)]
    assert shown(log, "step", limit=3) == [(1,), (10,), (1_000,)]


def test_fields_leaves_the_metrics_asked_for(log: Log) -> None:
    steps(log, 1, 1)
    table = metrics.history(log.con, "one", fields=["fvu", "l0_fraction", "loss"])
    assert table.column_names == ["step", "sae", "loss", "l0_sparsity", "fvu", "timestamp"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"fields": ["loss", "accuracy"]}, "fields"),
        ({"limit": 0}, "limit"),
        ({"points": 1}, "points"),
        ({"order": "sideways"}, "order"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_by_the_name_of_its_field(
    log: Log, query: dict[str, Any], field: str
) -> None:
    with pytest.raises(QueryRefused) as refused:
        metrics.history(log.con, "one", **query)
    assert refused.value.field == field


# Down-sampling


def extremes(table: Any, name: str, last: int, buckets: int) -> dict[int, tuple[Any, Any]]:
    """The least and the largest value in each of as many equal parts of the steps 1…`last`."""
    values: dict[int, list[Any]] = {}
    for number, value in zip(table["step"].to_pylist(), table[name].to_pylist(), strict=True):
        values.setdefault((number - 1) * buckets // last, []).append(value)
    return {bucket: (min(each), max(each)) for bucket, each in values.items()}


@pytest.mark.slow
@given(
    count=st.integers(2, 400),
    points=st.integers(2, 60),
    spikes=st.lists(st.tuples(st.integers(0, 399), st.sampled_from(["loss", "l0", "grad_norm", "dead_latents"]))),
    resumed=st.integers(1, 400),
)
@settings(max_examples=20)
def test_no_spike_of_any_metric_is_lost_to_down_sampling(
    count: int, points: int, spikes: list[tuple[int, str]], resumed: int
) -> None:
    figures: list[dict[str, Any]] = [{} for _ in range(count)]
    for at, name in spikes:
        figures[at % count][name] = 100_000 + at
    log = Log()
    try:
        log.append(*((T, step(n + 1, **each)) for n, each in enumerate(figures)))
        if resumed < count:
            log.append((T, TrainingResumed(step=resumed)))
        whole = metrics.history(log.con, "one", limit=1_000)
        drawn = metrics.history(log.con, "one", points=points)
        assert drawn.num_rows <= points
        assert drawn.schema.equals(whole.schema)
        taken = drawn["step"].to_pylist()
        assert taken == sorted(set(taken))
        assert (taken[0], taken[-1]) == (1, whole.num_rows)
        last = whole.num_rows
        for name in ("loss", "l0", "grad_norm", "dead_latents", "timestamp"):
            every, kept = extremes(whole, name, last, points // 2), extremes(drawn, name, last, points // 2)
            assert kept == every
    finally:
        log.close()


def test_each_bucket_keeps_its_own_extremes_of_every_column_and_every_sae(log: Log) -> None:
    log.append(
        *(
            (T, step(n, sae, loss=float(n % 7) + 10 * sae, l0=float(n % 5), grad_norm=float(n % 3)))
            for n in range(1, 101)
            for sae in (0, 1)
        )
    )
    rows = metrics.history(log.con, "one", points=20).to_pylist()
    assert len(rows) == 40
    for sae in (0, 1):
        of_sae = [row for row in rows if row["sae"] == sae]
        for bucket in range(10):
            pair = of_sae[2 * bucket : 2 * bucket + 2]
            inside = range(10 * bucket + 1, 10 * bucket + 11)
            assert [row["step"] for row in pair] == [inside[0], inside[-1]]
            assert sorted(row["loss"] for row in pair) == [
                min(n % 7 for n in inside) + 10 * sae,
                max(n % 7 for n in inside) + 10 * sae,
            ]
            assert sorted(row["l0"] for row in pair) == [0, 4]
            assert sorted(row["grad_norm"] for row in pair) == [0, 2]


def test_a_falling_line_falls_and_a_rising_one_rises(log: Log) -> None:
    log.append(*((T, step(n, loss=1_000.0 - n, l0=float(n))) for n in range(1, 501)))
    table = metrics.history(log.con, "one", points=40)
    assert table["loss"].to_pylist() == sorted(table["loss"].to_pylist(), reverse=True)
    for name in ("l0", "tokens", "timestamp"):
        assert table[name].to_pylist() == sorted(table[name].to_pylist())


def test_a_range_of_no_more_steps_than_points_comes_as_it_is(log: Log) -> None:
    steps(log, 1, 50, saes=2)
    assert shown(log, "step", "sae", "loss", points=50) == shown(log, "step", "sae", "loss")
    assert shown(log, "step", points=10, from_step=11, to_step=20, sae=0) == [(n,) for n in range(11, 21)]


def test_nan_and_infinity_are_seen_after_down_sampling(log: Log) -> None:
    values = {7: math.nan, 55: math.inf, 77: -math.inf}
    log.append(*((T, step(n, loss=values.get(n, 1.0))) for n in range(1, 101)))
    kept = [row[0] for row in shown(log, "loss", points=20)]
    assert sum(map(math.isnan, kept)) == 1
    assert math.inf in kept
    assert -math.inf in kept


def test_steps_near_the_largest_do_not_overflow(log: Log) -> None:
    top = 2**32 - 1
    log.append(*((T, step(n)) for n in (1, 2, top - 1, top)))
    assert [row[0] for row in shown(log, "step", points=2)] == [1, top]
    assert [row[0] for row in shown(log, "step", points=4, order="desc")] == [top, top - 1, 2, 1]


# Other people's trainers


def test_logged_metrics_become_a_column_a_name(log: Log) -> None:
    log.append(
        (T, MetricsLogged(step=1, values={"loss": 1.0, 'odd "name"': 2.0, "step": 7.0})),
        (T, MetricsLogged(step=2, values={"loss": None, "Loss": 4.0})),
        (T, MetricsLogged(step=2, values={"loss": 3.0})),
    )
    table = metrics.logged(log.con, "one")
    assert table.to_pylist() == [
        {"step": 1, "Loss": None, "loss": 1.0, 'odd "name"': 2.0, "logged.step": 7.0, "timestamp": 1_000},
        {"step": 2, "Loss": 4.0, "loss": 3.0, 'odd "name"': None, "logged.step": None, "timestamp": 3_000},
    ]
    assert metrics.logged(log.con, "one", fields=["loss"], limit=1, order="desc").to_pylist() == [
        {"step": 2, "loss": 3.0, "timestamp": 3_000}
    ]


def test_logged_metrics_are_preempted_and_down_sampled_like_steps(log: Log) -> None:
    log.append(*((T, MetricsLogged(step=n, values={"reward": 1_000.0 if n == 57 else 1.0})) for n in range(1, 201)))
    log.append((T, TrainingResumed(step=100)))
    table = metrics.logged(log.con, "one", points=10)
    assert table.num_rows == 10
    assert table["step"].to_pylist()[-1] == 100
    assert max(table["reward"].to_pylist()) == 1_000.0


def test_a_window_that_begins_within_a_step_does_not_lose_the_sae_before_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(log, 1, 10, saes=2)
    tables.save_stream_heads(log.con, tables.stream_heads(log.con), log.head)
    # The last three rows: step 10, and of step 9 the second SAE only.
    monkeypatch.setattr(metrics, "_TAIL", 3)
    monkeypatch.setattr(metrics, "_ROWS", 1)
    assert shown(log, "step", "sae", limit=2, order="desc") == [(10, 0), (10, 1), (9, 0), (9, 1)]


@pytest.mark.slow
@settings(max_examples=40)
@given(
    rounds=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=8),
    saes=st.integers(1, 2),
    limit=st.integers(1, 12),
    saved=st.booleans(),
)
def test_the_last_steps_are_found_from_the_end_whatever_was_resumed_and_lies_between(
    rounds: list[tuple[int, int, int]], saes: int, limit: int, saved: bool
) -> None:
    log = Log()
    counted: list[int] = []
    try:
        for number, (count, back, others) in enumerate(rounds):
            if number == len(rounds) // 2 and saved:
                # As a checkpoint of the log writes it down; what comes later lies behind it.
                tables.save_stream_heads(log.con, tables.stream_heads(log.con), log.head)
            begin = max(0, (counted[-1] if counted else 0) - back)
            log.append((T, TrainingResumed(step=begin)))
            counted = [each for each in counted if each <= begin] + list(range(begin + 1, begin + count + 1))
            steps(log, begin + 1, begin + count, saes)
            log.append(*(("training-two", step(n + 1)) for n in range(others)), ("training-two", step(99)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "_TAIL", 3)
            patch.setattr(metrics, "_ROWS", 1)
            found = shown(log, "step", "sae", limit=limit, order="desc")
        assert found == [(each, sae) for each in counted[-limit:][::-1] for sae in range(saes)]
    finally:
        log.close()
