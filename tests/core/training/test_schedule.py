"""The learning rate is a function of the step alone."""

from __future__ import annotations

import pytest

from core.training.schedule import learning_rate


def _rates(**changed: int) -> list[float]:
    values = {"warmup": 10, "decay": 20, "total": 100, **changed}
    return [learning_rate(step, peak=0.5, **values) for step in range(1, values["total"] + 1)]


def test_it_rises_stays_and_falls_to_almost_nothing() -> None:
    rates = _rates()
    assert rates[0] == pytest.approx(0.05)
    assert rates[9:81] == [0.5] * 72
    assert rates[-1] == pytest.approx(0.5 / 20)
    assert rates[:10] == sorted(rates[:10])
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert min(rates) > 0


def test_without_warm_up_and_decay_it_is_constant() -> None:
    assert set(_rates(warmup=0, decay=0)) == {0.5}


def test_where_warm_up_and_decay_meet_the_lower_counts() -> None:
    rates = _rates(warmup=60, decay=60, total=100)
    assert max(rates) < 0.5
    assert rates[49] == pytest.approx(0.5 * 50 / 60)
    assert rates[60] == pytest.approx(0.5 * 40 / 60)
