"""What may be appended to a stream: expected versions, epochs and fencing. Pure; every store decides by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from .control import WriterClaimed
from .errors import Fenced, StreamPurged, WrongExpectedVersion
from .event import Event, now_us

NO_STREAM = 0
"""Expected version of a stream that must not exist yet."""

ANY = None
"""Expected version of an append that takes the stream as it is."""

MAX_EPOCH = 2**31 - 1
PURGED = MAX_EPOCH + 1
"""The epoch of a stream that was purged: above every writer's."""

TRAINING = "training-"
CONTROL = "control-"


def claimed_stream(control_stream: str) -> str:
    """The stream that the `WriterClaimed` events of a control stream are about."""
    return TRAINING + control_stream.removeprefix(CONTROL)


class Append(msgspec.Struct, frozen=True):
    """Events for the end of one stream.

    `expected` is the version that the stream must have (`NO_STREAM`, `ANY` or a number); under an `epoch` it is the
    version before the first of these events, which may be a re-send. `occurred_at` gives each event's time in µs (None:
    now). `actor` and `metadata` are kept with cold events only.
    """

    stream: str
    events: Sequence[Event]
    expected: int | None = ANY
    epoch: int | None = None
    occurred_at: Sequence[int] | None = None
    actor: str | None = None
    metadata: dict[str, str] | None = None


class Appended(msgspec.Struct, frozen=True):
    """Where an append's events lie; a re-send is answered as the first time.

    `position` is that of the last event and `version` the stream's after it. The positions in between need not be
    consecutive where part of it was a re-send.
    """

    position: int
    first_position: int
    version: int
    count: int


class Claim(msgspec.Struct, frozen=True):
    """The right to write a stream after `version` under `epoch`, until a newer epoch is claimed."""

    epoch: int
    version: int
    log_id: str


class StreamHead(msgspec.Struct, frozen=True):
    """A stream's end. `epoch_first_version` is the first version that the current epoch may write; epoch 0 is none."""

    version: int = 0
    first_position: int = 0
    last_position: int = 0
    epoch: int = 0
    epoch_first_version: int = 1

    def extended(self, version: int, first_position: int, last_position: int) -> StreamHead:
        """After events up to `version` at these positions; the first may lie before what was known."""
        return msgspec.structs.replace(
            self,
            version=max(self.version, version),
            first_position=min(self.first_position or first_position, first_position),
            last_position=max(self.last_position, last_position),
        )

    def claimed(self, claim: WriterClaimed) -> StreamHead:
        """Under the epoch of `claim`."""
        return msgspec.structs.replace(self, epoch=claim.epoch, epoch_first_version=claim.first_version)

    def purged(self) -> StreamHead:
        """Above every epoch that can be claimed."""
        return msgspec.structs.replace(self, epoch=PURGED)


_NEW = StreamHead()


class Admitted(msgspec.Struct, frozen=True):
    """Events that have got their place: the first has `version` and `position`, the rest follow one by one."""

    append: Append
    events: Sequence[Event]
    occurred_at: Sequence[int]
    position: int
    version: int


class Group:
    """Appends that will be committed together, after `head`, on streams whose ends are `heads`.

    `add` and `claim` either give all their events a place or raise and change nothing. `position_of(stream, version)`
    finds an event that the log has already.
    """

    def __init__(
        self, heads: Mapping[str, StreamHead], head: int, log_id: str, position_of: Callable[[str, int], int]
    ) -> None:
        self.first = head + 1
        self.head = head
        self.admitted: list[Admitted] = []
        self.changed: dict[str, StreamHead] = {}
        self._heads = heads
        self._log_id = log_id
        self._position_of = position_of

    def __len__(self) -> int:
        return self.head - self.first + 1

    def add(self, appends: Sequence[Append]) -> list[Appended]:
        """Places the events of all `appends`, or none. Raises `WrongExpectedVersion` or `Fenced`."""
        for append in appends:
            if append.stream.startswith(CONTROL) and any(isinstance(event, WriterClaimed) for event in append.events):
                raise ValueError("A WriterClaimed is not appended: claim the stream.")
        return self._add(appends)

    def claim(self, stream: str, epoch: int | None, host: str, pid: int | None, actor: str | None) -> Claim:
        """Gives `stream` to a writer and records it in its control stream. Raises `Fenced` for an older epoch."""
        if not stream.startswith(TRAINING):
            raise ValueError(f"Only a stream {TRAINING}ID has one claimed writer; {stream!r} is not one.")
        current = self._current(stream)
        if current.epoch == PURGED:
            raise StreamPurged(stream, current.version)
        if epoch is not None and epoch < max(current.epoch, 1):
            raise Fenced(stream, epoch, current.epoch, current.version)
        if epoch is not None and epoch > MAX_EPOCH:
            raise ValueError(f"An epoch is at most {MAX_EPOCH}, not {epoch}.")
        if epoch is None or epoch > current.epoch:
            epoch = epoch or current.epoch + 1
            claimed = WriterClaimed(epoch=epoch, first_version=current.version + 1, host=host, pid=pid)
            self._add([Append(CONTROL + stream.removeprefix(TRAINING), [claimed], actor=actor)])
            self.changed[stream] = current.claimed(claimed)
        return Claim(epoch=epoch, version=current.version, log_id=self._log_id)

    def _add(self, appends: Sequence[Append]) -> list[Appended]:
        admitted: list[Admitted] = []
        changed: dict[str, StreamHead] = {}
        answers: list[tuple[Append, int]] = []
        head = self.head
        for append in appends:
            current = changed.get(append.stream) or self._current(append.stream)
            known = _admit(current, append)
            count = len(append.events)
            if append.occurred_at is not None and len(append.occurred_at) != count:
                raise ValueError(f"occurred_at has {len(append.occurred_at)} times for {count} events.")
            start = append.expected if known and append.expected is not None else current.version
            answers.append((append, start + count))
            fresh = count - known
            if not fresh:
                continue
            admitted.append(
                Admitted(
                    append=append,
                    events=append.events[known:] if known else append.events,
                    occurred_at=[now_us()] * fresh if append.occurred_at is None else append.occurred_at[known:],
                    position=head + 1,
                    version=current.version + 1,
                )
            )
            changed[append.stream] = current.extended(current.version + fresh, head + 1, head + fresh)
            head += fresh
        answered = [self._answer(append, version, admitted) for append, version in answers]
        self.head = head
        self.admitted += admitted
        self.changed.update(changed)
        return answered

    def _current(self, stream: str) -> StreamHead:
        return self.changed.get(stream) or self._heads.get(stream) or _NEW

    def _answer(self, append: Append, version: int, admitted: Sequence[Admitted]) -> Appended:
        count = len(append.events)
        last = self._place(append.stream, version, admitted)
        first = last if count <= 1 else self._place(append.stream, version - count + 1, admitted)
        return Appended(position=last, first_position=first, version=version, count=count)

    def _place(self, stream: str, version: int, admitted: Sequence[Admitted]) -> int:
        if version == 0:
            return 0
        for runs in (admitted, self.admitted):
            for run in reversed(runs):
                if run.append.stream == stream and run.version <= version:
                    return run.position + version - run.version
        head = self._heads.get(stream, _NEW)
        return head.last_position if head.version == version else self._position_of(stream, version)


def _admit(current: StreamHead, append: Append) -> int:
    """How many of the append's events the stream has already, from the first on."""
    stream, expected, version = append.stream, append.expected, current.version
    if current.epoch == PURGED:
        raise StreamPurged(stream, version)
    if append.epoch is None:
        if current.epoch:
            raise Fenced(stream, 0, current.epoch, version)
        if expected is not None and expected != version:
            raise WrongExpectedVersion(stream, expected, version)
        return 0
    if append.epoch < current.epoch:
        raise Fenced(stream, append.epoch, current.epoch, version)
    if append.epoch > current.epoch or append.epoch < 1:
        raise ValueError(f"Epoch {append.epoch} of stream {stream!r} has not been claimed; it has {current.epoch}.")
    if expected is None or expected == version:
        return 0
    # The same version from the same epoch is the same event, for a spool is append-only.
    if current.epoch_first_version - 1 <= expected < version:
        return min(len(append.events), version - expected)
    raise WrongExpectedVersion(stream, expected, version)
