"""The table of traps names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = Path(__file__).with_name("README.md")


def test_every_trap_is_in_the_table_and_every_test_that_it_names_is_there() -> None:
    text = TABLE.read_text("utf-8")
    assert [int(number) for number in re.findall(r"^\| (\d+)\. ", text, re.MULTILINE)] == list(range(1, 36))
    for line in text.splitlines():
        # Each test is in the files that were named last before it.
        files: list[str] = []
        tested = True
        for name in re.findall(r"`([\w/]+\.py|test_\w+)`", line) if line.startswith("|") else []:
            if name.endswith(".py"):
                files = [name] if tested else [*files, name]
                tested = False
                continue
            tested = True
            assert files, line
            for file in files:
                assert f"def {name}(" in (TABLE.parents[1] / file).read_text("utf-8"), f"{file} has no {name}"
