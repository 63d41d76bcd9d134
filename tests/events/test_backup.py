"""A backup is whole though the log goes on, is known by its hash, and comes back as a new incarnation."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from events import backup
from events.backup import BackupError
from events.errors import LogUnavailable
from events.log import LogWritten
from events.store import Append, EventStore


def lines(count: int) -> list[LogWritten]:
    return [LogWritten(level="INFO", logger="x", message=f"{number}") for number in range(count)]


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.duckdb"
    with EventStore.open(path) as store:
        store.append(Append("a", lines(500))).result()
    return path


def test_it_holds_the_log_up_to_a_position_while_appends_go_on(tmp_path: Path, path: Path) -> None:
    with EventStore.open(path, wal_limit=50_000, idle=0.01) as store:
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                store.append(Append("b", lines(200))).result()

        writer = threading.Thread(target=go_on)
        writer.start()
        made = [backup.make(store, tmp_path / f"backup {number}", ignore) for number in range(3)]
        over.set()
        writer.join()
        assert store.checkpoint().result()
        assert [one.log_id for one in made] == [store.log_id] * 3
        head = store.head
    assert 500 <= made[0].position < made[1].position < made[2].position <= head
    for number, manifest in enumerate(made):
        assert backup.read(tmp_path / f"backup {number}") == manifest


def test_what_is_restored_is_the_same_log_under_a_new_id_and_goes_on(tmp_path: Path, path: Path) -> None:
    with EventStore.open(path) as store:
        manifest = backup.make(store, tmp_path / "backup", ignore)
        store.append(Append("a", lines(7))).result()
        original = store.read(0, limit=500).events
    seen: list[tuple[int, int]] = []
    database = tmp_path / "elsewhere" / "log.duckdb"
    assert backup.restore(tmp_path / "backup", database, lambda *each: seen.append(each)) == manifest
    assert seen
    assert {file.name for file in database.parent.iterdir()} == {"log.duckdb"}
    with EventStore.open(database) as store:
        assert store.lost is None
        assert store.log_id != manifest.log_id
        assert (store.head, manifest.position) == (500, 500)
        assert list(store.read(0, limit=500).events) == list(original)
        store.append(Append("a", lines(1), expected=500)).result()


def test_a_damaged_backup_is_refused_and_leaves_nothing(tmp_path: Path, path: Path) -> None:
    with EventStore.open(path) as store:
        backup.make(store, tmp_path / "backup", ignore)
    copy = tmp_path / "backup" / backup.DATABASE
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    database = tmp_path / "elsewhere" / "log.duckdb"
    with pytest.raises(BackupError, match="its SHA-256 is not the one"):
        backup.restore(tmp_path / "backup", database, ignore)
    assert not list(database.parent.iterdir())
    (tmp_path / "backup" / backup.MANIFEST).unlink()
    with pytest.raises(BackupError, match="is no backup"):
        backup.restore(tmp_path / "backup", database, ignore)


def test_nothing_that_is_there_is_overwritten(tmp_path: Path, path: Path) -> None:
    before = path.read_bytes()
    with EventStore.open(path) as store:
        backup.make(store, tmp_path / "backup", ignore)
        with pytest.raises(BackupError, match="is there already"):
            backup.make(store, tmp_path / "backup", ignore)
    with pytest.raises(BackupError, match="without a log"):
        backup.restore(tmp_path / "backup", path, ignore)
    assert len(path.read_bytes()) == len(before)


def test_a_backup_that_is_given_up_leaves_nothing(tmp_path: Path, path: Path) -> None:
    def give_up(done: int, total: int) -> None:
        raise RuntimeError("given up")

    with EventStore.open(path) as store:
        with pytest.raises(RuntimeError, match="given up"):
            backup.make(store, tmp_path / "backup", give_up)
        assert not (tmp_path / "backup").exists()
        assert store.checkpoint().result()


def test_a_frozen_file_stays_as_it_is_and_the_log_goes_on(path: Path) -> None:
    with EventStore.open(path, idle=0.01) as store:
        with store.frozen() as position:
            before = path.read_bytes()
            store.append(Append("a", lines(1_000))).result()
            assert not store.checkpoint().result()
            with pytest.raises(LogUnavailable, match="being copied already"), store.frozen():
                pass
            assert path.read_bytes() == before
        assert (position, store.head) == (500, 1_500)
        assert store.checkpoint().result()
        assert store.checkpointed("a") == 1_500
