"""The spool: a writer's events on disk, from the moment that they are emitted until the log has them for good.

A spool is a folder of segments (`segment.py`). The active segment's space is allocated beforehand and mapped into
memory, so that a frame is the kernel's as soon as `append` returns: it survives any death of the process, and no system
call stands in the way. Where that is not safe (file systems that can run out of space under a mapping, a full disk),
the segment lies in the process's memory and `upkeep` writes it to its file.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from zlib import crc32

from . import segment as segments
from .disk import file_system, refusal
from .errors import SpoolError, SpoolLocked
from .segment import FRAME, Buffer, LiveSegment, Segment, SegmentHeader, frames_in

SEGMENT_SIZE = 4 << 20
"""Bytes of a segment, unless one event alone needs more."""

MEMORY_LIMIT = 64 << 20
"""Bytes of events kept in memory while the disk takes none; beyond it events are lost, and counted."""

# Only here does allocated space stay the file's own, so that a store into the mapping cannot fail (SIGBUS) when the
# disk is full. Copy-on-write file systems (btrfs, zfs, APFS) and network ones need new space for every write.
_MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs", "overlay"})

_NO_MAPPING = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


class FolderLock:
    """A held lock on a run folder; it ends with `release` or with the process, whatever way that dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go of the folder. The file stays: deleting it would let two processes hold one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def hold(folder: Path, *, wait: float = 0.0) -> FolderLock:
    """Take the lock of a run folder, waiting at most `wait` seconds for it.

    Raises `SpoolLocked`, naming the holder where it is known, if another process has it. The lock is the only sign of
    life: the pid in the file is for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise SpoolError(f"{path} cannot be locked: {error.strerror}.") from error
            if time.monotonic() >= deadline:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
                os.close(descriptor)
                by = f"process {holder}" if holder else "another process"
                raise SpoolLocked(f"{folder} is held by {by}: its writer lives.") from None
            time.sleep(0.02)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return FolderLock(path, descriptor)


def is_held(folder: Path) -> bool:
    """Whether some process, this one or another, holds the lock of a run folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class SpoolGap(SpoolError):
    """The frames after `after` are gone; the next that the spool holds has version `first`."""

    def __init__(self, after: int, first: int) -> None:
        self.after = after
        self.first = first
        super().__init__(f"The spool holds nothing between versions {after} and {first}.")


class Spool:
    """A writer's spool: appends in the caller's thread, reads for the sender, and upkeep in a thread of its own.

    The caller holds the run folder's lock. `on_trouble` gets one sentence when something is wrong and when it is well
    again, `on_disk` what is wrong with the disk, or None; both are called by `upkeep` (the first by the constructor
    too), never inside `append`. Raises `SpoolError` for a folder on a
    network's file system.
    """

    def __init__(
        self,
        folder: Path,
        header: SegmentHeader,
        *,
        segment_size: int = SEGMENT_SIZE,
        memory_limit: int = MEMORY_LIMIT,
        on_trouble: Callable[[str], None] | None = None,
        on_disk: Callable[[str | None], None] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if reason := refusal(folder, "the spool"):
            raise SpoolError(reason)
        self.folder = folder
        self._header = header
        self._header_size = segments.header_size(header)
        self._segment_size = max(segment_size, self._header_size + 64)
        self._memory_limit = memory_limit
        self._on_trouble = on_trouble or _ignore
        self._on_disk = on_disk or _ignore
        self._mappable = file_system(folder) in _MAPPABLE
        self._lock = threading.RLock()
        self._appending = False
        self._closed = False
        self._deferred: deque[bytes] = deque()
        self.lost = 0
        self._trouble: str | None = None
        self._told: str | None = None
        self._position: tuple[Segment, Buffer | bytes, int, int] | None = None
        self._spare: LiveSegment | None = None
        # Full segments on their way: first in memory or with allocated space left over, then not fsynced yet.
        self._unsettled: list[LiveSegment] = []
        self._unsynced: list[Segment] = []

        self._segments: list[Segment]
        self._segments, damages = segments.load(folder)
        for damage in damages:
            self._on_trouble(damage)
        names = [path.name.partition(".")[0] for path in folder.iterdir()]
        # The upkeep and an appending thread both take numbers; `next` on it is atomic.
        self._numbers = itertools.count(max((int(name) for name in names if name.isdigit()), default=0) + 1)
        self._active = self._create(0)
        self._active.mark(None, self._segments[-1].last + 1 if self._segments else 1)
        self._segments.append(self._active)

    # What is there

    @property
    def version(self) -> int:
        """Version of the last appended event, provisional while `epoch` is None."""
        return self._active.last

    @property
    def epoch(self) -> int | None:
        """The epoch that the active segment is written under."""
        return self._active.epoch

    @property
    def claimed(self) -> Segment | None:
        """The last segment that has an epoch, if any."""
        return next((segment for segment in reversed(self._segments) if segment.epoch is not None), None)

    @property
    def mapped(self) -> bool:
        """Whether an appended frame is the kernel's at once; otherwise it is after the next `upkeep`."""
        return self._active.mapped

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(self._segments)

    def mark(self) -> tuple[Segment, int] | None:
        """The place of the last event in the spool, whatever version it will get; None where there is none."""
        with self._lock:
            return next(((each, each.count) for each in reversed(self._segments) if each.count), None)

    def version_of(self, mark: tuple[Segment, int] | None) -> int | None:
        """The version of the event at a mark; None as long as it is provisional."""
        if mark is None:
            return 0
        segment, count = mark
        return None if segment.epoch is None else segment.first + count - 1

    # Appending

    def append(self, frame: bytes) -> None:
        """Append an encoded frame; never raises for want of space and never waits for the network.

        What can be kept neither on disk nor within the memory limit is lost, and counted in `lost`.
        """
        with self._lock:
            if self._appending:  # by a signal handler or a finaliser, in the midst of this thread's own append
                self._deferred.append(frame)
                return
            self._appending = True
            try:
                self._write(frame)
                while self._deferred:
                    self._write(self._deferred.popleft())
            finally:
                self._appending = False

    def _write(self, frame: bytes) -> None:
        active = self._active
        start, count = active.tail
        size = len(frame)
        end = start + 8 + size
        if end > active.capacity:
            if self._rotate(8 + size):
                self._write(frame)
            else:
                self.lost += 1
            return
        buffer = active.buffer
        assert buffer is not None
        buffer[start + 8 : end] = frame
        # The length comes last: a frame that a death left half written does not exist.
        FRAME.pack_into(buffer, start, size, crc32(frame))
        active.tail = (end, count + 1)

    def _rotate(self, need: int) -> bool:
        """Make a new segment the active one; False where there is neither disk nor memory for it."""
        if self._closed:
            raise SpoolError(f"The spool {self.folder} is closed.")
        old = self._active
        new, self._spare = self._spare, None
        if new is not None and new.start + need > new.capacity:
            new.abandon()
            new = None
        if new is None:
            if not self._mappable or self._trouble is not None:
                held = sum(s.capacity for s in self._unsettled if not s.mapped) + (0 if old.mapped else old.capacity)
                if held + self._segment_size > self._memory_limit:
                    return False
            new = self._create(need)
        new.mark(old.epoch, old.last + 1)
        if old.count == 0:
            self._segments.remove(old)
            old.abandon()
        else:
            self._unsettled.append(old)
        self._segments.append(new)
        self._active = new
        return True

    def _create(self, need: int) -> LiveSegment:
        path = self.folder / f"{next(self._numbers):08d}{segments.SUFFIX}"
        size = max(self._segment_size, self._header_size + need)
        if self._mappable:
            descriptor = None
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                os.posix_fallocate(descriptor, 0, size)
                buffer = mmap.mmap(descriptor, size)
                return LiveSegment(path, self._header, buffer, descriptor)
            except OSError as error:
                if descriptor is not None:
                    os.close(descriptor)
                    path.unlink(missing_ok=True)
                if error.errno in _NO_MAPPING:
                    self._mappable = False
                else:
                    self._trouble = f"The spool's disk takes nothing more ({error.strerror}): {self.folder}."
        return LiveSegment(path, self._header, bytearray(size), None)

    # Reading

    def read(self, after: int, *, limit: int = 1000, size: int = 1 << 20) -> list[bytes]:
        """The frames after version `after`, at most `limit` and about `size` bytes; empty at the end.

        One thread reads. Raises `SpoolGap` where the next frame is not there.
        """
        position = self._position
        if position is None or position[3] != after:
            position = self._seek(after)
            if position is None:
                return []
        segment, content, offset, version = position
        end, _ = segment.tail
        while offset >= end:
            following = self._after(segment)
            if following is None:
                self._position = (segment, content, offset, version)
                return []
            # A segment is rotated after its last frame: what is there now is all there will be.
            end, _ = segment.tail
            if offset < end:
                break
            if following.first != version + 1:
                raise SpoolGap(version, following.first)
            segment, content, offset = following, following.content(), following.start
            end, _ = segment.tail
        frames, offset = frames_in(content, offset, end, limit=limit, size=size)
        self._position = (segment, content, offset, version + len(frames))
        return frames

    def _after(self, segment: Segment) -> Segment | None:
        with self._lock:
            index = self._segments.index(segment) + 1
            return self._segments[index] if index < len(self._segments) else None

    def _seek(self, after: int) -> tuple[Segment, Buffer | bytes, int, int] | None:
        with self._lock:
            for segment in self._segments:
                if segment.last <= after and segment is not self._active:
                    continue
                if segment.first > after + 1:
                    raise SpoolGap(after, segment.first)
                if segment.last < after:
                    return None
                content = segment.content()
                _, offset = frames_in(
                    content, segment.start, segment.tail[0], limit=after - segment.first + 1, size=sys.maxsize
                )
                return segment, content, offset, after
        return None

    # Claims

    def claim(self, epoch: int, version: int) -> None:
        """A log that stands at `version` has given `epoch`: number and mark everything that was not claimed yet."""
        with self._lock:
            self._position = None
            for segment in self._segments:
                if segment.epoch is None:
                    segment.mark(epoch, version + 1)
                    version = segment.last

    def release(self, after: int) -> None:
        """What follows `after` needs a new claim: its versions are not those that the log can take next."""
        with self._lock:
            self._position = None
            if self._active.first <= after and not self._rotate(0):
                return
            for segment in self._segments:
                if segment.first > after or segment is self._active:
                    segment.mark(None, segment.first)

    def set_aside(self) -> list[Path]:
        """Rename the claimed segments of earlier writers: their epoch was fenced."""
        with self._lock:
            self._position = None
            fenced = [
                segment for segment in self._segments if segment.epoch is not None and segment is not self._active
            ]
            self._segments = [segment for segment in self._segments if segment not in fenced]
            return segments.set_aside(fenced)

    def drop(self, version: int) -> None:
        """Delete the segments that a checkpointed log holds whole: all of whose versions are at most `version`.

        Called by the thread that reads.
        """
        gone: list[Segment] = []
        with self._lock:
            for segment in self._segments:
                if segment is self._active or segment.epoch is None or segment.last > version:
                    break
                if segment in self._unsettled:
                    break
                gone.append(segment)
            del self._segments[: len(gone)]
            self._unsynced = [segment for segment in self._unsynced if segment not in gone]
        if self._position is not None and self._position[0] in gone:
            self._position = None
        # Not under the lock: an append must not wait for the disk.
        for segment in gone:
            segment.path.unlink(missing_ok=True)

    # Upkeep

    def upkeep(self, *, sync: bool = False) -> None:
        """Write out what lies in memory, settle full segments, have the next one ready; `sync` also fsyncs.

        Called over and over by one thread, every few milliseconds where the spool is not mapped. Tells of trouble and
        of its end.
        """
        trouble: str | None = None
        try:
            for segment in list(self._unsettled):
                segment.settle()
                with self._lock:
                    self._unsettled.remove(segment)
                    self._unsynced.append(segment)
            active = self._active
            active.bring_in()
            active.write_out()
            if sync:
                self._sync()
        except OSError as error:
            trouble = f"The spool's disk takes nothing more ({error.strerror}): {self.folder}."
        if trouble is None and self._mappable and self._spare is None:
            self._trouble = None
            spare = self._create(0)
            trouble = self._trouble
            if spare.mapped:
                with self._lock:
                    if spare.path.name < self._active.path.name:
                        spare.abandon()  # an append that could not wait has made a later one: files keep the order
                    else:
                        self._spare = spare
                    if self._spare is not None and not self._active.mapped:
                        self._rotate(0)
        self._trouble = trouble
        self._tell(trouble)

    def _sync(self) -> None:
        """Make every frame so far survive the machine's death."""
        with self._lock:
            waiting = [*self._unsynced, self._active]
            self._unsynced.clear()
        for segment in waiting:
            segment.sync()

    def _tell(self, trouble: str | None) -> None:
        lost = self.lost
        if trouble is not None and lost:
            trouble = f"{trouble} Its memory is full too: events are being lost."
        if trouble == self._told and (trouble is not None or not lost):
            return
        if trouble is None:
            self._on_trouble(
                f"The spool's disk takes events again; {lost} events were lost."
                if lost
                else "The spool's disk takes events again; nothing was lost."
            )
            self.lost = 0
        else:
            self._on_trouble(trouble)
        self._told = trouble
        self._on_disk(trouble)

    def close(self) -> None:
        """Write everything out and give back unused space. An empty segment is deleted."""
        self.upkeep()
        with self._lock:
            spare, self._spare = self._spare, None
            if spare is not None:
                spare.abandon()
            if self._active.count == 0 and self._active.epoch is None:
                self._active.abandon()
            else:
                self._active.settle()
            self._sync()
            self._closed = True
            self._active.capacity = 0


def _ignore(_: str | None) -> None:
    """Nobody listens."""
