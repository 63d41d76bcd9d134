"""A second, fsynced record of what the server itself appends.

Trainers keep their events in spools until the log's file holds them for good; commands have no spool. Should the log
lose its newest events (a write-ahead log that was deleted or damaged), they are appended again from here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from core.run import write_atomically
from events import codec
from events.event import Event
from events.store import EventStore
from events.streams import Append, Appended

_TAIL = 1_000

_logger = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One append to one stream, after which the stream had `version`; `occurred_at` holds a time for each event."""

    stream: str
    version: int
    events: list[msgspec.Raw]
    occurred_at: list[int]
    actor: str | None = None
    metadata: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(Entry)


class Journal:
    """One JSON object a line in `path`. Usable from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def record(self, appends: Sequence[Append], answers: Sequence[Appended]) -> None:
        """Keep appends that the log has taken. Each must say when its events occurred."""
        lines = [
            msgspec.json.encode(
                Entry(
                    stream=append.stream,
                    version=answer.version,
                    events=[msgspec.Raw(codec.encode(event, "json")) for event in append.events],
                    occurred_at=list(append.occurred_at or ()),
                    actor=append.actor,
                    metadata=append.metadata,
                )
            )
            + b"\n"
            for append, answer in zip(appends, answers, strict=True)
        ]
        with self._lock, self._path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def restore(self, store: EventStore) -> int:
        """Append again what the log has lost, before anything else is appended; the number of events. Blocks."""
        entries, restored = self._entries(), 0
        for number, entry in enumerate(entries):
            missing = min(len(entry.events), entry.version - store.version(entry.stream))
            if missing <= 0:
                continue
            kept = _kept(store, entry)
            lost = [pair for pair in _events(entry)[-missing:] if pair not in kept]
            if not lost:
                continue
            append = Append(
                entry.stream,
                [event for _, event in lost],
                occurred_at=[occurred_at for occurred_at, _ in lost],
                actor=entry.actor,
                metadata=entry.metadata,
            )
            (answer,) = store.append(append).result()
            # Claims are not kept here, so that a version may be an earlier one now.
            entries[number] = msgspec.structs.replace(entry, version=answer.version)
            restored += len(lost)
        self._rewrite(entries)
        return restored

    def trim(self, store: EventStore) -> None:
        """Forget what lies in the log's checkpointed file, and what belongs to another log that lay here."""
        entries = self._entries()
        kept = [
            entry
            for entry in entries
            if store.checkpointed(entry.stream) < entry.version <= store.version(entry.stream)
        ]
        if len(kept) < len(entries):
            self._rewrite(kept)

    def _rewrite(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            write_atomically(self._path, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))

    def _entries(self) -> list[Entry]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries: list[Entry] = []
        for number, line in enumerate(lines, 1):
            try:
                entries.append(_decoder.decode(line))
            except msgspec.DecodeError as error:
                # The last line may be torn by a crash; any other one tells of damage.
                level = logging.INFO if number == len(lines) else logging.WARNING
                _logger.log(level, "Line %d of %s is left out: %s.", number, self._path, error)
        return entries


def _events(entry: Entry) -> list[tuple[int, Event]]:
    return [(at, codec.decode(event, "json")) for at, event in zip(entry.occurred_at, entry.events, strict=True)]


def _kept(store: EventStore, entry: Entry) -> list[tuple[int, Event]]:
    """Those of an entry's events that the log has: in one that was salvaged they may lie at earlier versions."""
    times = set(entry.occurred_at)
    tail = store.read_stream(entry.stream, max(0, store.version(entry.stream) - _TAIL), _TAIL)
    return [(recorded.occurred_at, recorded.data) for recorded in tail if recorded.occurred_at in times]


def dated(append: Append, now: int) -> Append:
    """The append with a time for each event."""
    if append.occurred_at is not None:
        return append
    changed: dict[str, Any] = {"occurred_at": [now] * len(append.events)}
    return msgspec.structs.replace(append, **changed)
