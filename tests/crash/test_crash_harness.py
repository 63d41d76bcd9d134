"""`scripts/bench/crash.py`, a few rounds of it; and that it notices a log that breaks its word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "crash.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(("kill", "rounds"), [("emitter", 20), ("both", 3)])
def test_every_promise_is_kept(kill: str, rounds: int) -> None:
    done = harness("--kill", kill, "--rounds", str(rounds))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rounds} rounds, every promise kept" in done.stdout


def test_a_log_that_acknowledges_before_it_commits_is_found_out() -> None:
    done = harness("--kill", "emitter", "--rounds", "20", "--break", "ack-before-commit")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN in round" in done.stdout
    assert "acknowledged" in done.stdout
