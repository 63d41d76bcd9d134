"""What the event log can refuse, each with one sentence that a person can act on."""

from __future__ import annotations


class EventLogError(Exception):
    """Base of everything that `events` raises on purpose."""


class WrongExpectedVersion(EventLogError):
    """An append expected another version of the stream than it has."""

    def __init__(self, stream: str, expected: int | str, current: int) -> None:
        self.stream = stream
        self.expected = expected
        self.current = current
        super().__init__(f"Stream {stream!r} is at version {current}; the append expected {expected}.")


class Fenced(EventLogError):
    """A writer holds an older epoch of the stream than the log has given since: another writer took over."""

    def __init__(self, stream: str, epoch: int, current_epoch: int, current: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.current_epoch = current_epoch
        self.current = current
        super().__init__(
            f"Stream {stream!r} is written under epoch {current_epoch} now; epoch {epoch} is fenced"
            f" (current version {current})."
        )


class StreamPurged(Fenced):
    """The stream's events were removed for good; nothing can be appended to it any more."""

    def __init__(self, stream: str, current: int) -> None:
        super().__init__(stream, 0, 0, current)
        self.args = (f"Stream {stream!r} was purged; nothing can be appended to it.",)


class LogUnavailable(EventLogError):
    """The log cannot take events now (disk full, failed checkpoint being healed); the append may be repeated."""


class LogDamaged(LogUnavailable):
    """The log's files are not what was written to them. They are left as they are; `events.salvage` reads the rest."""


class LogFull(LogUnavailable):
    """The log's disk takes no more. Nothing was appended; when there is space, the same append succeeds."""


class LogClosed(EventLogError):
    """The log was closed while the call was waiting or before it began."""


class DataDirectoryInUse(EventLogError):
    """Another process holds the log's files."""


class UndecodableEvent(EventLogError):
    """Bytes that no decoder accepts; `reason` says what is wrong with them."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class PositionBeyondHead(EventLogError):
    """A reader asked for a position that this log has not reached: it belongs to another incarnation."""

    def __init__(self, position: int, head: int) -> None:
        self.position = position
        self.head = head
        super().__init__(f"Position {position} lies beyond the log's head {head}.")


class SpoolError(EventLogError):
    """A spool file cannot be used as asked; the sentence names the file and the reason."""


class SpoolLocked(SpoolError):
    """Another process holds the spool: its writer lives."""
