"""What the server itself has appended outlives a log that has lost its newest events."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from server_harness import FakeLaunch, serving

from core.server.journal import Journal, dated
from events.control import PauseRequested, TrainingCreated, TrainingNoted
from events.store import EventStore
from events.streams import Append
from events.training import TrainingConfig

CONTROL = "control-" + "0" * 14
CREATED = TrainingCreated(name="ü", config=TrainingConfig(model="m", datasets=("d",), learning_rate=1e-3))


def write(store: EventStore, journal: Journal, *events: object, stream: str = CONTROL) -> None:
    append = dated(Append(stream, list(events), actor="user:me", metadata={"request": "1"}), 7)  # type: ignore[arg-type]
    journal.record([append], store.append(append).result())


def without_log(folder: Path) -> None:
    """The log as it was before its first commit, as after losing its write-ahead log."""
    for path in folder.glob("log.duckdb*"):
        if path.name != "log.duckdb.head":
            path.unlink()


def test_what_the_log_has_lost_is_appended_again_with_its_times_and_actors(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with EventStore.open(tmp_path / "log.duckdb") as store:
        write(store, journal, CREATED, TrainingNoted(note="a"))
        # A claim lies between, which is not the server's to keep.
        store.claim("training-" + "0" * 14).result()
        write(store, journal, PauseRequested())
        before = store.read_stream(CONTROL)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"stream": "torn')
    without_log(tmp_path)
    with EventStore.open(tmp_path / "log.duckdb") as store:
        assert journal.restore(store) == 3
        after = store.read_stream(CONTROL)
        assert [one.data for one in after] == [CREATED, TrainingNoted(note="a"), PauseRequested()]
        assert [one.occurred_at for one in after] == [7, 7, 7]
        assert {one.actor for one in after} == {"user:me"}
        assert after[0].metadata == before[0].metadata == {"request": "1"}
        assert journal.restore(store) == 0


def test_what_is_in_the_checkpointed_file_or_of_another_log_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    # Nothing is checkpointed but by the test.
    with EventStore.open(tmp_path / "log.duckdb", idle=3_600) as store:
        write(store, journal, CREATED)
        journal.trim(store)
        assert path.read_bytes().count(b"\n") == 1
        assert store.checkpoint().result()
        journal.trim(store)
        assert path.read_bytes() == b""
        write(store, journal, PauseRequested())
    with EventStore.open(tmp_path / "other.duckdb") as other:
        journal.trim(other)
    assert path.read_bytes() == b""


@pytest.mark.slow
async def test_a_server_whose_log_lost_its_newest_events_still_knows_what_was_said_of_a_training(
    tmp_path: Path,
) -> None:
    folder, earlier = tmp_path / "data", tmp_path / "earlier.duckdb"
    async with serving(folder, FakeLaunch()) as client:
        log_id = client.server.log_id
    shutil.copy(folder / "log.duckdb", earlier)
    async with serving(folder, FakeLaunch()) as client:
        training = await client.create(total_steps=3)
        await client.until(training, "completed")
        await client.http.patch(f"/api/v1/trainings/{training}", json={"note": "remember me"})
    shutil.copy(earlier, folder / "log.duckdb")
    async with serving(folder, FakeLaunch()) as client:
        assert client.server.log_id != log_id
        row = await client.get(f"trainings/{training}")
        assert (row["note"], row["name"]) == ("remember me", "tiny_words_TopK_L2")
        assert row["actor"].startswith("user:")
