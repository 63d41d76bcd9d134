"""Segments: the files of a spool, each holding consecutive versions of one stream.

A segment is

    magic, 8 bytes
    claim, 2 slots of 32 bytes: serial, epoch (-1: not claimed yet), version of the first frame, CRC-32
    header frame (`SegmentHeader`), then one frame an event

and a frame is its payload's length (u32), the payload's CRC-32 (u32) and the payload: `[occurred_at, event]` in
MessagePack. All numbers are little-endian; a length of 0 or the end of the file ends the frames. What follows the first
frame that is not whole is cut off when a segment is opened.

The claim says under which epoch a segment's frames may be sent. Before a log has given an epoch, a segment's versions
are provisional: the claim numbers them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import msgspec

from .control import TrainingCreated
from .errors import SpoolError

SUFFIX = ".spool"
SET_ASIDE = ".fenced"
DAMAGED = ".damaged"

_MAGIC = b"SAESPL01"
_CLAIM = struct.Struct("<QqQ")
_CLAIM_SUM = struct.Struct("<I")
_SLOTS = (8, 40)
_HEADER = 72

_AHEAD = 128 << 10
_MADV_POPULATE_WRITE = 23  # of <linux/mman.h>; the module mmap does not name it

FRAME = struct.Struct("<II")
"""Length and CRC-32 of the payload that follows."""

Buffer = mmap.mmap | bytearray


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Whose events a segment holds, and what creates the training in a log that does not know it.

    `created_at` is in µs since 1970.
    """

    training_id: str
    stream: str
    created: TrainingCreated | None = None
    created_at: int | None = None


class Segment:
    """Consecutive frames of a stream in one file.

    `first` is the version of its first frame, provisional while `epoch` is None. `tail` is (offset after the last whole
    frame, number of frames): one value, so that an interruption never sees half of it.
    """

    def __init__(self, path: Path, header: SegmentHeader, start: int) -> None:
        self.path = path
        self.header = header
        self.start = start
        self.epoch: int | None = None
        self.first = 1
        self.tail: tuple[int, int] = (start, 0)
        self._serial = 0

    @property
    def count(self) -> int:
        return self.tail[1]

    @property
    def last(self) -> int:
        """Version of the last frame; `first - 1` while there is none."""
        return self.first + self.tail[1] - 1

    def content(self) -> Buffer | bytes:
        """The segment's bytes, at least up to its tail."""
        return self.path.read_bytes()

    def mark(self, epoch: int | None, first: int) -> None:
        """Write under which epoch the frames may be sent, and the version of the first.

        The two slots are written one after the other: a death in between leaves one of them whole, and later damage
        to one of them does not bring back the claim before.
        """
        self.epoch, self.first = epoch, first
        for offset in _SLOTS:
            self._serial += 1
            slot = _CLAIM.pack(self._serial, -1 if epoch is None else epoch, first)
            self._write_at(offset, slot + _CLAIM_SUM.pack(crc32(slot)))

    def sync(self) -> None:
        """Make every frame so far survive the machine's death."""
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, for the log has it all
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _write_at(self, offset: int, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def _read_claim(self, data: bytes) -> None:
        for offset in _SLOTS:
            slot = data[offset : offset + _CLAIM.size]
            (check,) = _CLAIM_SUM.unpack_from(data, offset + _CLAIM.size)
            serial, epoch, first = _CLAIM.unpack(slot)
            if check == crc32(slot) and serial > self._serial:
                self._serial, self.first = serial, first
                self.epoch = None if epoch < 0 else epoch


def frames_in(data: Buffer | bytes, start: int, end: int, *, limit: int, size: int) -> tuple[list[bytes], int]:
    """Payloads of the whole frames from `start`, at most `limit` of them and `size` bytes, but one at least.

    Returns them and the offset after the last. Checksums are not looked at: what lies before a segment's tail is whole.
    """
    payloads: list[bytes] = []
    unpack = FRAME.unpack_from
    stop = min(end, start + size)
    offset = start
    while offset < end and len(payloads) < limit:
        body = offset + 8
        following = body + unpack(data, offset)[0]
        if following > stop and payloads:
            break
        payloads.append(data[body:following])  # pyright: ignore[reportArgumentType]  # a slice of mmap is bytes
        offset = following
    return payloads, offset


def _whole(data: bytes, start: int) -> tuple[int, int]:
    """(offset after the last whole frame, number of whole frames)."""
    unpack = FRAME.unpack_from
    view = memoryview(data)
    offset, count, end = start, 0, len(data)
    while offset + 8 <= end:
        length, check = unpack(data, offset)
        following = offset + 8 + length
        if length == 0 or following > end or crc32(view[offset + 8 : following]) != check:
            break
        offset, count = following, count + 1
    return offset, count


def open_segment(path: Path) -> tuple[Segment, int]:
    """A segment that no process writes any more, cut after its last whole frame.

    Returns it and how many bytes of unreadable frames were cut off. Raises `SpoolError` if its header is damaged and
    `EOFError` if nothing was ever written to it.
    """
    data = path.read_bytes()
    if not data.strip(b"\0"):
        raise EOFError
    try:
        if data[:8] != _MAGIC:
            raise SpoolError("it does not begin as one")
        length, check = FRAME.unpack_from(data, _HEADER)
        start = _HEADER + 8 + length
        payload = data[_HEADER + 8 : start]
        if len(payload) < length or crc32(payload) != check:
            raise SpoolError("its header's checksum is wrong")
        header = msgspec.msgpack.decode(payload, type=SegmentHeader)
    except (SpoolError, struct.error, msgspec.DecodeError) as error:
        raise SpoolError(f"{path} is not a readable spool segment: {error}.") from error
    segment = Segment(path, header, start)
    segment._read_claim(data)  # pyright: ignore[reportPrivateUsage]
    if segment._serial == 0:  # pyright: ignore[reportPrivateUsage]
        if any(data[_SLOTS[0] : _HEADER]):
            raise SpoolError(f"{path} is not a readable spool segment: its claim's checksums are wrong.")
        segment.first = 1
    segment.tail = _whole(data, start)
    end = segment.tail[0]
    cut = len(data[end:].rstrip(b"\0"))
    if end < len(data):
        os.truncate(path, end)
    return segment, cut


def load(folder: Path) -> tuple[list[Segment], list[str]]:
    """The segments that earlier writers left in a spool's folder, in order, and one sentence for each damage found.

    The caller holds the run folder's lock. A segment without frames and without a claim is deleted; one whose header
    cannot be read is renamed, never deleted.
    """
    segments: list[Segment] = []
    damages: list[str] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            segment, cut = open_segment(path)
        except EOFError:
            path.unlink()
            continue
        except SpoolError as error:
            path.rename(path.with_suffix(DAMAGED))
            damages.append(f"{error} It is kept as {path.with_suffix(DAMAGED).name}.")
            continue
        if cut:
            damages.append(f"{path} was cut after version {segment.last}: {cut} bytes behind it are not whole frames.")
        if segment.count == 0 and segment.epoch is None:
            path.unlink()
            continue
        segments.append(segment)
    for segment in [segment for segment in segments[:-1] if segment.count == 0]:
        segments.remove(segment)
        segment.path.unlink()
    return segments, damages


def set_aside(segments: Sequence[Segment]) -> list[Path]:
    """Rename segments whose epoch was fenced, so that nobody sends them and nobody deletes them."""
    kept: list[Path] = []
    for segment in segments:
        target = segment.path.with_suffix(SET_ASIDE)
        segment.path.rename(target)
        kept.append(target)
    return kept


class LiveSegment(Segment):
    """A segment that this process writes: in a mapped file, or in memory on its way to one."""

    def __init__(self, path: Path, header: SegmentHeader, buffer: Buffer, descriptor: int | None) -> None:
        payload = msgspec.msgpack.encode(header)
        encoded = FRAME.pack(len(payload), crc32(payload)) + payload
        super().__init__(path, header, _HEADER + len(encoded))
        self.buffer: Buffer | None = buffer
        self.descriptor = descriptor
        self.mapped = isinstance(buffer, mmap.mmap)
        self.capacity = len(buffer)
        self._writing = threading.Lock()
        self._written = 0
        self._synced = 0
        self._brought_in = 0
        buffer[:8] = _MAGIC
        buffer[_HEADER : self.start] = encoded

    def content(self) -> Buffer | bytes:
        buffer = self.buffer
        return super().content() if buffer is None else buffer

    def _write_at(self, offset: int, data: bytes) -> None:
        buffer = self.buffer
        if buffer is None:
            super()._write_at(offset, data)
            return
        with self._writing:
            buffer[offset : offset + len(data)] = data
            if not self.mapped and self.descriptor is not None:
                os.pwrite(self.descriptor, data, offset)

    def bring_in(self) -> None:
        """Have the kernel bring in the pages that are appended to next: an append then meets no page fault."""
        buffer, wanted = self.buffer, self.tail[0] + _AHEAD // 2
        if isinstance(buffer, mmap.mmap) and self._brought_in < min(wanted, self.capacity):
            start, self._brought_in = self._brought_in, min(self._brought_in + _AHEAD, self.capacity)
            with contextlib.suppress(OSError):  # Linux before 5.14 does not know it
                buffer.madvise(_MADV_POPULATE_WRITE, start, self._brought_in - start)

    def write_out(self) -> None:
        """Bring a segment that lies in memory up to date in its file; raises OSError where the disk takes nothing."""
        buffer = self.buffer
        if self.mapped or buffer is None:
            return
        with self._writing:
            end = self.tail[0]
            if self.descriptor is None:
                self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            while self._written < end:
                self._written += os.pwrite(self.descriptor, buffer[self._written : end], self._written)

    def sync(self) -> None:
        end = self.tail[0]
        if self.descriptor is None:
            super().sync()
        elif end > self._synced:
            os.fsync(self.descriptor)
            self._synced = end

    def settle(self) -> None:
        """Nothing is appended any more: free the allocated rest and the memory."""
        self.write_out()
        if self.descriptor is not None:
            os.ftruncate(self.descriptor, self.tail[0])
            os.close(self.descriptor)
            self.descriptor = None
        # The mapping itself ends with its last reader.
        self.buffer = None

    def abandon(self) -> None:
        """Undo the segment: nothing was appended to it."""
        self.buffer = None
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        self.path.unlink(missing_ok=True)


def header_size(header: SegmentHeader) -> int:
    """Bytes before the first frame of a segment with this header."""
    return _HEADER + FRAME.size + len(msgspec.msgpack.encode(header))
