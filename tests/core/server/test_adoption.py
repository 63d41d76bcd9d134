"""Adoption: what trainers that are gone have left behind comes into the log, whole and once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from bare_server import step

from core import run
from core.server import adoption, intake
from core.server.adoption import adopt, adopt_folder, clean
from core.settings import Settings
from events import segment
from events.catalog import ModelRegistered
from events.control import TrainingCreated, WriterClaimed
from events.emitter import encode_frame
from events.event import Event, EventRejected
from events.ids import new_id
from events.log import LogWritten
from events.segment import SegmentHeader
from events.spool import Spool, hold
from events.store import EventStore
from events.streams import CONTROL, Append
from events.training import StepTrained, TrainingConfig

CREATED = TrainingCreated(name="headless", launcher="external")
SMALL = 4096


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Any]:
    settings = Settings(data_dir=tmp_path / "data")
    store = EventStore.open(settings.database, idle=3600)
    yield SimpleNamespace(settings=settings, store=store)
    store.close()


@pytest.fixture
def training(studio: Any) -> str:
    """A training that the log knows."""
    made = new_id()
    studio.store.append(Append(CONTROL + made, [CREATED], expected=0)).result()
    return made


def folder_of(studio: Any, training: str) -> Path:
    return studio.settings.run_folder(training)


def spool_of(
    studio: Any, training: str, created: TrainingCreated | None = None, created_at: int | None = None
) -> Spool:
    header = SegmentHeader(training_id=training, stream=f"training-{training}", created=created, created_at=created_at)
    return Spool(folder_of(studio, training) / "spool", header, segment_size=SMALL)


def spooled(spool: Spool, first: int, last: int, at: int = 1_000) -> Spool:
    for number in range(first, last + 1):
        spool.append(encode_frame(at + number, step(number)))
    return spool


def events(studio: Any, training: str) -> list[Event]:
    found = studio.store.read_stream(f"training-{training}", 0, 100_000)
    assert [each.version for each in found] == list(range(1, len(found) + 1))
    return [each.data for each in found]


def steps(studio: Any, training: str) -> list[int]:
    return [each.step for each in events(studio, training) if isinstance(each, StepTrained)]


def claims(studio: Any, training: str) -> list[tuple[int, int]]:
    found = [each.data for each in studio.store.read_stream(CONTROL + training)]
    return [(each.epoch, each.first_version) for each in found if isinstance(each, WriterClaimed)]


def test_a_headless_training_comes_in_whole_with_its_own_times(studio: Any) -> None:
    training = new_id()
    spooled(spool_of(studio, training, CREATED, 500), 1, 100).close()
    seen: list[tuple[str, int, int]] = []
    (report,) = adopt(studio, lambda *progress: seen.append(progress))
    assert (report.training_id, report.events, report.version) == (training, 100, 100)
    assert report.created
    assert report.problems == ()
    assert seen[-1] == (training, 100, 100)
    assert steps(studio, training) == list(range(1, 101))
    recorded = studio.store.read_stream(f"training-{training}")
    assert [each.occurred_at for each in recorded] == list(range(1_001, 1_101))
    created = studio.store.read_stream(CONTROL + training)[0]
    assert (created.data, created.occurred_at) == (CREATED, 500)
    assert claims(studio, training) == [(1, 1)]


def test_what_a_spool_does_not_say_is_taken_from_the_run_folder(studio: Any) -> None:
    training = new_id()
    model = ModelRegistered(model_id="demo", source="x", hidden_dim=8, layers=1, hooks=("resid_post",), context_size=8)
    spec = run.RunSpec(
        id=training, name="n", config=TrainingConfig(), model=model, datasets=(), data_dir=Path("/"),
        created_at=77, created=CREATED,
    )  # fmt: skip
    run.write(folder_of(studio, training), spec)
    spooled(spool_of(studio, training), 1, 3).close()
    (report,) = adopt(studio)
    assert report.created
    assert studio.store.read_stream(CONTROL + training)[0].occurred_at == 77
    assert steps(studio, training) == [1, 2, 3]


def test_a_spool_that_nothing_explains_is_left_as_it_is_and_reported(studio: Any) -> None:
    training = new_id()
    spooled(spool_of(studio, training), 1, 3).close()
    for _ in range(2):
        (report,) = adopt(studio)
        assert "neither its spool nor run.json says how" in report.problems[0]
    assert studio.store.head == 0
    assert sum(each.count for each in segment.load(folder_of(studio, training) / "spool")[0]) == 3


def test_a_live_trainer_is_not_disturbed(studio: Any, training: str) -> None:
    spooled(spool_of(studio, training), 1, 3).close()
    with hold(folder_of(studio, training)):
        assert adopt(studio) == []
        assert steps(studio, training) == []
    assert len(adopt(studio)) == 1


def test_the_rest_of_a_claimed_spool_is_taken_in_under_its_own_epoch_without_repeating(
    studio: Any, training: str
) -> None:
    claim = studio.store.claim(f"training-{training}").result()
    spool = spool_of(studio, training)
    spool.claim(claim.epoch, 0)
    spooled(spool, 1, 100).close()
    studio.store.append(
        Append(f"training-{training}", [step(number) for number in range(1, 43)], expected=0, epoch=1)
    ).result()
    (report,) = adopt(studio)
    assert report.events == 58
    assert steps(studio, training) == list(range(1, 101))
    assert claims(studio, training) == [(1, 1)]


def test_what_follows_a_claimed_spool_gets_an_epoch_of_its_own(studio: Any, training: str) -> None:
    claim = studio.store.claim(f"training-{training}").result()
    spool = spool_of(studio, training)
    spool.claim(claim.epoch, 0)
    spooled(spool, 1, 50).close()
    spooled(spool_of(studio, training), 51, 80).close()
    adopt(studio)
    assert steps(studio, training) == list(range(1, 81))
    assert claims(studio, training) == [(1, 1), (2, 51)]


def test_adopting_twice_does_nothing_more(studio: Any, training: str) -> None:
    spooled(spool_of(studio, training), 1, 50).close()
    assert len(adopt(studio)) == 1
    head = studio.store.head
    assert adopt(studio) == []
    assert studio.store.head == head


def test_an_adoption_that_died_midway_goes_on_where_it_was(studio: Any, training: str) -> None:
    # The claim was made and recorded in the spool, and a part was appended.
    spool = spooled(spool_of(studio, training), 1, 100)
    spool.close()
    found, _ = segment.load(spool.folder)
    claim = studio.store.claim(f"training-{training}").result()
    version = 0
    for each in found:
        each.mark(claim.epoch, version + 1)
        version = each.last
    studio.store.append(Append(f"training-{training}", [step(1), step(2)], expected=0, epoch=claim.epoch)).result()
    adopt(studio)
    assert steps(studio, training) == list(range(1, 101))
    assert claims(studio, training) == [(1, 1)]


def test_a_spool_is_deleted_once_the_checkpointed_log_has_it_and_not_before(
    studio: Any, training: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: Future[bool] = Future()
    failed.set_result(False)
    spooled(spool_of(studio, training), 1, 50).close()
    folder = folder_of(studio, training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio.store, "checkpoint", lambda: failed)
        adopt(studio)
        clean(studio.store, folder)
    assert sum(each.count for each in segment.load(folder / "spool")[0]) == 50
    assert studio.store.checkpoint().result()
    clean(studio.store, folder)
    assert list((folder / "spool").iterdir()) == []


def test_a_fork_of_a_fenced_writer_is_set_aside_and_reported(studio: Any, training: str) -> None:
    stream = f"training-{training}"
    studio.store.claim(stream).result()
    studio.store.append(Append(stream, [step(1)], expected=0, epoch=1)).result()
    spool = spool_of(studio, training)
    spool.claim(1, 0)
    spooled(spool, 1, 5).close()
    studio.store.claim(stream).result()
    studio.store.append(Append(stream, [step(10)], expected=1, epoch=2)).result()
    (report,) = adopt(studio)
    assert report.events == 0
    assert [path.suffix for path in report.set_aside] == [".fenced"]
    assert report.set_aside[0].exists()
    assert "set aside" in report.problems[0]
    assert steps(studio, training) == [1, 10]
    assert adopt(studio) == []


def test_what_an_earlier_writer_delivered_whole_is_no_fork(studio: Any, training: str) -> None:
    stream = f"training-{training}"
    studio.store.claim(stream).result()
    spool = spool_of(studio, training)
    spool.claim(1, 0)
    spooled(spool, 1, 5).close()
    studio.store.append(Append(stream, [step(number) for number in range(1, 6)], expected=0, epoch=1)).result()
    studio.store.claim(stream).result()
    assert adopt(studio) == []
    assert len(list(spool.folder.glob("*.spool"))) == 1
    studio.store.checkpoint().result()
    assert adopt(studio) == []
    assert list(spool.folder.iterdir()) == []


def test_damage_is_reported_and_costs_only_what_is_damaged(studio: Any, training: str) -> None:
    spool = spooled(spool_of(studio, training), 1, 100)
    spool.close()
    first = sorted(spool.folder.iterdir())[0]
    data = bytearray(first.read_bytes())
    data[-10] ^= 4
    first.write_bytes(data)
    (report,) = adopt(studio)
    assert any("was cut after version" in problem for problem in report.problems)
    found = steps(studio, training)
    lost = set(range(1, 101)) - set(found)
    assert len(lost) == 1
    assert found == sorted(found)


def test_damage_within_a_claimed_spool_numbers_the_rest_anew(studio: Any, training: str) -> None:
    studio.store.claim(f"training-{training}").result()
    spool = spool_of(studio, training)
    spool.claim(1, 0)
    spooled(spool, 1, 100).close()
    first = sorted(spool.folder.iterdir())[0]
    data = bytearray(first.read_bytes())
    data[-10] ^= 4
    first.write_bytes(data)
    (report,) = adopt(studio)
    assert any("neither in the log nor in the spool" in problem for problem in report.problems)
    found = steps(studio, training)
    assert len(found) == 99
    assert [epoch for epoch, _ in claims(studio, training)] == [1, 2]


def test_a_poisoned_frame_is_kept_in_its_place(studio: Any, training: str) -> None:
    spool = spool_of(studio, training)
    spool.append(encode_frame(1, step(1)))
    spool.append(msgspec.msgpack.encode([1, {"type": "StepTrained", "step": -1}]))
    spool.append(b"\xc1")
    spool.append(encode_frame(1, step(2)))
    spool.close()
    adopt(studio)
    assert [type(each) for each in events(studio, training)] == [StepTrained, EventRejected, EventRejected, StepTrained]


@pytest.mark.slow
def test_what_the_log_itself_cannot_keep_is_rejected_alone(
    studio: Any, training: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = studio.store.append

    def picky(*appends: Append) -> Future[Any]:
        if any(isinstance(each, LogWritten) and each.message == "bad" for each in appends[0].events):
            future: Future[Any] = Future()
            future.set_exception(OverflowError("no column holds it"))
            return future
        return append(*appends)

    monkeypatch.setattr(studio.store, "append", picky)
    spool = spool_of(studio, training)
    for number in range(1, 100):
        message = "bad" if number in (3, 60) else str(number)
        spool.append(encode_frame(number, LogWritten(level="INFO", logger="l", message=message)))
    spool.close()
    adopt(studio)
    found = events(studio, training)
    assert len(found) == 99
    assert [number for number, each in enumerate(found, 1) if isinstance(each, EventRejected)] == [3, 60]
    rejected = found[2]
    assert isinstance(rejected, EventRejected)
    assert "no column holds it" in rejected.reason
    assert intake.codec.decode(rejected.raw, "msgpack") == LogWritten(level="INFO", logger="l", message="bad")


def test_a_folder_that_cannot_be_taken_in_does_not_keep_out_the_others(studio: Any, training: str) -> None:
    spooled(spool_of(studio, training), 1, 3).close()
    earlier = "0" * 14
    spool = spooled(spool_of(studio, earlier, CREATED), 1, 3)
    spool.close()
    (path,) = spool.folder.iterdir()
    path.unlink()
    path.mkdir()
    reports = {report.training_id: report for report in adopt(studio)}
    assert reports[training].events == 3
    assert "could not be taken in" in reports[earlier].problems[0]


def test_a_server_that_ends_meanwhile_says_nothing_and_leaves_the_rest_to_the_next_one(
    studio: Any, training: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adoption, "BATCH_EVENTS", 10)
    monkeypatch.setattr(adoption, "UNDER_WAY", 1)
    spooled(spool_of(studio, training), 1, 100).close()
    append, store = studio.store.append, studio.store

    def last_one(*appends: Append) -> Future[Any]:
        done = append(*appends)
        done.result()
        store.close()
        return done

    monkeypatch.setattr(store, "append", last_one)
    assert adopt_folder(store, folder_of(studio, training)) is None
    assert not caplog.records
    studio.store = EventStore.open(studio.settings.database, idle=3600)
    try:
        (report,) = adopt(studio)
        assert report.events == 90
        assert steps(studio, training) == list(range(1, 101))
        assert not report.problems
    finally:
        studio.store.close()


def test_only_run_folders_are_looked_at(studio: Any) -> None:
    (studio.settings.trainings / "notes").mkdir(parents=True)
    (studio.settings.trainings / ("a" * 14)).mkdir()
    assert adopt(studio) == []
    assert adopt_folder(studio.store, studio.settings.trainings / ("a" * 14)) is None
