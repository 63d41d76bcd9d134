"""`saestudio sql`: a question in SQL, asked of the server's replica; the answer as a table, for a pipe or as a file."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from core.api import Api, RequestRefused

from . import output
from .client import connected, failures
from .failure import Failure

_ROWS = {"table": 10_000, "json": 10_000, "csv": 1_000_000, "parquet": 1_000_000, "arrow": 1_000_000}
_BINARY = ("parquet", "arrow")
_AWAY = 503
_PATIENCE = 600.0
"""Seconds that the server's database may take to be filled."""


def sql(options: argparse.Namespace) -> int:
    """Print the answer to a question."""
    if options.schema:
        sys.stdout.write(_schema())
        return 0
    form = "json" if options.json else options.format
    if form in _BINARY and sys.stdout.isatty():
        raise Failure(f"{form} is nothing to read on a screen; write it to a file with '> FILE'.", status=2)
    statement = options.statement if options.statement is not None else sys.stdin.read()
    body = {
        "statement": statement,
        "parameters": dict(map(_value, options.values)),
        "format": "json" if form == "json" else "arrow",
        "limit": options.limit or _ROWS[form],
        "seconds": options.seconds,
    }
    with connected(options) as api, _answer(api, body) as response:
        if form == "json":
            answer = msgspec.json.decode(response.read())
            output.print_json(answer)
            _tell(answer["rows"], answer["cut"], answer["position"], answer["head"])
        else:
            _print(form, response.iter_bytes())
    return 0


def _value(setting: str) -> tuple[str, Any]:
    """`NAME=VALUE`, with numbers, booleans and null as such and all else as text."""
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise Failure(f"--set must be NAME=VALUE, not {setting!r}.", status=2)
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    return name, value if not isinstance(value, dict | list) else text


@contextmanager
def _answer(api: Api, body: dict[str, Any]) -> Iterator[Any]:
    """The server's answer, once its database is there."""
    deadline = time.monotonic() + _PATIENCE
    with output.err().status("Asking") as status, failures():
        while True:
            try:
                with api.streamed("sql", body, timeout=body["seconds"] + 60) as response:
                    status.stop()
                    yield response
                    return
            except RequestRefused as refused:
                if refused.status != _AWAY or time.monotonic() > deadline or "rebuilding" not in str(refused):
                    raise
                status.update(str(refused))
                time.sleep(0.5)


def _print(form: str, chunks: Iterator[bytes]) -> None:
    import pyarrow as pa

    from projections.remote import Body

    copy = sys.stdout.buffer if form == "arrow" else None
    with pa.ipc.open_stream(io.BufferedReader(Body(_copied(chunks, copy)), 1 << 20)) as reader:
        schema, end = reader.schema, {}
        write = _writer(form, schema)
        while True:
            try:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                break
            if metadata is not None and b"rows" in metadata:
                end = dict(metadata.items())
            write(batch)
        if b"error" in end:
            raise Failure(end[b"error"].decode())
        write(None)
    cut = end[b"cut"].decode() if b"cut" in end else None
    _tell(int(end[b"rows"]), cut, int(schema.metadata[b"position"]), int(schema.metadata[b"head"]))


def _copied(chunks: Iterator[bytes], copy: Any) -> Iterator[bytes]:
    for chunk in chunks:
        if copy is not None:
            copy.write(chunk)
        yield chunk


def _writer(form: str, schema: Any) -> Any:
    """Takes batch after batch, and None at the end."""
    from projections.forms import Unfit, Writer

    plain = schema.remove_metadata()
    batches: list[Any] = []
    file = None
    if form in ("csv", "parquet"):
        try:
            file = Writer(form, schema, sys.stdout.buffer)
        except Unfit as unfit:
            raise Failure(str(unfit)) from unfit

    def write(batch: Any) -> None:
        if batch is None:
            if form == "table":
                rows = (row for each in batches for row in zip(*(c.to_pylist() for c in each.columns), strict=True))
                output.print_table(plain.names, [tuple(map(_cell, row)) for row in rows])
            elif file is not None:
                file.close()
        elif form == "table":
            batches.append(batch)
        elif file is not None:
            file.write(batch)

    return write


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return output.number(value, 4)
    return str(value)


def _tell(rows: int, cut: str | None, position: int, head: int) -> None:
    """On standard error, so that a pipe carries the answer only."""
    behind = f"; the log was at {head:,}" if head > position else ""
    counted = "1 row" if rows == 1 else f"{rows:,} rows"
    output.err().print(f"{counted}, true at position {position:,}{behind}.", markup=False)
    if cut:
        output.err().print(cut, markup=False)


def _schema() -> str:
    """The documentation of the views, from the catalogue of an empty database."""
    from projections.questions import page

    return page()
