"""Requests that may be repeated: an Idempotency-Key is kept with the event that the request caused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from duckdb import DuckDBPyConnection

from events.streams import CONTROL

from .problems import ApiError

if TYPE_CHECKING:
    from .api.operation import Call

KEY = "idempotency_key"
REQUEST = "request"


class Earlier(msgspec.Struct, frozen=True):
    """The last event that the first request with a key caused."""

    position: int
    stream: str


def metadata(call: Call) -> dict[str, str] | None:
    """What is kept with the events that the request causes; None without a key."""
    if call.key is None:
        return None
    return {KEY: call.key, REQUEST: _digest(call)}


async def seen(call: Call) -> Earlier | None:
    """What the first request with this key caused; None for a new key, and without one.

    Raises a 422 `ApiError` where the key was used for another request.
    """
    if call.key is None:
        return None
    found = await call.studio.query(lambda con: _find(con, call.key or ""))
    if found is None:
        return None
    earlier, digest = found
    if digest != _digest(call):
        raise ApiError(422, f"Idempotency-Key {call.key!r} was used for another request.")
    return earlier


def _find(con: DuckDBPyConnection, key: str) -> tuple[Earlier, str] | None:
    rows = con.execute(
        "SELECT position, stream, metadata ->> ? FROM log_events"
        " WHERE starts_with(stream, ?) AND metadata IS NOT NULL AND metadata ->> ? = ? ORDER BY position DESC LIMIT 1",
        [f"$.{REQUEST}", CONTROL, f"$.{KEY}", key],
    ).fetchall()
    if not rows:
        return None
    position, stream, digest = rows[0]
    return Earlier(position, stream), digest


def _digest(call: Call) -> str:
    request = call.request
    head = f"{request.method} {request.url.path}\n".encode()
    return hashlib.sha256(head + msgspec.json.encode(call.sent, order="sorted")).hexdigest()
