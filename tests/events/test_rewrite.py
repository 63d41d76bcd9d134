"""A log that is written anew is the same log, less what was purged."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from event_examples import EXAMPLES

from events import integrity, rewrite, tables
from events.control import TrainingPurged
from events.errors import LogUnavailable, StreamPurged
from events.event import EventPurged, Recorded
from events.log import LogWritten
from events.rewrite import Purge
from events.store import Append, EventStore
from events.training import StepTrained

SECRET = "a secret of the purged training, which nobody may find again"


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def step(number: int) -> StepTrained:
    return StepTrained(
        step=number, loss=1, loss_reconstruction=1, l0=1, l0_fraction=1, fvu=1, learning_rate=1, grad_norm=1,
        tokens=number, tokens_per_second=1,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two trainings, and of one event of every kind beside them."""
    path = tmp_path / "log.duckdb"
    with EventStore.open(path) as store:
        for training in ("kept", "gone"):
            epoch = store.claim(f"training-{training}").result().epoch
            line = LogWritten(level="INFO", logger="x", message=SECRET if training == "gone" else "nothing special")
            for first in range(0, 400, 100):
                events = [step(first + n) for n in range(99)] + [line]
                store.append(Append(f"training-{training}", events, expected=first, epoch=epoch)).result()
        others = [event for event in EXAMPLES if type(event).__name__ != "WriterClaimed"]
        store.append(Append("others", others)).result()
    return path


def everything(path: Path) -> list[Recorded]:
    with EventStore.open(path) as store:
        return list(store.read(0, limit=10_000).events)


def test_without_a_purge_it_is_the_same_log(path: Path) -> None:
    before = everything(path)
    assert rewrite.rewrite(path, ignore) == 0
    assert repr(everything(path)) == repr(before)
    assert [file.name for file in path.parent.iterdir() if ".new" in file.name] == []


def test_a_column_that_an_older_log_lacks_gets_its_default(path: Path) -> None:
    before = everything(path)
    with duckdb.connect(str(path)) as con:
        con.execute("DROP VIEW events")
        con.execute("ALTER TABLE step_trained DROP COLUMN dead_latents")
        con.execute("ALTER TABLE step_trained DROP COLUMN device_memory")
    rewrite.rewrite(path, ignore)
    after = [one for one in everything(path) if one.stream == "training-kept"]
    assert repr(after) == repr([one for one in before if one.stream == "training-kept"])


def test_a_purge_leaves_every_place_and_nothing_of_what_lay_there(path: Path) -> None:
    before = everything(path)
    assert SECRET.encode() in path.read_bytes()
    with EventStore.open(path) as store:
        log_id = store.log_id
    assert rewrite.rewrite(path, ignore, purges=[Purge("gone", 12, "user:ada")]) == 401
    assert SECRET.encode() not in path.read_bytes()
    after = everything(path)
    assert [one.position for one in after] == list(range(1, len(before) + 2))
    for old, new in zip(before, after, strict=False):
        assert (old.position, old.stream, old.version) == (new.position, new.stream, new.version)
        if old.stream in ("training-gone", "control-gone"):
            assert new.data == EventPurged()
        else:
            assert repr(new) == repr(old)
    last = after[-1]
    assert (last.stream, last.version, last.actor) == ("control-gone", 2, "user:ada")
    assert last.data == TrainingPurged(events=401, bytes_freed=12)
    with EventStore.open(path) as store, store.reading() as con:
        assert store.log_id == log_id
        assert integrity.difference(con) is None


def test_nobody_writes_a_purged_training_again(path: Path) -> None:
    rewrite.rewrite(path, ignore, purges=[Purge("gone", 0, "user:ada")])
    for _ in range(2):
        with EventStore.open(path) as store:
            for epoch in (None, 1, 2):
                with pytest.raises(StreamPurged, match="was purged"):
                    store.claim("training-gone", epoch=epoch).result()
            with pytest.raises(StreamPurged):
                store.append(Append("training-gone", [step(1)], expected=400, epoch=1)).result()
            assert store.claim("training-kept").result().epoch > 1


@pytest.mark.slow
def test_what_was_written_down_of_streams_is_not_needed_to_know_a_purged_one(path: Path) -> None:
    rewrite.rewrite(path, ignore, purges=[Purge("gone", 0, "user:ada")])
    with duckdb.connect(str(path)) as con:
        con.execute("DELETE FROM streams")
        con.execute("UPDATE log_meta SET value = '0' WHERE key = 'streams_position'")
    with EventStore.open(path) as store, pytest.raises(StreamPurged):
        store.claim("training-gone").result()


def test_what_ends_it_midway_leaves_the_log_as_it_was(path: Path) -> None:
    before = everything(path)

    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrite.rewrite(path, give_up, purges=[Purge("gone", 0, "user:ada")])
    # As a kill would leave it.
    path.with_name(path.name + ".new").write_bytes(b"half of a database")
    assert repr(everything(path)) == repr(before)
    assert rewrite.rewrite(path, ignore) == 0
    assert repr(everything(path)) == repr(before)


@pytest.mark.slow
def test_a_new_file_that_differs_is_not_put_in_the_logs_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(path)
    real = rewrite._Rewriting._copy

    def forgetful(self: rewrite._Rewriting, name: str, where: str) -> None:
        real(self, name, where + (" AND position <> 1200" if name == "log_events" else " AND version <> 7"))

    monkeypatch.setattr(rewrite._Rewriting, "_copy", forgetful)
    with pytest.raises(LogUnavailable, match="not whole: position"):
        rewrite.rewrite(path, ignore)

    def altering(self: rewrite._Rewriting, name: str, where: str) -> None:
        real(self, name, where)
        if name == "step_trained":
            self._con.execute("UPDATE step_trained SET loss = 2 WHERE version = 7")

    monkeypatch.setattr(rewrite._Rewriting, "_copy", altering)
    with pytest.raises(LogUnavailable, match=r"step_trained .* not what it was"):
        rewrite.rewrite(path, ignore)
    assert repr(everything(path)) == repr(before)


def test_a_log_without_a_format_is_refused(path: Path) -> None:
    assert rewrite.format_of(path) == int(tables.FORMAT)
    with duckdb.connect(str(path)) as con:
        con.execute("DELETE FROM log_meta WHERE key = 'format'")
    with pytest.raises(LogUnavailable, match="does not say what format"):
        rewrite.format_of(path)
