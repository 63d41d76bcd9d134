"""The spool: what was appended is there, in order and whole, whatever happens to process, disk and file."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import segment, spool
from events.control import TrainingCreated
from events.errors import SpoolError, SpoolLocked
from events.segment import Segment, SegmentHeader
from events.spool import Spool, SpoolGap, hold

HEADER = SegmentHeader(training_id="x", stream="training-x")
SMALL = 512


def contents(segments: list[Segment]) -> list[bytes]:
    frames: list[bytes] = []
    for each in segments:
        found, end = segment.frames_in(each.content(), each.start, each.tail[0], limit=10**6, size=10**9)
        assert end == each.tail[0]
        assert len(found) == each.count
        frames += found
    return frames


def everything(of: Spool, after: int = 0, **limits: int) -> list[bytes]:
    frames: list[bytes] = []
    while found := of.read(after + len(frames), **limits):
        frames += found
    return frames


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"frame %d" % number for number in range(start, start + count)]


@pytest.fixture(params=["mapped", "written"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of keeping the active segment: mapped, and in memory until the upkeep writes it."""
    if request.param == "written":
        monkeypatch.setattr(spool, "file_system", lambda folder: "zfs")
    return request.param


# Appending and reading


@given(
    sizes=st.lists(st.integers(1, 700), max_size=60),
    segment_size=st.sampled_from([200, SMALL, 4096]),
    limit=st.integers(1, 7),
    size=st.sampled_from([1, 300, 10_000]),
    upkeep=st.sets(st.integers(0, 60)),
)
def test_what_was_appended_is_read_in_order_across_segments(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    segment_size: int,
    limit: int,
    size: int,
    upkeep: set[int],
) -> None:
    made = Spool(tmp_path_factory.mktemp("spool"), HEADER, segment_size=segment_size)
    frames = [bytes([index % 255 + 1]) * length for index, length in enumerate(sizes)]
    read: list[bytes] = []
    for index, frame in enumerate(frames):
        made.append(frame)
        if index in upkeep:
            made.upkeep()
            read += made.read(len(read), limit=limit, size=size)
    while found := made.read(len(read), limit=limit, size=size):
        assert len(found) <= limit
        read += found
    assert read == frames
    assert made.version == len(frames)
    made.close()
    found, damages = segment.load(made.folder)
    assert contents(found) == frames
    assert damages == []


def test_reading_begins_after_any_version(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    frames = numbered(100)
    for frame in frames:
        made.append(frame)
    for after in (0, 99, 50, 51, 17, 100, 3):
        assert everything(made, after) == frames[after:]
    made.close()


def test_an_appended_frame_is_in_the_file_at_once(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER)
    if not made.mapped:
        pytest.skip(f"the file system of {tmp_path} is not one to map")
    made.append(b"now")
    assert contents([segment.open_segment(made.segments[0].path)[0]]) == [b"now"]


def test_without_mapping_an_appended_frame_is_in_the_file_after_the_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "file_system", lambda folder: "btrfs")
    made = Spool(tmp_path, HEADER)
    assert not made.mapped
    made.append(b"one")
    made.upkeep()
    made.append(b"two")
    made.upkeep()
    assert contents([segment.open_segment(made.segments[0].path)[0]]) == [b"one", b"two"]


def test_allocated_space_is_given_back(tmp_path: Path, file_system: str) -> None:
    made = Spool(tmp_path, HEADER, segment_size=100_000)
    for frame in numbered(3):
        made.append(frame)
    made.upkeep()
    made.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 400


def test_a_spool_without_events_leaves_no_file(tmp_path: Path, file_system: str) -> None:
    made = Spool(tmp_path, HEADER)
    made.upkeep()
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_files_keep_the_order_of_the_frames_when_an_append_overtakes_the_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    frames = numbered(200)
    create = made._create
    waiting = iter(frames)

    def overtaken(need: int) -> Any:
        spare = create(need)
        monkeypatch.setattr(made, "_create", create)
        for frame in itertools.islice(waiting, 60):
            made.append(frame)
        return spare

    monkeypatch.setattr(made, "_create", overtaken)
    made.upkeep()
    for frame in waiting:
        made.append(frame)
        made.upkeep()
    assert everything(made) == frames
    made.close()
    assert contents(segment.load(tmp_path)[0]) == frames


def test_a_closed_spool_refuses(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER)
    made.append(b"one")
    made.close()
    with pytest.raises(SpoolError, match="closed"):
        made.append(b"two")


def test_a_signal_handler_may_append_in_the_midst_of_an_append(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER, segment_size=4096)
    inner = outer = 0

    def handler(*_: Any) -> None:
        nonlocal inner
        inner += 1
        made.append(b"inner %d" % inner)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0002)
        deadline = time.monotonic() + 60
        while inner < 200:
            assert time.monotonic() < deadline
            outer += 1
            made.append(b"outer %d" % outer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    frames = everything(made)
    assert made.version == inner + outer
    # A second signal may come before the first one's handler appends: each is there once, whatever their order.
    assert {frame for frame in frames if frame.startswith(b"inner")} == {b"inner %d" % i for i in range(1, inner + 1)}
    assert [frame for frame in frames if frame.startswith(b"outer")] == [b"outer %d" % i for i in range(1, outer + 1)]


# Versions, claims, deletion


def test_versions_go_on_after_what_earlier_processes_left(tmp_path: Path) -> None:
    first = Spool(tmp_path, HEADER)
    for frame in numbered(5):
        first.append(frame)
    first.close()
    second = Spool(tmp_path, HEADER)
    assert second.version == 5
    second.append(b"frame 5")
    assert second.version == 6
    assert everything(second) == numbered(6)


def test_an_empty_spool_still_knows_the_next_version(tmp_path: Path) -> None:
    first = Spool(tmp_path, HEADER, segment_size=SMALL)
    first.claim(3, 0)
    for frame in numbered(40):
        first.append(frame)
    first.upkeep()
    last_but_one = first.segments[-2].last
    first.release(40)
    first.claim(4, 40)
    first.upkeep()
    first.drop(40)
    assert [each.count for each in first.segments] == [0]
    assert last_but_one < 40
    first.close()
    assert Spool(tmp_path, HEADER).version == 40


def test_a_claim_numbers_what_was_provisional_and_survives_reopening(tmp_path: Path, file_system: str) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    for frame in numbered(60):
        made.append(frame)
    assert made.epoch is None
    made.claim(7, 1_000)
    assert (made.epoch, made.version) == (7, 1_060)
    for frame in numbered(40, 60):
        made.append(frame)
    made.close()
    found, _ = segment.load(tmp_path)
    assert len(found) > 2
    assert {each.epoch for each in found} == {7}
    assert found[0].first == 1_001
    assert all(later.first == earlier.last + 1 for earlier, later in itertools.pairwise(found))
    assert found[-1].last == 1_100


@pytest.mark.parametrize("damaged", range(8, 72, 4))
def test_damage_to_one_slot_does_not_bring_back_an_older_claim(tmp_path: Path, damaged: int) -> None:
    made = Spool(tmp_path, HEADER)
    made.append(b"one")
    made.claim(7, 41)
    made.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[damaged] ^= 0x10
    path.write_bytes(data)
    (found,), _ = segment.load(tmp_path)
    assert (found.epoch, found.first, found.count) == (7, 42, 1)


def test_only_whole_segments_that_a_checkpoint_holds_are_deleted(tmp_path: Path, file_system: str) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    made.claim(1, 0)
    frames = numbered(100)
    for frame in frames:
        made.append(frame)
    made.upkeep()
    first, second = made.segments[:2]
    made.drop(first.last - 1)
    assert first.path.exists()
    made.drop(second.last - 1)
    assert not first.path.exists()
    assert second.path.exists()
    assert everything(made, first.last) == frames[first.last :]
    made.drop(100)
    assert len(made.segments) == 1  # the active one
    with pytest.raises(SpoolGap):
        made.read(0)
    made.append(b"frame 100")
    assert everything(made, 100) == [b"frame 100"]


def test_reading_goes_on_behind_a_segment_that_was_deleted(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    made.claim(1, 0)
    frames = numbered(60)
    for frame in frames:
        made.append(frame)
    made.upkeep()
    first = made.segments[0].last
    read = made.read(0, limit=1_000)
    assert len(read) == first
    made.drop(first)
    assert everything(made, first) == frames[first:]


def test_what_was_never_claimed_is_not_deleted(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    for frame in numbered(100):
        made.append(frame)
    made.upkeep()
    made.drop(1_000)
    assert everything(made) == numbered(100)


def test_after_a_gap_the_rest_is_numbered_anew(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER, segment_size=SMALL)
    made.claim(1, 0)
    for frame in numbered(100):
        made.append(frame)
    made.upkeep()
    gone = made.segments[0].last
    made.drop(gone)
    with pytest.raises(SpoolGap) as caught:
        made.read(3)
    assert (caught.value.after, caught.value.first) == (3, gone + 1)
    made.release(3)
    assert made.epoch is None
    made.claim(2, 3)
    assert everything(made, 3) == numbered(100 - gone, gone)
    assert made.version == 3 + 100 - gone


def test_a_log_that_is_ahead_makes_what_follows_start_after_it(tmp_path: Path) -> None:
    made = Spool(tmp_path, HEADER)
    made.claim(1, 0)
    made.append(b"old")
    made.release(50)
    made.append(b"new")
    assert made.epoch is None
    made.claim(2, 50)
    assert made.version == 51
    assert everything(made, 50) == [b"new"]


def test_fenced_segments_are_set_aside_and_never_come_back(tmp_path: Path) -> None:
    first = Spool(tmp_path, HEADER)
    first.append(b"old")
    first.claim(1, 0)
    first.close()
    second = Spool(tmp_path, HEADER)
    second.append(b"new")
    (kept,) = second.set_aside()
    assert kept.suffix == ".fenced"
    assert b"old" in kept.read_bytes()
    second.claim(5, 20)
    assert everything(second, 20) == [b"new"]
    second.close()
    third = Spool(tmp_path, HEADER)
    assert everything(third, 20) == [b"new"]
    assert kept.exists()


def test_the_header_says_how_to_create_the_training(tmp_path: Path) -> None:
    created = TrainingCreated(name="headless", launcher="external")
    made = Spool(tmp_path, SegmentHeader(training_id="x", stream="training-x", created=created, created_at=5))
    made.append(b"one")
    made.close()
    (found,), _ = segment.load(tmp_path)
    assert found.header.created == created
    assert found.header.created_at == 5


# Damage


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("intact")
    made = Spool(folder, HEADER, segment_size=SMALL)
    frames = [b"%d " % number * (number % 9 + 1) for number in range(30)]
    for frame in frames:
        made.append(frame)
    made.claim(2, 0)
    made.close()
    return folder, frames


@given(data=st.data())
def test_any_truncation_leaves_a_prefix_of_whole_frames(
    tmp_path_factory: pytest.TempPathFactory, intact: tuple[Path, list[bytes]], data: st.DataObject
) -> None:
    folder, frames = intact
    path = tmp_path_factory.mktemp("torn") / "00000001.spool"
    whole = (folder / path.name).read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found, _ = segment.load(path.parent)
    kept = contents(found)
    assert kept == frames[: len(kept)]
    if found:
        assert path.stat().st_size == found[0].tail[0]


@given(data=st.data())
def test_any_flipped_bit_leaves_a_prefix_of_whole_frames_and_is_said(
    tmp_path_factory: pytest.TempPathFactory, intact: tuple[Path, list[bytes]], data: st.DataObject
) -> None:
    folder, frames = intact
    path = tmp_path_factory.mktemp("flipped") / "00000001.spool"
    whole = bytearray((folder / path.name).read_bytes())
    start = segment.header_size(HEADER)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    found, damages = segment.load(path.parent)
    kept = contents(found)
    assert kept == frames[: len(kept)]
    if at >= start:
        assert damages
        assert len(contents(segment.load(folder)[0])) > len(kept)
    elif at < 8 or at >= 72:
        assert found == []
        assert path.with_suffix(".damaged").exists()


def test_damage_in_the_midst_of_a_spool_is_a_gap_and_what_follows_it_is_kept(
    tmp_path: Path, intact: tuple[Path, list[bytes]]
) -> None:
    folder, frames = intact
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = tmp_path / "00000001.spool"
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    said: list[str] = []
    made = Spool(tmp_path, HEADER, on_trouble=said.append)
    assert len(said) == 1
    assert "was cut after version" in said[0]
    whole = made.read(0, limit=1_000)
    assert whole == frames[: len(whole)]
    with pytest.raises(SpoolGap) as caught:
        made.read(len(whole))
    assert everything(made, caught.value.first - 1) == frames[caught.value.first - 1 :]


# Disk


def full(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(os, "pwrite", refuse)


def test_a_full_disk_loses_nothing_as_long_as_memory_lasts_and_is_said_once(tmp_path: Path, file_system: str) -> None:
    said: list[str] = []
    made = Spool(tmp_path, HEADER, segment_size=SMALL, memory_limit=20 * SMALL, on_trouble=said.append)
    frames = numbered(300)
    for frame in frames[:100]:
        made.append(frame)
    made.upkeep()
    with pytest.MonkeyPatch.context() as patch:
        full(patch)
        for frame in frames[100:200]:
            made.append(frame)
            made.upkeep()
        assert len(said) == 1
        assert "takes nothing more" in said[0]
        assert everything(made) == frames[:200]
    made.upkeep()
    made.upkeep()
    assert said[1:] == ["The spool's disk takes events again; nothing was lost."]
    for frame in frames[200:]:
        made.append(frame)
        made.upkeep()
    assert everything(made) == frames
    made.close()
    found, damages = segment.load(tmp_path)
    assert contents(found) == frames
    assert damages == []


def test_a_full_disk_costs_bounded_memory_and_what_is_lost_is_counted(tmp_path: Path, file_system: str) -> None:
    said: list[str] = []
    made = Spool(tmp_path, HEADER, segment_size=SMALL, memory_limit=4 * SMALL, on_trouble=said.append)
    with pytest.MonkeyPatch.context() as patch:
        full(patch)
        for frame in numbered(1_000):
            made.append(frame)
            made.upkeep()
        assert made.lost > 500
        assert made.version == 1_000 - made.lost
        assert everything(made) == numbered(made.version)
        assert "being lost" in said[-1]
        lost = made.lost
    made.upkeep()
    assert f"{lost} events were lost" in said[-1]
    made.append(b"after")
    assert everything(made)[-1] == b"after"


def test_a_disk_that_is_only_too_slow_is_said_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "file_system", lambda folder: "nfs4")
    said: list[str] = []
    made = Spool(tmp_path, HEADER, segment_size=SMALL, memory_limit=4 * SMALL, on_trouble=said.append)
    for frame in numbered(1_000):
        made.append(frame)
    lost = made.lost
    assert lost > 500
    made.upkeep()
    made.upkeep()
    assert said == [f"The spool's disk takes events again; {lost} events were lost."]


def test_a_file_system_that_cannot_be_mapped_after_all_is_written_instead(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "file_system", lambda folder: "ext4")
        full(patch, errno.EOPNOTSUPP)
        made = Spool(tmp_path, HEADER)
    assert not made.mapped
    made.append(b"one")
    made.close()
    assert contents(segment.load(tmp_path)[0]) == [b"one"]


# Locks and deaths

HOLD = """
import sys, time
from pathlib import Path
from events.spool import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_held_folder_is_refused_by_name_until_its_holder_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SpoolLocked, match=f"process {other.pid}"):
            hold(tmp_path)
        other.kill()
        other.wait()
        with hold(tmp_path, wait=60):
            pass
    with hold(tmp_path):
        pass


APPEND = """
import sys, os
from pathlib import Path
from events import spool
from events.segment import SegmentHeader
if sys.argv[2] == "written":
    spool.file_system = lambda folder: "zfs"
made = spool.Spool(Path(sys.argv[1]), SegmentHeader(training_id="x", stream="training-x"), segment_size=8192)
number = 0
while True:
    made.append(b"frame %d" % number)
    number += 1
    if number % 7 == 0:
        made.upkeep()
        os.write(1, b"%d\\n" % number)
"""


@pytest.mark.crash
@pytest.mark.parametrize("way", ["mapped", "written"])
def test_kill_9_loses_no_appended_frame(tmp_path: Path, way: str) -> None:
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", APPEND, folder, way], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(attempt * 150 + 1):
                process.stdout.readline()
            process.kill()
            told = [int(line) for line in process.stdout.read().split()]
        appended = told[-1] if told else 0
        frames = contents(segment.load(folder)[0])
        assert len(frames) >= appended
        assert frames == numbered(len(frames))
