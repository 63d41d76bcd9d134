"""`saestudio purge` and `salvage` on data directories with a log of some trainings."""

from __future__ import annotations

import tarfile
from pathlib import Path

import format_example as example
import httpx
import pytest
from cli_harness import Cli

from core.settings import Settings
from events.tables import FORMAT

FORMATS = Path(__file__).parents[2] / "formats"


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """The data directory of the present format's example: a killed server's, with a deleted training."""
    with tarfile.open(FORMATS / f"{FORMAT}.tar.xz") as tar:
        tar.extractall(cli.data_dir, filter="data")
    return cli


@pytest.mark.slow
def test_a_purge_removes_events_and_files_and_nothing_else(filled: Cli) -> None:
    settings = Settings(data_dir=filled.data_dir)
    folder = settings.run_folder(example.DELETED)
    folder.mkdir()
    (folder / "run.json").write_text("x" * 5_000)
    with filled.up() as served:
        running = filled("purge", example.DELETED, "--yes")
        assert (running.status, "A server has the log open" in running.err) == (1, True)
        kept = filled("show", example.DONE, "--json").json()
        head = httpx.get(f"{served['url']}/healthz", trust_env=False).json()["head"]
    purged = filled("purge", example.DELETED, "--yes", "--json")
    assert purged.status == 0, purged.err
    assert purged.json()["purged"] == [example.DELETED]
    assert purged.json()["events"] == 2 + 2 * (example.STEPS // 2) + 3
    assert purged.json()["bytes_freed"] >= 5_000
    assert not folder.exists()
    verified = filled("verify", "--json")
    assert (verified.status, verified.json()["matches"]) == (0, True)
    for path in (settings.database, settings.journal):
        assert example.DELETED.encode() + b" is done" not in path.read_bytes()
    with filled.up() as served:
        there = httpx.get(f"{served['url']}/healthz", trust_env=False).json()
        assert (there["head"], there["log_id"]) == (head + 1, served["log_id"])
        assert filled("show", example.DONE, "--json").json() == {**kept, "position": head + 1}
        gone = filled("show", example.DELETED)
        assert (gone.status, "no training" in gone.err) == (1, True)
    again = filled("purge", example.DELETED, "--yes")
    assert (again.status, "There is no training" in again.err) == (1, True)


def test_only_what_is_deleted_is_purged_and_only_when_that_is_meant(filled: Cli) -> None:
    database = Settings(data_dir=filled.data_dir).database
    for id, options, sentence in (
        (example.DONE, ["--yes"], f"Training {example.DONE} is not deleted."),
        ("0123456789abcd", ["--yes"], "There is no training 0123456789abcd in the log"),
        (example.DELETED, [], "it wants --yes"),
    ):
        refused = filled("purge", id, *options)
        assert (refused.status, sentence in refused.err) == (1, True), refused.err
    assert b"Half of" in database.read_bytes()


@pytest.mark.slow
def test_a_damaged_log_is_named_left_alone_and_salvaged_on_request(filled: Cli) -> None:
    settings = Settings(data_dir=filled.data_dir)
    wal = settings.database.with_name(settings.database.name + ".wal")
    torn = bytearray(wal.read_bytes())
    torn[len(torn) // 2] ^= 0xFF
    wal.write_bytes(torn)
    before = (settings.database.read_bytes(), wal.read_bytes())
    refused = filled("up", "--no-browser")
    assert refused.status == 1
    assert "log.duckdb is damaged" in refused.err
    assert "salvage" in refused.err
    assert (settings.database.read_bytes(), wal.read_bytes()) == before
    salvaged = filled("salvage", "--json")
    assert salvaged.status == 0, salvaged.err
    aside = Path(salvaged.json()["aside"])
    assert ((aside / "log.duckdb").read_bytes(), (aside / "log.duckdb.wal").read_bytes()) == before
    with filled.up():
        done = filled("show", example.DONE, "--json").json()
        assert example.STEPS // 2 <= done["step"] < example.STEPS
        assert filled("show", example.SPOOLED, "--json").json()["step"] == example.SPOOLED_STEPS
        assert filled("verify", "--json").json()["matches"]
    healthy = filled("salvage")
    assert (healthy.status, "is whole: there is nothing to salvage" in healthy.err) == (1, True)
