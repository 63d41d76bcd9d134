from __future__ import annotations

from typing import Any

import pytest
from folded_log import Log, step

from events.log import LogWritten
from events.training import TrainingResumed
from projections import logs
from projections.projection import QueryRefused

T = "training-one"


def line(message: str, level: Any = "INFO", logger: str = "core.training.loop") -> tuple[str, LogWritten]:
    return T, LogWritten(level=level, logger=logger, message=message)


def messages(log: Log, **query: Any) -> list[str]:
    return [each.message for each in logs.lines(log.con, "one", **query)]


def test_the_newest_lines_come_first_and_older_ones_by_version(log: Log) -> None:
    log.append(*(line(f"{n}") for n in range(10)), ("training-two", line("other")[1]))
    rows = logs.lines(log.con, "one", limit=3)
    assert [row.message for row in rows] == ["9", "8", "7"]
    assert messages(log, limit=3, before=rows[-1].version) == ["6", "5", "4"]
    assert messages(log, limit=2, order="asc") == ["0", "1"]
    assert messages(log, after=rows[-1].version, order="asc") == ["8", "9"]
    assert (rows[0].version, rows[0].position, rows[0].timestamp, rows[0].level) == (10, 10, 10_000, "INFO")


def test_lines_stay_after_a_resume(log: Log) -> None:
    log.append(line("before"), (T, step(5)), line("later"), (T, TrainingResumed(step=0)))
    assert messages(log, order="asc") == ["before", "later"]


def test_a_level_shows_itself_and_what_is_worse(log: Log) -> None:
    log.append(*(line(level, level) for level in logs.SEVERITY))
    assert messages(log, level="warning", order="asc") == ["WARNING", "ERROR", "CRITICAL"]
    assert messages(log, level="DEBUG", order="asc") == list(logs.SEVERITY)


def test_search_takes_text_as_it_stands_in_any_case(log: Log) -> None:
    log.append(line("100% done"), line("a_b"), line("axb"), line("Größe"), line("x", logger="core.sae"))
    assert messages(log, q="%") == ["100% done"]
    assert messages(log, q="A_B") == ["a_b"]
    assert messages(log, q="GRÖSSE") == []
    assert messages(log, q="GRÖßE") == ["Größe"]
    assert messages(log, q="Core.SAE") == ["x"]
    assert messages(log, q="'; drop table logs; --") == []


def test_every_line_is_searched_and_not_only_the_newest(log: Log) -> None:
    log.append(line("needle"), *(line("hay") for _ in range(2_000)))
    assert messages(log, q="needle", limit=1) == ["needle"]


@pytest.mark.parametrize(
    ("query", "field"), [({"level": "LOUD"}, "level"), ({"order": "up"}, "order"), ({"limit": 0}, "limit")]
)
def test_a_query_that_makes_no_sense_is_refused(log: Log, query: dict[str, Any], field: str) -> None:
    with pytest.raises(QueryRefused) as refused:
        logs.lines(log.con, "one", **query)
    assert refused.value.field == field
