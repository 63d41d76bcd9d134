from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from events.ids import LENGTH, is_id, new_id


def test_ids_ascend_with_time_and_are_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [each for batch in pool.map(lambda _: [new_id() for _ in range(500)], range(8)) for each in batch]
    assert len(set(made)) == len(made)
    assert all(is_id(each) and len(each) == LENGTH for each in made)
    one_by_one = [new_id() for _ in range(1_000)]
    assert one_by_one == sorted(one_by_one)
    assert one_by_one[0] > max(made)


def test_ids_ascend_though_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    an_hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    assert new_id() > before


@pytest.mark.parametrize(
    "text", ["", "01k8z3v6q9xw2", "01k8z3v6q9xw2bb", "01K8Z3V6Q9XW2B", "01k8z3v6q9xwil", "../../etc/pwd"]
)
def test_what_is_not_an_id_is_told_apart(text: str) -> None:
    assert not is_id(text)
