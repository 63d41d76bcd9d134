"""Batches and pages: recorded events as the store holds them, columnar ones as Arrow tables.

`Recorded` objects and encoded bytes of columnar events are made when somebody first asks for them, and once.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast, get_args

import msgspec
import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute as _compute  # pyright: ignore[reportMissingTypeStubs]

from . import codec
from .codec import EVENT_TYPES, Format
from .errors import UndecodableEvent
from .event import Event, EventRejected, Recorded, UnknownEvent, event_type, now_us
from .streams import Admitted, StreamHead
from .wire import RawRecorded

pa: Any = _pyarrow
pc: Any = _compute

Table = Any
"""A `pyarrow.Table`; the library has no type stubs."""

_ARROW = {
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
}


class Column(msgspec.Struct, frozen=True):
    """One column: its DuckDB type, its Arrow type, and the default of the field that it holds."""

    name: str
    sql: str
    arrow: Any
    nullable: bool = False
    default: Any = None


ENVELOPE = (
    Column("position", "UBIGINT", pa.uint64()),
    Column("stream", "VARCHAR", pa.string()),
    Column("version", "UINTEGER", pa.uint32()),
    Column("occurred_at", "BIGINT", pa.int64()),
    Column("recorded_at", "BIGINT", pa.int64()),
)
"""What every columnar event has before its own fields."""

COLD = (
    *ENVELOPE[:3],
    Column("type", "VARCHAR", pa.string()),
    *ENVELOPE[3:],
    Column("actor", "VARCHAR", pa.string(), nullable=True),
    Column("metadata", "JSON", pa.string(), nullable=True),
    Column("data", "JSON", pa.string()),
)
"""The columns of the cold table."""


def _field_columns(cls: type[Event]) -> tuple[Column, ...]:
    found: list[Column] = []
    for field in msgspec.structs.fields(cls):
        nullable = type(None) in get_args(field.type)
        inner = next(arg for arg in get_args(field.type) if arg is not type(None)) if nullable else field.type
        extra = next(
            (meta.extra for meta in getattr(inner, "__metadata__", ()) if isinstance(meta, msgspec.Meta)), None
        )
        if not extra or "column" not in extra or any(field.name == column.name for column in ENVELOPE):
            raise TypeError(f"{cls.__name__}.{field.name}: a columnar event's field needs a column type and own name.")
        sql = cast(str, extra["column"])
        default = None if field.default is msgspec.NODEFAULT else field.default
        found.append(Column(field.name, sql, _ARROW[sql], nullable, default))
    return tuple(found)


FIELDS: dict[str, tuple[Column, ...]] = {name: _field_columns(cls) for name, cls in EVENT_TYPES.items() if cls.columnar}
"""The field columns of every columnar event type."""

_SCHEMAS: dict[str, Any] = {
    name: pa.schema([pa.field(c.name, c.arrow, c.nullable) for c in (*ENVELOPE, *columns)])
    for name, columns in FIELDS.items()
}
ARROW_SCHEMAS: dict[str, Any] = {
    name: pa.schema([pa.field(c.name, c.arrow) for c in (*ENVELOPE, *columns)]) for name, columns in FIELDS.items()
}
"""How the events of every columnar type travel as Arrow."""

_GETTERS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    name: attrgetter(*(c.name for c in columns)) if columns else lambda event: () for name, columns in FIELDS.items()
}
_ENCODERS = {"json": msgspec.json.Encoder(), "msgpack": msgspec.msgpack.Encoder()}

COLD_SCHEMA = pa.schema([pa.field(c.name, c.arrow) for c in COLD])
"""How cold events travel as Arrow."""

_COLD_PART = ""


class Batch:
    """Recorded events of the positions `first`…`last` (all of them, or those that a filter let through).

    `cold` holds the events that are not columnar, in position order, and `columnar` one Arrow table for each columnar
    type: position, stream, version, occurred_at, recorded_at, then the event's fields.
    """

    def __init__(
        self, first: int, last: int, cold: list[Recorded], payloads: list[bytes], columnar: dict[str, Table]
    ) -> None:
        self.first = first
        self.last = last
        self.cold = cold
        self.payloads = payloads
        self.columnar = columnar
        self._recorded: dict[str, list[Recorded]] = {_COLD_PART: cold}
        self._encoded: dict[tuple[str, Format], list[msgspec.Raw]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.cold) + sum(table.num_rows for table in self.columnar.values())

    @property
    def types(self) -> set[str]:
        """The types of the events in it."""
        return {recorded.type for recorded in self.cold} | self.columnar.keys()

    @property
    def size(self) -> int:
        """Bytes that it may come to hold in memory, once decoded and encoded in both formats."""
        rows = sum(table.num_rows for table in self.columnar.values())
        return 1_000 + 1_500 * rows + sum(1_000 + 4 * len(payload) for payload in self.payloads)

    def events(self) -> Iterator[Recorded]:
        """All events in position order."""
        parts = [self.recorded(part) for part in (_COLD_PART, *self.columnar)]
        parts = [part for part in parts if part]
        return iter(parts[0]) if len(parts) == 1 else heapq.merge(*parts, key=attrgetter("position"))

    def recorded(self, part: str) -> list[Recorded]:
        """The events of one columnar type, or the cold ones (`""`)."""
        if part not in self._recorded:
            with self._lock:
                if part not in self._recorded:
                    self._recorded[part] = _from_table(part, self.columnar[part])
        return self._recorded[part]

    def encoded(self, part: str, format: Format) -> list[msgspec.Raw]:
        """The encoded `Recorded`s of one part."""
        key = (part, format)
        if key not in self._encoded:
            recorded = self.recorded(part)
            with self._lock:
                if key not in self._encoded:
                    self._encoded[key] = (
                        [msgspec.Raw(_ENCODERS[format].encode(each)) for each in recorded]
                        if part
                        else [
                            _encode_cold(each, payload, format)
                            for each, payload in zip(recorded, self.payloads, strict=True)
                        ]
                    )
        return self._encoded[key]

    def split(self, size: int) -> list[Batch]:
        """The same as batches of `size` positions each."""
        cold_positions = [recorded.position for recorded in self.cold]
        parts: list[Batch] = []
        for first in range(self.first, self.last + 1, size):
            last = min(self.last, first + size - 1)
            cold = slice(bisect_left(cold_positions, first), bisect_left(cold_positions, last + 1))
            columnar: dict[str, Table] = {}
            for name, table in self.columnar.items():
                start, stop = table["position"].to_numpy().searchsorted([first, last + 1])
                if start < stop:
                    columnar[name] = table.slice(start, stop - start)
            parts.append(Batch(first, last, self.cold[cold], self.payloads[cold], columnar))
        return parts

    def select(
        self, after: int, upto: int, streams: Collection[str] | None, types: Collection[str] | None
    ) -> list[tuple[int, str, int]]:
        """(position, part, index in the part) of the events that match, in position order; None matches all."""
        picks = [
            (recorded.position, _COLD_PART, index)
            for index, recorded in enumerate(self.cold)
            if after < recorded.position <= upto
            and (streams is None or recorded.stream in streams)
            and (types is None or recorded.type in types)
        ]
        mixed = bool(picks)
        for name, table in self.columnar.items():
            if types is not None and name not in types:
                continue
            positions = table["position"].to_numpy()
            wanted = (positions > after) & (positions <= upto)
            if streams is not None:
                wanted &= pc.is_in(table["stream"], value_set=pa.array(list(streams), pa.string())).to_numpy()
            indices = wanted.nonzero()[0]
            picks += [(p, name, i) for p, i in zip(positions[indices].tolist(), indices.tolist(), strict=True)]
            mixed = mixed or len(self.columnar) > 1
        if mixed:
            picks.sort()
        return picks


class Page:
    """What a reader gets at once: the matching events after `after`, everything up to `position` considered."""

    def __init__(self, after: int, position: int, picks: list[tuple[Batch, str, int]]) -> None:
        self.after = after
        self.position = position
        self.picks = picks

    def __len__(self) -> int:
        return len(self.picks)

    @property
    def events(self) -> Sequence[Recorded]:
        """The events in position order."""
        return [batch.recorded(part)[index] for batch, part, index in self.picks]

    def encoded(self, format: Format) -> list[msgspec.Raw]:
        """The events in position order, each an encoded `Recorded`.

        Events that are still among the recent ones are encoded at most once in each format, whoever asks.
        """
        return [batch.encoded(part, format)[index] for batch, part, index in self.picks]


def page_of(
    batches: Sequence[Batch],
    after: int,
    upto: int,
    limit: int,
    streams: Collection[str] | None,
    types: Collection[str] | None,
) -> Page:
    """The first `limit` matching events after `after`, from batches that hold all of the log from there to `upto`."""
    picks: list[tuple[Batch, str, int]] = []
    for batch in batches:
        found = batch.select(after, upto, streams, types)
        room = limit - len(picks)
        picks += [(batch, part, index) for _, part, index in found[:room]]
        if len(found) >= room:
            return Page(after, found[room - 1][0], picks)
    return Page(after, upto, picks)


def batch_of(admitted: Sequence[Admitted]) -> Batch:
    """The batch of events that have just got their places.

    Every cold event is what its stored bytes decode to, so that live and replayed are the same; one that cannot be
    stored raises here, before anything is written.
    """
    recorded_at = now_us()
    cold: list[Recorded] = []
    payloads: list[bytes] = []
    columnar: dict[str, _Rows] = {}
    for run in admitted:
        kinds: set[type[Event]] = set(map(type, run.events))
        kind = next(iter(kinds))
        if len(kinds) == 1 and kind.columnar:
            columnar.setdefault(kind.__name__, _Rows()).extend(run)
            continue
        for offset, event in enumerate(run.events):
            if event.columnar:
                columnar.setdefault(event_type(event), _Rows()).add(run, offset)
                continue
            event, payload = _canonical(event)
            payloads.append(payload)
            cold.append(
                Recorded(
                    position=run.position + offset,
                    stream=run.append.stream,
                    version=run.version + offset,
                    type=event_type(event),
                    occurred_at=run.occurred_at[offset],
                    recorded_at=recorded_at,
                    actor=run.append.actor,
                    metadata=run.append.metadata,
                    data=event,
                )
            )
    last = admitted[-1].position + len(admitted[-1].events) - 1
    tables = {name: rows.table(name, [recorded_at] * len(rows.events)) for name, rows in columnar.items()}
    return Batch(admitted[0].position, last, cold, payloads, tables)


def batch_of_recorded(after: int, page: Sequence[Recorded]) -> Batch:
    """The batch of all events after position `after` up to the last of `page`, as a follower without filters gets them.

    Raises `ValueError` where a position is missing.
    """
    if [recorded.position for recorded in page] != list(range(after + 1, after + 1 + len(page))):
        raise ValueError(f"Position {after + 1} was expected, and all from there on without a hole.")
    cold: list[Recorded] = []
    columnar: dict[str, _Rows] = {}
    recorded_at: dict[str, list[int]] = {}
    for recorded in page:
        if recorded.data.columnar:
            columnar.setdefault(recorded.type, _Rows()).take(recorded)
            recorded_at.setdefault(recorded.type, []).append(recorded.recorded_at)
        else:
            cold.append(recorded)
    payloads = [codec.encode(recorded.data, "json") for recorded in cold]
    tables = {name: rows.table(name, recorded_at[name]) for name, rows in columnar.items()}
    return Batch(after + 1, after + len(page), cold, payloads, tables)


class _Rows:
    """Rows of one columnar type, gathered column by column."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.streams: list[str] = []
        self.versions: list[int] = []
        self.occurred_at: list[int] = []
        self.events: list[Event] = []

    def extend(self, run: Admitted) -> None:
        count = len(run.events)
        self.positions.extend(range(run.position, run.position + count))
        self.streams.extend([run.append.stream] * count)
        self.versions.extend(range(run.version, run.version + count))
        self.occurred_at.extend(run.occurred_at)
        self.events.extend(run.events)

    def add(self, run: Admitted, offset: int) -> None:
        self.positions.append(run.position + offset)
        self.streams.append(run.append.stream)
        self.versions.append(run.version + offset)
        self.occurred_at.append(run.occurred_at[offset])
        self.events.append(run.events[offset])

    def take(self, recorded: Recorded) -> None:
        self.positions.append(recorded.position)
        self.streams.append(recorded.stream)
        self.versions.append(recorded.version)
        self.occurred_at.append(recorded.occurred_at)
        self.events.append(recorded.data)

    def table(self, name: str, recorded_at: Sequence[int]) -> Table:
        values = zip(*map(_GETTERS[name], self.events), strict=True)
        rows = [self.positions, self.streams, self.versions, self.occurred_at, recorded_at]
        columns = (*ENVELOPE, *FIELDS[name])
        arrays = [pa.array(each, c.arrow) for each, c in zip((*rows, *values), columns, strict=True)]
        for array, column in zip(arrays, columns, strict=True):
            if array.null_count and not column.nullable:
                raise ValueError(f"{name}.{column.name} is None; it must be a number.")
        return pa.table(arrays, schema=_SCHEMAS[name])


def _canonical(event: Event) -> tuple[Event, bytes]:
    """A cold event as its stored JSON decodes, and that JSON."""
    try:
        payload = codec.encode(event, "json")
    except (TypeError, ValueError, OverflowError) as error:
        if not isinstance(event, UnknownEvent):
            raise
        # A newer program's event that JSON cannot hold: its bytes are kept instead.
        reason = f"{event.name} cannot be kept as JSON: {error}."
        rejected = EventRejected(raw=codec.encode(event, "msgpack"), reason=reason)
        return rejected, codec.encode(rejected, "json")
    return codec.decode(payload, "json"), payload


def cold_table(batch: Batch) -> Table:
    """The batch's cold events as rows of the cold table."""
    rows = zip(
        *(
            (r.position, r.stream, r.version, r.type, r.occurred_at, r.recorded_at, r.actor, _json(r.metadata), payload)
            for r, payload in zip(batch.cold, batch.payloads, strict=True)
        ),
        strict=True,
    )
    return pa.table([pa.array(each, c.arrow) for each, c in zip(rows, COLD, strict=True)], [c.name for c in COLD])


def from_cold_table(table: Table) -> tuple[list[Recorded], list[bytes]]:
    """The events of rows of the cold table, upcast, and their JSON."""
    columns: list[list[Any]] = [
        (table[c.name].cast(pa.binary()) if c.name == "data" else table[c.name]).to_pylist() for c in COLD
    ]
    cold: list[Recorded] = []
    payloads: list[bytes] = []
    for position, stream, version, stored, occurred_at, recorded_at, actor, metadata, payload in zip(
        *columns, strict=True
    ):
        event = _decode(payload)
        cold.append(
            Recorded(
                position=position,
                stream=stream,
                version=version,
                type=event_type(event),
                occurred_at=occurred_at,
                recorded_at=recorded_at,
                actor=actor,
                metadata=None if metadata is None else msgspec.json.decode(metadata, type=dict[str, str]),
                data=event,
            )
        )
        payloads.append(payload if event_type(event) == stored else codec.encode(event, "json"))
    return cold, payloads


def _decode(payload: bytes) -> Event:
    try:
        return codec.decode(payload, "json")
    except UndecodableEvent as error:
        # Stored by a newer program, or damaged: its place is kept, and readers go on.
        return EventRejected(raw=payload, reason=error.reason)


def _from_table(name: str, table: Table) -> list[Recorded]:
    columns: list[list[Any]] = [column.to_pylist() for column in table.columns]
    names = [column.name for column in FIELDS[name]]
    cls = EVENT_TYPES[name]
    return [
        Recorded(
            position=row[0],
            stream=row[1],
            version=row[2],
            type=name,
            occurred_at=row[3],
            recorded_at=row[4],
            data=cls(**dict(zip(names, row[5:], strict=True))),
        )
        for row in zip(*columns, strict=True)
    ]


def _encode_cold(recorded: Recorded, payload: bytes, format: Format) -> msgspec.Raw:
    if format == "msgpack" and not isinstance(recorded.data, UnknownEvent):
        return msgspec.Raw(_ENCODERS[format].encode(recorded))
    raw = RawRecorded(
        position=recorded.position,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.type,
        occurred_at=recorded.occurred_at,
        recorded_at=recorded.recorded_at,
        actor=recorded.actor,
        metadata=recorded.metadata,
        data=msgspec.Raw(payload if format == "json" else codec.encode(recorded.data, format)),
    )
    return msgspec.Raw(_ENCODERS[format].encode(raw))


def heads_table(heads: Mapping[str, StreamHead]) -> Table:
    """Streams' heads as rows."""
    rows = [(stream, *msgspec.structs.astuple(head)) for stream, head in heads.items()]
    types = (pa.string(), pa.uint32(), pa.uint64(), pa.uint64(), pa.uint32(), pa.uint32())
    names = ["stream", *StreamHead.__struct_fields__]
    return pa.table([pa.array(each, type_) for each, type_ in zip(zip(*rows, strict=True), types, strict=True)], names)


def sorted_by_position(table: Table) -> Table:
    """The rows in position order, which is almost always the order they come in."""
    positions = table["position"].to_numpy()
    return table if (positions[1:] > positions[:-1]).all() else table.sort_by("position")


def _json(metadata: dict[str, str] | None) -> bytes | None:
    return None if metadata is None else msgspec.json.encode(metadata)
