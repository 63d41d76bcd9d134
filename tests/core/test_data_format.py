"""A data directory of every format that was ever released opens, is whole, and loses nothing on the way."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import duckdb
import format_example as example
import msgspec
import pytest
from cli_harness import Cli

from core import data_format
from core.api import Api, find_address
from core.data_format import NewerFormat
from core.settings import Settings
from events import backup, rewrite
from events.errors import LogUnavailable
from events.store import EventStore
from events.tables import FORMAT

FORMATS = Path(__file__).parents[1] / "formats"
EXAMPLES = sorted(FORMATS.glob("*.tar.xz"))


def unpacked(archive: Path, folder: Path) -> example.Expected:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return msgspec.json.decode((folder / example.EXPECTED).read_bytes(), type=example.Expected)


def contents(database: Path) -> tuple[str, list[str]]:
    """Log id and every event, whatever the format."""
    with duckdb.connect(str(database)) as con:
        rows = con.execute("SELECT (e)::VARCHAR FROM events AS e ORDER BY position").fetchall()
        (log_id,) = con.execute("SELECT value FROM log_meta WHERE key = 'log_id'").fetchone() or ("",)
    return log_id, [row[0] for row in rows]


def ignore(*_: Any) -> None:
    """Nobody watches."""


def test_there_is_an_example_of_every_format() -> None:
    assert [int(path.name.partition(".")[0]) for path in EXAMPLES] == list(range(1, int(FORMAT) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("archive", EXAMPLES, ids=lambda path: path.name)
def test_a_server_opens_it_with_everything_in_it(archive: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    expected = unpacked(archive, data_dir)
    cli = Cli(data_dir)
    try:
        with cli.up() as served:
            assert served["log_id"] == expected.log_id
            address = find_address(data_dir)
            assert address is not None
            with Api(address) as api:
                done = api.training(example.DONE)
                assert (done["status"], done["note"], done["tags"]) == ("stopped", example.NOTE, ["kept"])
                assert done["step"] == example.STEPS
                history = api.get(f"trainings/{example.DONE}/metrics", points=4_000, sae=0)
                assert len(history["data"]) == example.STEPS
                spooled = api.training(example.SPOOLED)
                assert spooled["step"] == example.SPOOLED_STEPS
                assert [row["name"] for row in api.get("templates")["data"]] == ["Small"]
                assert api.get("trainings")["counts"]["stopped"] == 1
            verified = cli("verify", "--json")
            assert verified.json()["matches"], verified.out
    finally:
        cli.close()
    assert (data_dir / "format").read_text() == f"{FORMAT}\n"
    assert (archive.name == f"{FORMAT}.tar.xz") or list((data_dir / "backups").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("archive", EXAMPLES[:-1], ids=lambda path: path.name)
def test_an_upgrade_keeps_every_event_and_the_old_log(archive: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    expected = unpacked(archive, tmp_path)
    before = contents(settings.database)
    said: list[str] = []
    data_format.bring_up_to_date(settings, said.append, ignore)
    assert contents(settings.database) == before
    assert (len(before[1]), before[0]) == (expected.head, expected.log_id)
    (kept,) = (tmp_path / "backups").iterdir()
    assert backup.read(kept).position == expected.head
    assert said == [
        f"The log is brought from format {archive.name[0]} to {FORMAT}; {kept} keeps it as it was.",
    ]
    with EventStore.open(settings.database) as store:
        assert (store.log_id, store.head, store.lost) == (expected.log_id, expected.head, None)
    # The old program's log can be had back, into a directory that this one has used, and is brought up to date again.
    elsewhere = Settings(data_dir=tmp_path / "elsewhere")
    data_format.bring_up_to_date(elsewhere, said.append, ignore)
    cli = Cli(elsewhere.data_dir)
    restored = cli("restore", str(kept))
    assert restored.status == 0, restored.err
    verified = cli("verify", "--json")
    assert (verified.status, verified.json()["matches"]) == (0, True), verified.err
    assert contents(elsewhere.database)[1] == before[1]


@pytest.mark.slow
def test_an_upgrade_that_fails_leaves_the_old_log_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    unpacked(EXAMPLES[0], tmp_path)
    before = contents(settings.database)
    monkeypatch.setattr(rewrite.integrity, "difference", lambda con: "something is amiss")
    with pytest.raises(LogUnavailable, match="something is amiss"):
        rewrite.rewrite(settings.database, ignore)
    monkeypatch.undo()
    assert contents(settings.database) == before
    assert rewrite.format_of(settings.database) == 1
    data_format.bring_up_to_date(settings, ignore)
    assert contents(settings.database) == before
    assert rewrite.format_of(settings.database) == int(FORMAT)


def test_a_newer_programs_directory_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    settings = Settings(data_dir=data_dir)
    EventStore.open(settings.database).close()
    settings.format_file.write_text("99\n")
    before = settings.database.read_bytes()
    cli = Cli(data_dir)
    for command in (["up", "--no-browser"], ["verify"], ["train", "--demo"], ["purge", "0123456789abcd"]):
        refused = cli(*command)
        assert (refused.status, refused.out) == (1, "")
        assert "is in format 99, written by a newer SAE Studio; this one knows formats up to" in refused.err
    assert settings.database.read_bytes() == before


def test_a_format_file_is_not_needed_to_know_a_newer_log(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    EventStore.open(settings.database).close()
    with duckdb.connect(str(settings.database)) as con:
        con.execute("UPDATE log_meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(NewerFormat, match="is in format 99"):
        data_format.bring_up_to_date(settings, ignore)


def test_a_format_file_that_says_nothing_is_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.format_file.write_text("two")
    with pytest.raises(LogUnavailable, match="format holds 'two', which is no number"):
        data_format.check(settings)
