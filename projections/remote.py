"""Old events of a server's log, fetched as Arrow in ranges of positions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]

from events.batch import FIELDS, Batch, from_cold_table
from events.client import ServerAddress
from events.errors import EventLogError

pa: Any = _pyarrow

EVENTS_PATH = "/api/v1/events"
HEALTH_PATH = "/healthz"

_SECONDS = 60.0
_CONFLICT = 409


class RemoteRefused(EventLogError):
    """The server will not let this client read its log."""


class OtherLog(EventLogError):
    """The server's log is another incarnation than the one that was asked for."""


class Remote:
    """Reads a server's log. Raises `httpx.TransportError` while nobody answers, and `RemoteRefused`."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        token = address.token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # Environment variables that name a proxy are meant for other hosts than this one.
        local = urlsplit(address.url).hostname in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(headers=headers, timeout=_SECONDS, trust_env=not local)

    def close(self) -> None:
        self._client.close()

    def health(self) -> tuple[str, int]:
        """The log's id and its head."""
        answer = self._client.get(self.address.url + HEALTH_PATH)
        _checked(answer)
        found = answer.json()
        return found["log_id"], found["head"]

    def batch(self, log_id: str, after: int, upto: int) -> Batch:
        """All events at positions after `after` up to `upto`. Raises `OtherLog`."""
        cold, payloads = from_cold_table(self._table(log_id, after, upto, None))
        columnar = {name: self._table(log_id, after, upto, name) for name in FIELDS}
        return Batch(after + 1, upto, cold, payloads, {name: each for name, each in columnar.items() if each.num_rows})

    def _table(self, log_id: str, after: int, upto: int, type_: str | None) -> Any:
        query: dict[str, str | int] = {"after": after, "upto": upto, "format": "arrow"}
        if type_ is not None:
            query["type"] = type_
        with self._client.stream("GET", self.address.url + EVENTS_PATH, params=query) as answer:
            if answer.status_code == _CONFLICT:
                raise OtherLog(f"The log ends before position {after}.")
            _checked(answer)
            try:
                with pa.ipc.open_stream(io.BufferedReader(Body(answer.iter_bytes()), 1 << 20)) as reader:
                    table = reader.read_all()
            except pa.ArrowInvalid as error:
                raise httpx.RemoteProtocolError(f"The answer is not a whole Arrow stream: {error}") from error
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        if metadata.get(b"log_id") != log_id.encode() or metadata.get(b"position") != str(upto).encode():
            raise OtherLog(f"The log is not {log_id} any more.")
        return table.replace_schema_metadata(None)


class Body(io.RawIOBase):
    """An answer's body as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _checked(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    if answer.status_code >= 500:
        raise httpx.RemoteProtocolError(f"The server answered {answer.status_code}.")
    answer.read()
    try:
        reason = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        reason = f"It answered {answer.status_code} {answer.reason_phrase}."
    raise RemoteRefused(f"The server at {answer.url.host} refuses: {reason}")
