"""Trainings in one file, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_harness import Cli

pytestmark = pytest.mark.slow


def test_trainings_are_written_into_one_file(served: Cli, tmp_path: Path) -> None:
    with served.training("to be <b>kept</b>") as one, served.training("another") as other:
        one.step(3, fvu=0.125)
        other.step(4)
        target = tmp_path / "kept.html"
        said = served("export-html", one.id[:10], other.id, "--to", str(target), "--json").json()
        assert said == {"trainings": [one.id, other.id], "file": str(target), "bytes": target.stat().st_size}
        page = target.read_text("utf-8")
        assert "to be \\u003cb\\u003ekept" in page
        assert target.stat().st_size <= 3_000_000
        assert str(target) in served("export-html", one.id, "--to", str(target)).out
        # An SAE is not the whole run, also where there is none yet.
        alone = served("export-html", f"{one.id[:10]}~0", "--to", str(target))
        assert f"There is no SAE 0 in training {one.id!r}: it has none yet." in alone.err


def test_what_cannot_be_written_is_said_in_one_sentence(served: Cli, tmp_path: Path) -> None:
    missing = served("export-html", "nothing", "--to", str(tmp_path / "x.html"))
    assert (missing.status, "begins with 'nothing'" in missing.err) == (1, True)
    unread = served("export-html", "nothing~first", "--to", str(tmp_path / "x.html"))
    assert (unread.status, "is the number of an SAE" in unread.err) == (1, True)
    with served.training() as one:
        refused = served("export-html", one.id, "--to", str(tmp_path / "no" / "folder.html"))
    assert refused.status == 1
    assert refused.err.count("\n") == 1
    assert "cannot be written" in refused.err
