"""The runner on a real log: catching up, joining commits, rebuilding, verifying, failing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection
from folded_log import step

from events.batch import Batch
from events.control import TrainingCreated, TrainingPurged, TrainingRenamed
from events.event import Event
from events.log import LogWritten
from events.store import EventStore
from events.streams import Append
from events.training import CheckpointSaved, EvaluationMade, MetricsLogged, TrainingResumed
from projections import logs, metrics, runner, trainings
from projections.evaluations import Evaluations
from projections.logs import Logs
from projections.projection import Projection
from projections.runner import REBUILD, FoldFailed, NotInStep, Projections, position
from projections.trainings import Trainings

C, T = "control-one", "training-one"
HISTORY: list[Event] = [
    *(step(n, sae) for n in range(1, 21) for sae in (0, 1)),
    LogWritten(level="INFO", logger="core", message="half"),
    TrainingResumed(step=10),
    *(step(n, sae) for n in range(11, 16) for sae in (0, 1)),
    CheckpointSaved(step=15, path="p", size=1),
]


def append(store: EventStore, stream: str, *events: Event) -> None:
    store.append(Append(stream, events)).result()


def run(store: EventStore, sql: str) -> None:
    store.transact(lambda con: con.execute(sql).fetchall()).result()


def fill(store: EventStore) -> None:
    append(store, C, TrainingCreated(name="first"))
    append(store, T, *HISTORY)


def until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Waits for a condition that another thread brings about."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        threading.Event().wait(0.01)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAGE", 7)


class Shaky(Logs):
    """Log lines, with a fold that can be told to fail."""

    fails: bool = False

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        super().fold(con, batch)
        if type(self).fails:
            con.execute("SELECT 1/0, error('the disk is on fire')")


@pytest.fixture
def shaky() -> Sequence[Projection]:
    Shaky.fails = False
    return [Trainings(), Evaluations(), Shaky()]


def test_an_append_is_seen_by_the_query_after_it(store: EventStore) -> None:
    Projections(store).start()
    append(store, C, TrainingCreated(name="first"))
    with store.reading() as con:
        assert trainings.list_(con)[1] == {"queued": 1}
        assert position(con) == store.head == 1
    append(store, T, step(1))
    with store.reading() as con:
        row = trainings.get(con, "one")
        assert row is not None
        assert (row.status, row.step) == ("running", 1)
        assert position(con) == 2


def test_what_was_there_before_is_caught_up_in_pages(store: EventStore, small_pages: None) -> None:
    fill(store)
    seen: list[tuple[int, int]] = []
    Projections(store).start(lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 5
    assert seen[-1] == (store.head, store.head)
    with store.reading() as con:
        assert metrics.history(con, "one", sae=0)["step"].to_pylist() == list(range(1, 16))
        assert position(con) == store.head


def test_catching_up_and_folding_live_come_to_the_same(store: EventStore, tmp_path: Path, small_pages: None) -> None:
    live = Projections(store)
    live.start()
    fill(store)
    with EventStore.open(tmp_path / "other.duckdb", threads=1) as other:
        append(other, C, TrainingCreated(name="first"))
        other.append(Append(T, HISTORY, occurred_at=[each.occurred_at for each in store.read_stream(T)])).result()
        late = Projections(other)
        late.start()
        sums, others = live.checksums(), late.checksums()
        # The creation's own time differs; it is the only thing that does.
        assert {name for name in sums if sums[name] != others[name]} == {"trainings"}
        assert {name: each.split("-")[0] for name, each in sums.items()} == {
            name: each.split("-")[0] for name, each in others.items()
        }


def test_a_restart_goes_on_from_the_checkpoint(tmp_path: Path, small_pages: None) -> None:
    path = tmp_path / "log.duckdb"
    with EventStore.open(path, threads=1) as store:
        Projections(store).start()
        fill(store)
    with EventStore.open(path, threads=1) as store:
        append(store, C, TrainingRenamed(name="while nobody folded"))
        batches: list[tuple[int, int]] = []

        class Watched(Trainings):
            def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
                batches.append((batch.first, batch.last))
                super().fold(con, batch)

        Projections(store, [Watched()]).start()
        assert batches == [(store.head, store.head)]
        with store.reading() as con:
            row = trainings.get(con, "one")
            assert row is not None
            assert (row.name, row.step) == ("while nobody folded", 15)


def test_another_version_is_built_anew_at_start(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    Projections(store).start()
    fill(store)
    run(store, "UPDATE logs SET message = 'of the old version'")
    Projections(store).start()
    with store.reading() as con:
        assert [line.message for line in logs.lines(con, "one")] == ["of the old version"]
    before = {name: each.version for name, each in Projections(store).positions().items()}
    monkeypatch.setattr(Logs, "version", Logs.version + 1)
    newer = Projections(store)
    newer.start()
    with store.reading() as con:
        assert [line.message for line in logs.lines(con, "one")] == ["half"]
    after = {name: each.version for name, each in newer.positions().items()}
    assert after == {**before, "logs": before["logs"] + 1}


def test_a_rebuild_gives_identical_tables_and_repairs_what_was_changed(store: EventStore, small_pages: None) -> None:
    projections = Projections(store)
    projections.start()
    fill(store)
    before = projections.checksums()
    projections.rebuild()
    assert projections.checksums() == before
    run(store, "DELETE FROM logs")
    assert projections.checksums() != before
    projections.rebuild(["logs"])
    assert projections.checksums() == before
    append(store, T, LogWritten(level="INFO", logger="core", message="after"))
    with store.reading() as con:
        assert [line.message for line in logs.lines(con, "one")] == ["after", "half"]
        assert not [
            row for row in con.execute("SELECT table_name FROM duckdb_tables()").fetchall() if row[0].endswith(REBUILD)
        ]


def test_a_rebuild_swaps_under_live_commits_and_readers(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAGE", 50)
    projections = Projections(store)
    projections.start()
    fill(store)
    stop = threading.Event()
    errors: list[BaseException] = []
    appended = 0

    def write() -> None:
        nonlocal appended
        try:
            while not stop.is_set():
                append(store, T, LogWritten(level="INFO", logger="live", message=str(appended)), step(16 + appended))
                appended += 1
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread)
            errors.append(error)

    def read() -> None:
        try:
            while not stop.is_set():
                with store.reading() as con:
                    at = position(con)
                    count = len(logs.lines(con, "one", limit=100_000))
                    last = metrics.history(con, "one", limit=1, order="desc")["step"].to_pylist()
                    live = (at - len(HISTORY) - 1) // 2
                    assert (count, last[0]) == (live + 1, 15 + live)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=each) for each in (write, read)]
    for each in threads:
        each.start()
    try:
        rebuilt = 0
        while (rebuilt < 2 or appended <= 3) and not errors:
            projections.rebuild()
            rebuilt += 1
    finally:
        stop.set()
        for each in threads:
            each.join()
    assert not errors, errors[0]
    assert {each.position for each in projections.positions().values()} == {store.head}
    assert all(each.matches for each in projections.verify())


def test_verifying_tells_which_table_is_not_what_the_log_adds_up_to(store: EventStore, small_pages: None) -> None:
    projections = Projections(store)
    projections.start()
    fill(store)
    found = projections.verify()
    assert {each.table for each in found} >= {"trainings", "training_figures", "logs", "preempted", "checkpoints"}
    assert all(each.matches for each in found)
    run(store, "UPDATE training_figures SET loss = loss + 1 WHERE sae = 1")
    wrong = [each for each in projections.verify() if not each.matches]
    assert [(each.projection, each.table, each.rows, each.expected) for each in wrong] == [
        ("trainings", "training_figures", 2, 2)
    ]
    append(store, T, step(17))
    assert {each.position for each in projections.positions().values()} == {store.head}


def test_a_fold_that_fails_once_catches_up_and_no_event_is_lost(
    store: EventStore, shaky: Sequence[Projection], caplog: pytest.LogCaptureFixture
) -> None:
    projections = Projections(store, shaky)
    projections.start()
    Shaky.fails = True
    original = projections._recover  # the failure passes before the recovery begins

    def recover(behind: Sequence[Projection]) -> None:
        Shaky.fails = False
        original(behind)

    projections._recover = recover  # type: ignore[method-assign]
    fill(store)
    append(store, T, LogWritten(level="INFO", logger="core", message="after"))
    until(lambda: all(each.position == store.head for each in projections.positions().values()))
    with store.reading() as con:
        assert [line.message for line in logs.lines(con, "one")] == ["after", "half"]
        row = trainings.get(con, "one")
        assert row is not None
        assert row.step == 15
    assert all(each.error is None for each in projections.positions().values())
    assert "on fire" in caplog.text


def test_a_projection_that_cannot_fold_is_left_behind_and_the_others_go_on(
    store: EventStore, shaky: Sequence[Projection]
) -> None:
    projections = Projections(store, shaky)
    projections.start()
    Shaky.fails = True
    fill(store)
    until(lambda: projections.positions()["logs"].error is not None)
    append(store, C, TrainingRenamed(name="still folded"))
    until(lambda: projections.positions()["trainings"].position == store.head)
    standing = projections.positions()["logs"]
    assert standing.position < store.head
    assert "on fire" in str(standing.error)
    with store.reading() as con:
        assert trainings.list_(con)[0][0].name == "still folded"
    with pytest.raises(FoldFailed, match="on fire"):
        projections.rebuild(["logs"])
    Shaky.fails = False
    projections.rebuild(["logs"])
    append(store, T, LogWritten(level="INFO", logger="core", message="after"))
    with store.reading() as con:
        assert [line.message for line in logs.lines(con, "one")] == ["after", "half"]
    assert projections.positions()["logs"].error is None
    assert projections.positions()["logs"].position == store.head


def test_a_batch_that_does_not_follow_the_checkpoint_is_refused(store: EventStore) -> None:
    projections = Projections(store)
    projections.start()
    fill(store)
    batches = list(store.read_batches(0, size=10))
    before = projections.checksums()
    with pytest.raises(NotInStep, match=r"Not all of .* are true up to position 10"):
        store.transact(lambda con: projections.fold(con, batches[1])).result()
    assert projections.checksums() == before


def test_what_is_left_out_shows_in_the_standing(store: EventStore) -> None:
    projections = Projections(store)
    projections.start()
    append(store, T, CheckpointSaved(step=-3, path="p", size=1), CheckpointSaved(step=3, path="p", size=1))
    standing = projections.positions()["checkpoints"]
    assert (standing.position, standing.skipped, standing.error) == (2, 1, None)
    assert standing.fault == "Position 1: CheckpointSaved: step -3 is not a step."
    projections.rebuild()
    assert projections.positions()["checkpoints"] == standing


def test_a_rebuild_that_was_killed_leaves_nothing_at_the_next_start(store: EventStore) -> None:
    first = Projections(store)
    first.start()
    fill(store)
    run(store, f"CREATE TABLE logs{REBUILD} (a INT)")
    run(store, f"INSERT INTO projections VALUES ('logs{REBUILD}', 1, 3, 0, NULL)")
    Projections(store).start()
    with store.reading() as con:
        assert position(con) == store.head
        assert con.execute("SELECT count(*) FROM projections").fetchall() == [(7,)]
        assert not con.execute(f"SELECT 1 FROM duckdb_tables() WHERE table_name = 'logs{REBUILD}'").fetchall()


def test_nothing_is_kept_of_a_training_that_was_purged_and_all_of_the_others(store: EventStore) -> None:
    fill(store)
    more = [
        EvaluationMade(step=3, sae=0, tokens=9, fvu=0.1, l0=2.0, dead_latents=3),
        MetricsLogged(step=3, values={"x": 1.0}),
        CheckpointSaved(step=3, path="p", size=1),
    ]
    append(store, T, *more)
    projections = Projections(store)
    projections.start()
    before = rows(store)
    assert all(count for table, count in before.items() if table not in ("templates", "models", "datasets")), before
    append(store, "control-two", TrainingCreated(name="second"))
    append(store, "training-two", *HISTORY, *more)
    append(store, "control-two", TrainingPurged(events=1))
    assert rows(store) == before
    append(store, C, TrainingPurged(events=1))
    assert set(rows(store).values()) == {0}
    assert all(one.matches for one in projections.verify())


def rows(store: EventStore) -> dict[str, int]:
    """How many rows every table has."""
    with store.reading() as con:
        return {
            table.name: len(con.execute(f"FROM {table.name}").fetchall())
            for each in runner.every_projection()
            for table in each.tables
        }
