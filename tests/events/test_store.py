"""What the DuckDB store promises beyond the contract: durability, healing, folds, checkpoints, the file itself."""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from duckdb import DuckDBPyConnection
from event_examples import EXAMPLES

from events import upcasters
from events.errors import DataDirectoryInUse, LogClosed, LogFull, LogUnavailable, PositionBeyondHead
from events.event import EventRejected, UnknownEvent
from events.log import LogWritten
from events.recent import Blocks
from events.store import Append, Batch, EventStore
from events.training import StepTrained, TrainingStopped

TRAINING = "training-00000000000001"


def line(text: str) -> LogWritten:
    return LogWritten(level="INFO", logger="test", message=text)


def step(number: int) -> StepTrained:
    return StepTrained(
        step=number,
        loss=1 / number,
        loss_reconstruction=0.1,
        l0=16.0,
        l0_fraction=0.01,
        fvu=0.25,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=number * 1024,
        tokens_per_second=5e4,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    # Idle checkpoints would make the write-ahead log's size a matter of time.
    with EventStore.open(path, idle=3_600) as store:
        yield store


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wal(store: EventStore) -> int:
    return store.path.with_name(store.path.name + ".wal").stat().st_size


def texts(store: EventStore) -> list[str]:
    return [each.data.message for each in store.read(0, limit=100_000).events if isinstance(each.data, LogWritten)]


def after_a_kill(path: Path, folder: Path) -> list[str]:
    """What a store finds in the files as they are now."""
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder / f"killed-{file.name}")
    with EventStore.open(folder / f"killed-{path.name}") as store:
        assert store.lost is None
        return texts(store)


# What is kept


def test_a_log_is_the_same_after_opening_it_again(path: Path) -> None:
    with EventStore.open(path) as store:
        store.append(Append("catalog", EXAMPLES, actor="user:ada", metadata={"key": "1"})).result()
        store.claim(TRAINING).result()
        store.append(Append(TRAINING, [step(1), line("1"), step(2)], expected=0, epoch=1)).result()
        live = store.read(0)
        log_id = store.log_id
        events = list(live.events)
        encoded = {format: [bytes(raw) for raw in live.encoded(format)] for format in ("json", "msgpack")}
    with EventStore.open(path) as store:
        assert (store.log_id, store.head, store.lost) == (log_id, len(events), None)
        assert (store.version("catalog"), store.version(TRAINING), store.epoch(TRAINING)) == (len(EXAMPLES), 3, 1)
        replayed = store.read(0)
        assert list(replayed.events) == events
        for format in ("json", "msgpack"):
            assert [bytes(raw) for raw in replayed.encoded(format)] == encoded[format]
        again = store.append(Append(TRAINING, [step(2), step(3)], expected=2, epoch=1)).result()
        assert again[0].version == 4
        assert store.version(TRAINING) == 4


def test_where_streams_end_is_known_with_and_without_what_was_written_down(path: Path) -> None:
    with EventStore.open(path) as store:
        store.claim(TRAINING).result()
        store.append(Append(TRAINING, [step(1)], expected=0, epoch=1)).result()
        store.checkpoint().result()
        store.append(Append(TRAINING, [line("2"), step(3)], expected=1, epoch=1), Append("b", [line("1")])).result()
        store.claim(TRAINING).result()
        expected = [(store.version(name), store.epoch(name)) for name in (TRAINING, "b", "control-00000000000001")]
    for forget in ("delete from streams", "update log_meta set value = '0' where key = 'streams_position'"):
        with EventStore.open(path) as store:
            assert [(store.version(s), store.epoch(s)) for s in (TRAINING, "b", "control-00000000000001")] == expected
            assert store.read_stream(TRAINING, 1)[0].data == line("2")
        with duckdb.connect(str(path)) as con:
            con.execute(forget)
            con.execute("update log_meta set value = '0' where key = 'streams_position'")


def test_the_view_shows_columnar_and_cold_events_alike(store: EventStore) -> None:
    odd = msgspec.structs.replace(step(2), loss=float("nan"))
    store.append(Append("a", [line("x"), step(1), odd])).result()
    with store.reading() as con:
        rows = con.execute("select position, stream, version, type, data from events order by position").fetchall()
    for row, recorded in zip(rows, store.read(0).events, strict=True):
        assert row[:4] == (recorded.position, recorded.stream, recorded.version, recorded.type)
        plain = msgspec.json.decode(row[4])
        assert plain.pop("type") == recorded.type
        if row[0] == 3:
            assert plain["loss"] is None
        else:
            assert msgspec.convert(plain, type(recorded.data)) == recorded.data


def test_a_column_that_was_added_to_an_event_type_is_added_to_its_table(path: Path) -> None:
    with EventStore.open(path) as store:
        store.append(Append("a", [msgspec.structs.replace(step(1), dead_latents=7, loss_sparsity=0.5)])).result()
    with duckdb.connect(str(path)) as con:
        con.execute("drop view events")
        con.execute("alter table step_trained drop column dead_latents")
        con.execute("alter table step_trained drop column loss_sparsity")
        con.execute("alter table step_trained drop column device_memory")
    with EventStore.open(path) as store:
        store.append(Append("a", [msgspec.structs.replace(step(2), dead_latents=9, device_memory=5)])).result()
    with EventStore.open(path) as store:
        first, second = (each.data for each in store.read(0).events)
        assert first == msgspec.structs.replace(
            second, step=1, loss=1.0, tokens=1024, dead_latents=0, device_memory=None
        )
        assert isinstance(second, StepTrained)
        assert (second.dead_latents, second.device_memory) == (9, 5)


def test_a_log_of_a_newer_format_is_refused_by_name(path: Path) -> None:
    EventStore.open(path).close()
    with duckdb.connect(str(path)) as con:
        con.execute("update log_meta set value = '99' where key = 'format'")
    with pytest.raises(LogUnavailable, match="format 99"):
        EventStore.open(path)


def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"This is not a database." * 1_000)
    with pytest.raises(LogUnavailable, match=re.escape(str(path))):
        EventStore.open(path)
    assert path.read_bytes() == b"This is not a database." * 1_000


def test_an_old_shape_is_upcast_when_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventStore.open(path) as store:
        old = UnknownEvent(name="TrainingEnded", data={"final_step": 9})
        store.append(Append("a", [line("1"), old, TrainingStopped(step=10)])).result()
    monkeypatch.setitem(
        upcasters.UPCASTERS, "TrainingEnded", lambda old: ("TrainingStopped", {"step": old["final_step"]})
    )
    with EventStore.open(path) as store:
        assert [each.data for each in store.read(1).events] == [TrainingStopped(step=9), TrainingStopped(step=10)]
        page = store.read(0, types=["TrainingStopped"])
        assert [each.position for each in page.events] == [2, 3]
        assert {each.type for each in page.events} == {"TrainingStopped"}
        assert msgspec.json.decode(page.encoded("json")[0])["data"] == {"type": "TrainingStopped", "step": 9}
        assert store.read(0, types=["LogWritten"]).events[0].data == line("1")
        assert len(store.read(0, types=["LogWritten"])) == 1
        assert store.tail_position(2, types=["TrainingStopped"]) == 1
        with store.reading() as con:
            assert con.execute("select type from log_events where position = 2").fetchone() == ("TrainingEnded",)


def test_a_stored_event_that_cannot_be_decoded_any_more_keeps_its_place(path: Path) -> None:
    with EventStore.open(path) as store:
        store.append(Append("a", [line("1"), line("2"), line("3")])).result()
    with duckdb.connect(str(path)) as con:
        con.execute("""update log_events set data = '{"type": "LogWritten", "level": 5}' where position = 2""")
    with EventStore.open(path) as store:
        first, second, third = store.read(0).events
        assert (first.data, third.data) == (line("1"), line("3"))
        assert isinstance(second.data, EventRejected)
        assert (second.type, second.version) == ("EventRejected", 2)
        assert second.data.raw == b'{"type": "LogWritten", "level": 5}'
        assert "LogWritten" in second.data.reason


# One process


def test_a_second_process_is_told_who_has_the_log(store: EventStore) -> None:
    program = f"""
from pathlib import Path
from events.errors import DataDirectoryInUse
from events.store import EventStore
try:
    EventStore.open(Path({str(store.path)!r}))
except DataDirectoryInUse as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"The log {re.escape(str(store.path))} is in use by .*\(PID \d+\)\.\n", told)


def test_the_same_log_is_not_opened_twice_in_a_process(store: EventStore) -> None:
    with pytest.raises(DataDirectoryInUse, match="in this process"):
        EventStore.open(store.path.parent / ".." / store.path.parent.name / store.path.name)
    store.append(Append("a", [line("1")])).result()
    store.close()
    with EventStore.open(store.path) as again:
        assert again.head == 1


# Group commit, futures, closing


def held(store: EventStore) -> threading.Event:
    """Holds the writer thread until the returned event is set."""
    begun, release = threading.Event(), threading.Event()

    def wait_inside(con: Any) -> None:
        begun.set()
        assert release.wait(60)

    store.transact(wait_inside)
    assert begun.wait(60)
    return release


def test_appends_that_wait_share_a_commit(store: EventStore) -> None:
    heads: list[int] = []
    store.listen(heads.append)
    release = held(store)
    futures = [store.append(Append(f"s{n % 7}", [line(str(n))])) for n in range(500)]
    release.set()
    assert [future.result()[0].position for future in futures] == list(range(1, 501))
    store.close()
    assert heads == [500, 500]


def test_one_commit_is_bounded(path: Path) -> None:
    with EventStore.open(path, group=100) as store:
        heads: list[int] = []
        store.listen(heads.append)
        release = held(store)
        futures = [store.append(Append("a", [line(str(n)), line("")])) for n in range(120)]
        release.set()
        wait(futures)
        assert heads[:2] == [100, 200]


def test_an_append_that_was_cancelled_in_time_is_not_made(store: EventStore) -> None:
    release = held(store)
    first, second, third = (store.append(Append("a", [line(text)])) for text in "123")
    assert second.cancel()
    release.set()
    assert first.result()[0].version == 1
    assert third.result()[0].version == 2
    assert texts(store) == ["1", "3"]
    assert not third.cancel()


def test_closing_commits_what_waits_and_refuses_what_comes_later(store: EventStore) -> None:
    release = held(store)
    waiting = [store.append(Append("a", [line(str(n))])) for n in range(10)]
    closing = threading.Thread(target=store.close)
    closing.start()
    until(lambda: store._closed, "closing")
    late = store.append(Append("a", [line("late")]))
    assert isinstance(late.exception(timeout=0), LogClosed)
    release.set()
    closing.join(60)
    assert all(future.done() for future in waiting)
    with EventStore.open(store.path) as again:
        kept = texts(again)
    assert kept[:10] == [str(n) for n in range(10)]


# Folds


def make_counts(con: Any) -> None:
    con.execute("create table counts (stream varchar, events integer, position ubigint)")


def count(con: Any, batch: Batch) -> None:
    for recorded in batch.events():
        con.execute("insert into counts values (?, 1, ?)", [recorded.stream, recorded.position])


def counted(store: EventStore) -> list[int]:
    with store.reading() as con:
        return [row[0] for row in con.execute("select position from counts order by position").fetchall()]


def test_a_fold_is_part_of_every_commit(store: EventStore) -> None:
    store.transact(make_counts).result()
    store.append(Append("a", [line("before"), step(1)])).result()
    assert store.install(count, 0).result() is True
    seen: list[list[int]] = []
    store.listen(lambda head: seen.append(counted(store)))
    store.append(Append("a", [line("1"), step(2)])).result()
    store.append(Append("b", [step(3)])).result()
    until(lambda: len(seen) == 2, "both commits")
    assert seen == [[1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert store.install(None).result() is True
    store.append(Append("b", [step(4)])).result()
    assert counted(store) == [1, 2, 3, 4, 5]


def test_a_fold_sees_its_batch_as_rows_and_tables(store: EventStore) -> None:
    batches: list[Batch] = []
    store.install(lambda con, batch: batches.append(batch)).result()
    release = held(store)
    store.append(Append("a", [step(1), line("2")]))
    last = store.append(Append("b", [step(3), step(4)], occurred_at=[30, 40]))
    release.set()
    last.result()
    (batch,) = batches
    assert (batch.first, batch.last, len(batch)) == (1, 4, 4)
    assert batch.types == {"StepTrained", "LogWritten"}
    assert [each.data for each in batch.cold] == [line("2")]
    table = batch.columnar["StepTrained"]
    assert table.column_names[:5] == ["position", "stream", "version", "occurred_at", "recorded_at"]
    assert table["position"].to_pylist() == [1, 3, 4]
    assert table["stream"].to_pylist() == ["a", "b", "b"]
    assert table["occurred_at"].to_pylist()[1:] == [30, 40]
    assert table["step"].to_pylist() == [1, 3, 4]
    assert [each.position for each in batch.events()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda con: 1 / 0,
        lambda con: con.execute("select no_such_column from counts"),
        lambda con: con.execute("insert into counts values ('x', 'not a number', 1)"),
        # Fails at the commit, not in the fold.
        lambda con: con.execute("insert into only_once values (1), (1)"),
    ],
    ids=["python", "binder", "conversion", "constraint"],
)
def test_a_fold_that_fails_is_taken_out_and_loses_no_event(
    store: EventStore, break_it: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.transact(make_counts).result()
    store.transact(lambda con: con.execute("create table only_once (n integer unique)")).result()
    failures: list[Exception] = []
    broken = threading.Event()

    def fold(con: Any, batch: Batch) -> None:
        count(con, batch)
        if broken.is_set():
            break_it(con)

    store.install(fold, 0, failed=failures.append).result()
    store.append(Append("a", [line("1")])).result()
    broken.set()
    with caplog.at_level(logging.ERROR):
        answers = [store.append(Append("a", [line(text)])).result() for text in "23"]
    assert [answer[0].version for answer in answers] == [2, 3]
    assert texts(store) == ["1", "2", "3"]
    assert [each.position for each in store.read(0).events] == [1, 2, 3]
    until(lambda: len(failures) == 1, "the failure to be told")
    assert "projection" in caplog.text
    broken.clear()
    behind = counted(store)
    assert store.install(fold, len(behind)).result() is True
    assert counted(store) == [1, 2, 3]


def test_a_fold_that_is_far_behind_is_asked_to_catch_up_first(store: EventStore) -> None:
    store.append(Append("a", [step(n) for n in range(1, 20_102)])).result()
    positions: list[tuple[int, int]] = []

    def fold(con: Any, batch: Batch) -> None:
        positions.append((batch.first, batch.last))

    assert store.install(fold, 100).result() is False
    store.append(Append("a", [step(1)])).result()
    assert positions == []
    assert store.install(fold, 102).result() is True
    store.append(Append("a", [step(1)])).result()
    assert positions == [(103, 20_102), (20_103, 20_103)]
    assert isinstance(store.install(fold, 20_104).exception(), PositionBeyondHead)


def test_a_fold_that_fails_while_catching_up_is_not_installed(store: EventStore) -> None:
    store.append(Append("a", [line("1")])).result()
    assert isinstance(store.install(lambda con, batch: 1 / 0, 0).exception(), ZeroDivisionError)
    store.append(Append("a", [line("2")])).result()
    assert texts(store) == ["1", "2"]


def test_batches_hold_all_of_the_log(store: EventStore) -> None:
    store.append(Append("a", [event for n in range(1, 51) for event in (step(n), step(n), line(str(n)))])).result()
    batches = list(store.read_batches(10, size=40))
    assert [(batch.first, batch.last) for batch in batches] == [(11, 50), (51, 90), (91, 130), (131, 150)]
    assert [each for batch in batches for each in batch.events()] == list(store.read(10).events)
    (cold,) = store.read_batches(0, types=["LogWritten"])
    assert (len(cold), cold.columnar) == (50, {})
    assert next(store.read_batches(0, upto=5)).last == 5


def test_a_long_replay_from_the_file_misses_nothing_at_any_seam(path: Path) -> None:
    with EventStore.open(path, recent_bytes=100_000) as store:
        count = 2 * Blocks.SIZE + 1_500
        for start in range(0, count, 3_000):
            numbers = range(start + 1, min(count, start + 3_000) + 1)
            store.append(Append("a", [line(str(n)) if n % 500 == 0 else step(n) for n in numbers])).result()
        assert store.recent(0) is None
        for first in (0, 7, Blocks.SIZE - 1, Blocks.SIZE):
            found: list[int] = []
            after = first
            while after < store.head:
                page = store.read(after, limit=999)
                for each in page.events:
                    data = each.data
                    number = data.step if isinstance(data, StepTrained) else int(getattr(data, "message", 0))
                    assert each.position == each.version == number
                found += [each.position for each in page.events]
                assert len(page) == 999 or page.position == store.head
                after = page.position
            assert found == list(range(first + 1, count + 1))
        upto = store.read(Blocks.SIZE - 3, limit=999, upto=Blocks.SIZE + 3)
        assert [each.position for each in upto.events] == list(range(Blocks.SIZE - 2, Blocks.SIZE + 4))


def test_a_transaction_is_made_whole_or_not_at_all(store: EventStore) -> None:
    def half(con: Any) -> None:
        con.execute("create table kept (n integer)")
        raise RuntimeError("no")

    assert isinstance(store.transact(half).exception(), RuntimeError)

    def whole(con: Any) -> int:
        con.execute("create table kept as select 7 as n")
        return 5

    assert store.transact(whole).result() == 5
    with store.reading() as con:
        assert con.execute("select n from kept").fetchone() == (7,)


def test_a_reader_keeps_its_snapshot(store: EventStore) -> None:
    store.append(Append("a", [line("1")])).result()
    with store.reading() as con:
        query = "select count(*) from log_events"
        before = con.execute(query).fetchone()
        store.append(Append("a", [line("2")])).result()
        assert con.execute(query).fetchone() == before == (1,)
    with store.reading() as con:
        assert con.execute(query).fetchone() == (2,)


# Checkpoints


def test_the_version_that_is_safe_in_the_file_moves_with_checkpoints(path: Path) -> None:
    with EventStore.open(path, idle=3_600) as store:
        store.append(Append("a", [line("1")])).result()
        assert store.checkpointed("a") == 0
        assert store.checkpoint().result() is True
        assert store.checkpointed("a") == 1
        store.append(Append("a", [line("2")])).result()
        assert store.checkpointed("a") == 1
    with EventStore.open(path, idle=3_600) as store:
        assert store.checkpointed("a") == 2


def test_a_checkpoint_is_made_when_nothing_happens(path: Path) -> None:
    with EventStore.open(path, idle=0.01) as store:
        store.append(Append("a", [line("1")])).result()
        until(lambda: store.checkpointed("a") == 1, "an idle checkpoint")


def test_a_checkpoint_is_made_when_the_write_ahead_log_is_long(path: Path) -> None:
    with EventStore.open(path, idle=3_600, wal_limit=200_000) as store:
        store.append(Append("a", [line("x" * 1_000) for _ in range(50)])).result()
        assert store.checkpointed("a") == 0
        store.append(Append("a", [line("x" * 1_000) for _ in range(500)])).result()
        until(lambda: store.checkpointed("a") == 550, "a checkpoint")


def test_a_checkpoint_is_made_beside_readers_though_projections_update(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It waits as long as a busy machine takes to let the reader end.
    checkpoint_within = store._database.checkpoint
    monkeypatch.setattr(store._database, "checkpoint", lambda patience: checkpoint_within(60))
    store.transact(lambda con: con.execute("create table state as select 0 as n")).result()
    store.install(lambda con, batch: con.execute("update state set n = n + 1") and None).result()
    reading, release = threading.Event(), threading.Event()

    def read_for_a_while() -> None:
        with store.reading() as con:
            con.execute("select * from state").fetchall()
            reading.set()
            assert release.wait(60)

    reader = threading.Thread(target=read_for_a_while)
    reader.start()
    assert reading.wait(60)
    store.append(Append("a", [line("1")])).result()
    checkpoint = store.checkpoint()
    # The reader's older snapshot keeps it off, and those who come now wait until it is made.
    release.set()
    reader.join()
    assert checkpoint.result() is True
    assert store.checkpointed("a") == 1


def test_a_reader_that_stays_delays_a_checkpoint_and_nothing_else(store: EventStore) -> None:
    store.transact(lambda con: con.execute("create table state as select 0 as n")).result()
    store.install(lambda con, batch: con.execute("update state set n = n + 1") and None).result()
    with store.reading() as con:
        con.execute("select * from state").fetchall()
        store.append(Append("a", [line("1")])).result()
        assert store.checkpoint().result() is False
        store.append(Append("a", [line("2")])).result()
        with store.reading() as other:
            assert other.execute("select n from state").fetchone() == (2,)
    assert store.checkpoint().result() is True
    assert store.checkpointed("a") == 2


# What goes wrong


def test_a_full_disk_refuses_appends_until_there_is_space(store: EventStore) -> None:
    store.append(Append("a", [line("1")])).result()
    with files_up_to(wal(store)):
        error = store.append(Append("a", [line("x" * 10_000)])).exception()
        assert isinstance(error, LogFull)
        assert str(error).startswith("The disk of the log is full: ")
        assert "\n" not in str(error)
        assert texts(store) == ["1"]
        with store.reading() as con:
            assert con.execute("select count(*) from log_events").fetchone() == (1,)
        assert isinstance(store.append(Append("b", [step(1)])).exception(), LogFull)
    assert store.append(Append("a", [line("2")], expected=1)).result()[0].position == 2
    assert texts(store) == ["1", "2"]
    assert store.version("b") == 0


def test_nothing_is_acknowledged_while_the_log_cannot_be_written(store: EventStore, path: Path, tmp_path: Path) -> None:
    store.append(Append("a", [line("1")])).result()
    # The next commit begins the write-ahead log anew. Once that has failed, DuckDB's statistics keep what the failed
    # commits after it would have added.
    assert store.checkpoint().result() is True
    with files_up_to(0):
        for _ in range(3):
            assert isinstance(store.append(Append("a", [line("lost")])).exception(), LogFull)
            assert (store.head, store.version("a"), texts(store)) == (1, 1, ["1"])
            with store.reading() as con:
                assert con.execute("select count(*) from log_events").fetchone() == (1,)
        assert store.checkpoint().result() is True
        assert isinstance(store.append(Append("a", [line("lost")])).exception(), LogFull)
    assert store.append(Append("a", [line("2")], expected=1)).result()[0].position == 2
    assert after_a_kill(path, tmp_path) == ["1", "2"]


def test_a_transaction_that_could_not_be_written_is_not_gone_on_from(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(Append("a", [line("1")])).result()
    store.transact(lambda con: con.execute("create table beside as select 1 as n") and None).result()
    assert store.checkpoint().result() is True
    with files_up_to(0):
        for _ in range(3):
            failed = store.transact(lambda con: con.execute("insert into beside values (7)") and None)
            assert isinstance(failed.exception(), duckdb.Error)
    largest = "select max(n) from beside"
    assert store.transact(lambda con: con.execute(largest).fetchone()).result() == (1,)
    # The file has been opened again for that, and is not for what comes now, or for what fails before its commit.
    caplog.clear()
    store.append(Append("a", [line("2")])).result()
    assert isinstance(store.transact(lambda con: con.execute("select nonsense") and None).exception(), duckdb.Error)
    store.append(Append("a", [line("3")])).result()
    assert "opened again" not in caplog.text
    assert texts(store) == ["1", "2", "3"]


def test_what_a_failed_commit_has_written_half_is_cut_off(
    store: EventStore, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(Append("a", [line("1")])).result()
    log = path.with_name(path.name + ".wal")

    def torn(con: DuckDBPyConnection, fn: Callable[[DuckDBPyConnection], Any]) -> None:
        con.begin()
        fn(con)
        con.rollback()
        with log.open("ab") as file:
            file.write(bytes(1_000))
        raise duckdb.IOException("Failed to commit: Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("events.database.transacted", torn)
        assert isinstance(store.append(Append("a", [line("lost")])).exception(), LogUnavailable)
    assert store.append(Append("a", [line("2")], expected=1)).result()[0].position == 2
    assert after_a_kill(path, tmp_path) == ["1", "2"]


def test_a_failed_checkpoint_is_healed_and_loses_nothing(store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
    store.append(Append("a", [line("x" * 1_000) for _ in range(200)])).result()
    with files_up_to(store.path.stat().st_size + 1_000), caplog.at_level(logging.WARNING):
        assert store.checkpoint().result() is False
        assert store.checkpointed("a") == 0
        with store.reading() as con:
            assert con.execute("select count(*) from log_events").fetchone() == (200,)
    assert "opened again" in caplog.text
    assert store.append(Append("a", [line("y")], expected=200)).result()[0].position == 201
    assert store.checkpoint().result() is True
    assert store.checkpointed("a") == 201
    assert [each.version for each in store.read_stream("a")] == list(range(1, 202))
    assert store.lost is None


def test_a_commit_that_raises_though_it_is_durable_is_not_made_twice(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(Append("a", [line("x" * 1_000) for _ in range(200)])).result()
    # DuckDB checkpoints by itself again, and that fails after the commit.
    store.transact(lambda con: con.execute("set global checkpoint_threshold = '1KB'") and None).result()
    with files_up_to(max(wal(store), store.path.stat().st_size) + 50_000), caplog.at_level(logging.WARNING):
        answer = store.append(Append("a", [line("y")], expected=200)).result()
    assert answer[0].position == 201
    assert "events are in the log" in caplog.text
    store.transact(lambda con: con.execute("set global checkpoint_threshold = '1TB'") and None).result()
    assert store.append(Append("a", [line("z")], expected=201)).result()[0].position == 202
    assert [each.version for each in store.read_stream("a")] == list(range(1, 203))


def test_readers_go_on_while_the_log_falls_and_is_healed(path: Path) -> None:
    with EventStore.open(path, idle=3_600, recent_bytes=0) as store:
        store.append(Append("a", [line("x" * 1_000) for _ in range(300)])).result()
        done = threading.Event()
        rounds: list[int] = []
        failures: list[Exception] = []

        def read() -> None:
            while not done.is_set():
                try:
                    rounds.append(len(store.read(0, streams=["a"])))
                except Exception as error:  # noqa: BLE001 (shown by the test)
                    failures.append(error)
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(5):
            seen = len(rounds)
            with files_up_to(store.path.stat().st_size + 1_000):
                assert store.checkpoint().result() is False
            until(lambda seen=seen: len(rounds) > seen or bool(failures), "the readers")
        done.set()
        for reader in readers:
            reader.join()
        assert failures == []
        assert set(rounds) == {300}


def test_a_root_that_has_fallen_too_is_made_anew(store: EventStore) -> None:
    store.append(Append("a", [line("1")])).result()

    class Fallen:
        def execute(self, query: str) -> None:
            raise duckdb.FatalException("the database has been invalidated")

        def close(self) -> None:
            root.close()

    root = store._database._root
    store._database._root = Fallen()  # type: ignore[assignment]
    store._database._writer.close()
    error = store.append(Append("a", [line("2")], expected=1)).exception()
    assert error is None or isinstance(error, LogUnavailable)
    store.append(Append("a", [line("3")])).result()
    assert texts(store) == ["1", "3"] if error else ["1", "2", "3"]
    with store.reading() as con:
        assert con.execute("select max(position) from log_events").fetchone() == (store.head,)


# A log that lost something


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log whose process died after 3 checkpointed events and 2 that lie in the write-ahead log."""
    folder = tmp_path_factory.mktemp("died")
    program = f"""
import os
from pathlib import Path
from events.log import LogWritten
from events.store import Append, EventStore
store = EventStore.open(Path({str(folder)!r}) / "log.duckdb", idle=3600)
line = LogWritten(level="INFO", logger="test", message="x")
store.append(Append("a", [line] * 3)).result()
store.checkpoint().result()
store.append(Append("a", [line] * 2)).result()
print(store.log_id, flush=True)
os._exit(0)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (folder / "id").write_text(ran.stdout.strip())
    return folder


@pytest.fixture
def dead(died: Path, tmp_path: Path) -> Path:
    return shutil.copytree(died, tmp_path / "dead")


def test_what_was_acknowledged_is_there_after_the_process_died(dead: Path) -> None:
    with EventStore.open(dead / "log.duckdb", idle=3_600) as store:
        assert (store.head, store.version("a"), store.lost) == (5, 5, None)
        assert store.log_id == (dead / "id").read_text()
        # It lies in the write-ahead log still.
        assert store.checkpointed("a") == 0


@pytest.mark.parametrize("how", ["deleted", "emptied", "header damaged"])
def test_a_lost_write_ahead_log_is_noticed_and_begins_a_new_incarnation(
    dead: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost = dead / "log.duckdb.wal"
    match how:
        case "deleted":
            lost.unlink()
        case "emptied":
            lost.write_bytes(b"")
        case _:
            lost.write_bytes(b"\0" * 16 + lost.read_bytes()[16:])
    with caplog.at_level(logging.ERROR), EventStore.open(dead / "log.duckdb") as store:
        assert store.lost == (3, 5)
        assert "ends at position 3 though 5 was acknowledged" in caplog.text
        log_id = store.log_id
        assert log_id != (dead / "id").read_text()
        assert store.append(Append("a", [line("4")], expected=3)).result()[0].position == 4
    with EventStore.open(dead / "log.duckdb") as store:
        assert (store.lost, store.log_id, store.head) == (None, log_id, 4)


@pytest.mark.parametrize("record", [None, b"", b"nonsense\n"])
def test_a_log_without_its_record_begins_a_new_incarnation(dead: Path, record: bytes | None) -> None:
    head = dead / "log.duckdb.head"
    if record is None:
        head.unlink()
    else:
        head.write_bytes(record)
    with EventStore.open(dead / "log.duckdb") as store:
        assert (store.lost, store.head) == (None, 5)
        assert store.log_id != (dead / "id").read_text()


def test_a_log_that_was_put_in_anothers_place_begins_a_new_incarnation(dead: Path, tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "other" / "log.duckdb") as store:
        store.append(Append("b", [line("1")])).result()
        other_id = store.log_id
    (dead / "log.duckdb.wal").unlink()
    shutil.copy(tmp_path / "other" / "log.duckdb", dead / "log.duckdb")
    with EventStore.open(dead / "log.duckdb") as store:
        assert store.log_id not in (other_id, (dead / "id").read_text())
        assert store.head == 1


def test_half_of_the_record_may_be_torn(dead: Path) -> None:
    head = dead / "log.duckdb.head"
    whole = head.read_bytes()
    assert len(whole) == 256
    for torn in (whole[:128] + b"\0" * 128, b"\0" * 128 + whole[128:]):
        head.write_bytes(torn)
        with EventStore.open(dead / "log.duckdb") as store:
            # One slot is at most a commit behind the other: nothing is lost, nothing is taken for lost.
            assert (store.lost, store.log_id) == (None, (dead / "id").read_text())


def test_what_writers_send_right_behind_a_commit_waits_to_share_the_next_and_a_command_does_not(tmp_path: Path) -> None:
    """The pause is endless here: only something that may not wait ends it."""
    with EventStore.open(tmp_path / "log.duckdb", rest=1e9, rest_limit=3_600) as store:
        commits: list[int] = []
        store.listen(commits.append)
        epoch = store.claim("training-a").result().epoch
        waiting = [store.append(Append("training-a", [step(number)], epoch=epoch)) for number in range(1, 6)]
        store.append(Append("catalog", [line("a command")])).result(60)
        assert all(future.done() for future in waiting)
        assert commits == [1, 7]
        # A commit's worth of events does not wait either, and closing waits for nobody.
        many = [step(number) for number in range(6, 5_006)]
        store.append(Append("training-a", many, epoch=epoch)).result(60)
        last = store.append(Append("training-a", [step(5_006)], epoch=epoch))
    assert last.result(0)[0].version == 5_006
