"""Charts fill the rows that they stand in, however many there are."""

from __future__ import annotations

import re

import pytest

from ui.charts.grid import GAP, grid, height


def spans(css: str, number: int) -> list[int]:
    """How many of six columns each of `number` charts takes in a wide window."""
    wide = css.partition("@media")[0]
    rules = re.findall(r":nth-last-child\((\d) of \.c\):is\(([^{]*?)\)(?=[,\s]*(?:\.c|\{))", wide)
    found = [2] * number
    for back, places in rules:
        for nth in re.findall(r"nth-child\((\S+) of", places):
            step, _, offset = nth.partition("n")
            index = number - int(back)
            if index >= 0 and (index + 1) % int(step) == int(offset or 0) % int(step):
                found[index] = 3
    return found


@pytest.mark.parametrize("number", range(2, 14))
def test_no_row_has_a_gap_and_there_are_no_more_rows_than_there_have_to_be(number: int) -> None:
    rows: list[int] = []
    for span in spans(grid(":host", ".c"), number):
        if rows and rows[-1] + span <= 6:
            rows[-1] += span
        else:
            rows.append(span)
    assert rows == [6] * -(-number // 3)
    assert f"min-height: {len(rows) * (232 + GAP) - GAP + 12}px" in height(number, 232)
