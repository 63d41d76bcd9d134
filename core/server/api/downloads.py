"""What a page lets people keep as files: metrics as CSV, logs as text, checkpoints as tar archives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pyarrow import csv as _csv  # pyright: ignore[reportMissingTypeStubs]
from starlette.responses import Response, StreamingResponse

from core.decide import Refused
from projections import logs
from projections.checkpoints import CheckpointRow
from projections.logs import LogRow

from ..files import attachment, own_checkpoint
from ..problems import ApiError
from ..studio import Studio
from ..tar import Archive
from .operation import CSV, TAR, TEXT

csv: Any = _csv

_ROWS_AT_ONCE = 10_000


def metrics_csv(table: Any, name: str) -> Response:
    """Rows of metrics with one header row, as a download called after the training's name."""
    return StreamingResponse(_csv_rows(table), media_type=CSV, headers=attachment(f"{name}-metrics.csv"))


async def _csv_rows(table: Any) -> AsyncIterator[bytes]:
    for start in range(0, max(table.num_rows, 1), _ROWS_AT_ONCE):
        yield await asyncio.to_thread(_as_csv, table.slice(start, _ROWS_AT_ONCE), start == 0)


def _as_csv(part: Any, with_header: bool) -> bytes:
    file = BytesIO()
    csv.write_csv(part, file, csv.WriteOptions(include_header=with_header, quoting_style="needed"))
    return file.getvalue()


async def log_text(
    studio: Studio,
    training_id: str,
    name: str,
    *,
    limit: int | None,
    before: int | None,
    after: int | None,
    level: str | None,
    q: str | None,
    order: str,
) -> Response:
    """The log lines that match, in `order`, as a download; with `limit` the newest of them, as far as it is now."""

    async def read(**bounds: Any) -> list[LogRow]:
        return await studio.query(lambda con: logs.lines(con, training_id, level=level, q=q, **bounds))

    # What is written from now on is not waited for.
    newest = await read(limit=1, before=before, after=after)
    end = newest[0].version + 1 if newest else 0

    async def pages() -> AsyncIterator[bytes]:
        if limit is not None:
            found = await read(limit=limit, before=end, after=after)
            yield _as_text(found[::-1] if order == "asc" else found)
            return
        low, high = after or 0, end
        while found := await read(limit=_ROWS_AT_ONCE, before=high, after=low, order=order):
            yield _as_text(found)
            low, high = (found[-1].version, high) if order == "asc" else (low, found[-1].version)

    return StreamingResponse(pages(), media_type=TEXT, headers=attachment(f"{name}.log"))


def _as_text(lines: list[LogRow]) -> bytes:
    return "".join(f"{_moment(row.timestamp)} {row.level} {row.logger}: {row.message}\n" for row in lines).encode()


def _moment(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us // 1_000 % 1_000:03d}Z"


async def checkpoint_tar(run_folder: Path, row: CheckpointRow, name: str) -> Response:
    """The checkpoint's folder as a tar archive. Raises `Refused` where it lies elsewhere, a 404 where it is gone."""
    folder = await asyncio.to_thread(own_checkpoint, run_folder, row.path)
    if folder is None:
        raise Refused(f"This checkpoint lies elsewhere, at {row.path} on {row.host or 'another machine'}.")
    try:
        archive = await asyncio.to_thread(Archive, folder)
    except FileNotFoundError as error:
        raise ApiError(404, f"The files of the checkpoint of step {row.step} are gone from {row.path}.") from error
    headers = {**attachment(f"{name}-step-{row.step}.tar"), "Content-Length": str(archive.size)}
    return StreamingResponse(archive.stream(), media_type=TAR, headers=headers)
