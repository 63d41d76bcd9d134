"""The walls of the house that an import graph cannot show: what a starting process really loads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def loaded_by(statement: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter after `statement`."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return {line.partition(".")[0] for line in result.stdout.splitlines()}


@pytest.mark.parametrize("name", ["core", "events", "projections", "ui"])
def test_a_room_is_ours_and_not_somebody_elses_package(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin) == ROOT / name / "__init__.py"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import core.server.app", {"torch", "transformers", "datasets", "panel", "bokeh", "holoviews"}),
        ("import ui.app", {"torch", "transformers", "datasets", "duckdb", "starlette", "core", "projections"}),
        ("import core.cli", {"torch", "transformers", "datasets", "panel", "bokeh", "duckdb"}),
        ("import core.training.__main__", {"duckdb", "starlette", "panel", "bokeh", "projections", "ui"}),
        ("import events", {"duckdb", "torch", "websockets"}),
        ("import events.codec, events.wire", {"duckdb", "torch", "core", "projections", "ui"}),
    ],
)
def test_starting_a_part_loads_nothing_that_belongs_to_another(statement: str, forbidden: set[str]) -> None:
    assert not loaded_by(statement) & forbidden
