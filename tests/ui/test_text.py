"""Numbers and times as people read them."""

from __future__ import annotations

import math

import pytest

from ui import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.2123, "0.212"),
        (0.001, "0.001"),
        (0.000012, "1.2e-5"),
        (9.9996, "10.0"),
        (64.0, "64.0"),
        (-3.5, "-3.500"),
        (1234.4, "1,234"),
        (2.5e9, "2.5e9"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_a_metric_is_about_three_digits(value: float | None, shown: str) -> None:
    assert text.metric(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (999.9, "1 k"), (182_345, "182 k"), (999_600, "1 M"), (1_284_310, "1.28 M"), (2.05e8, "205 M")],
)
def test_a_large_number_is_three_digits_and_a_unit(value: float, shown: str) -> None:
    assert text.short(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (75, "1 min 15 s"),
        (14 * 60 + 20, "14 min"),
        (3 * 3600 + 600, "3 h 10 min"),
        (7200, "2 h"),
        (52 * 3600, "2 d 4 h"),
        (-1, "–"),
        (None, "–"),
    ],
)
def test_a_duration_is_its_two_largest_units(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("done", "shown"), [(0.0, "0 %"), (0.624, "62 %"), (0.99999, "99 %"), (1.0, "100 %"), (0.29, "29 %")]
)
def test_only_what_is_done_is_a_hundred_percent(done: float, shown: str) -> None:
    assert text.progress(done) == shown


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [((6,), "6"), ((8, 6), "6, 8"), (tuple(range(16)), "0–15"), ((0, 1, 4, 5, 6, 9), "0, 1, 4–6, 9"), ((), "")],
)
def test_runs_of_layers_are_joined(numbers: tuple[int, ...], shown: str) -> None:
    assert text.series(numbers) == shown


def test_a_share_keeps_one_decimal_where_it_is_small() -> None:
    assert [text.share(value) for value in (0.031, 0.62, 0.0999, 0, None)] == ["3.1 %", "62 %", "10 %", "0.0 %", "–"]


def test_a_mean_of_counts_has_a_tenth() -> None:
    assert [text.mean_count(value) for value in (8.0, 16.24, 999.96, 1234.5, None)] == [
        "8.0",
        "16.2",
        "1,000",
        "1,234",
        "–",
    ]


def test_a_guess_is_no_more_exact_than_it_is() -> None:
    assert [text.about(seconds) for seconds in (44.6, 59.4, 100, 385, 11_000)] == [
        "45 s",
        "59 s",
        "2 min",
        "6 min",
        "3 h 3 min",
    ]
