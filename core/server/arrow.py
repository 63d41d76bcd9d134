"""Answers as Arrow IPC streams, a piece at a time: what a client has not read yet costs no memory here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]

pa: Any = _pyarrow

ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = {"arrow": ARROW, "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


class Pieces:
    """A file for a writer of whole files, which gives what has been written since it was last asked."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def encoded(schema: Any, batches: Iterator[Any]) -> Iterator[bytes]:
    """The stream of record batches or tables, a piece for each; a pair is a batch and its own metadata.

    The schema comes with the first piece, so that whatever is wrong from the beginning is known before it.
    """
    pieces = Pieces()
    with pa.ipc.new_stream(pieces, schema) as writer:
        for batch in batches:
            if isinstance(batch, tuple):
                writer.write_batch(batch[0], custom_metadata=batch[1])
            else:
                writer.write(batch)
            yield pieces.take()
    yield pieces.take()


async def in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, each made in a thread when the one before has been taken."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
