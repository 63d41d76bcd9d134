"""What a page lets people keep as files: metrics as CSV, logs as text, checkpoints and exports as tar archives."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pyarrow import csv as _csv  # pyright: ignore[reportMissingTypeStubs]
from starlette.responses import Response, StreamingResponse

from core import run as runs
from core.decide import Refused
from core.export import ExportError, Format, exported, write
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
    folder = await _own_checkpoint(run_folder, row)
    try:
        archive = await asyncio.to_thread(Archive, folder)
    except FileNotFoundError as error:
        raise _gone(row) from error
    return _tar(archive, f"{name}-step-{row.step}.tar")


async def export_tar(studio: Studio, training_id: str, row: CheckpointRow, name: str, format: Format) -> Response:
    """The checkpoint's SAEs as other programs load them, in a tar archive.

    They are written to disk first, one at a time, so that whatever is wrong is said before anything is sent; what is
    sent has no name on disk any more, so that nothing is left behind however it ends. Raises `Refused` where the
    checkpoint lies elsewhere or cannot be exported, a 404 where it is gone, a 507 on a full disk.
    """
    run_folder = studio.settings.run_folder(training_id)
    checkpoint = await _own_checkpoint(run_folder, row)

    def make() -> Archive:
        studio.settings.exports.mkdir(mode=0o700, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=studio.settings.exports))
        try:
            target = scratch / f"{training_id}-{checkpoint.name}"
            for sae in exported(checkpoint, runs.read(run_folder)):
                write(sae, target, format)
            return Archive(target)
        finally:
            # On a network's disk an open file keeps a name, and its folder stays until the next start: no fault of
            # the export's.
            shutil.rmtree(scratch, ignore_errors=True)

    try:
        archive = await asyncio.to_thread(make)
    except (ExportError, runs.RunSpecError) as error:
        if not checkpoint.is_dir():
            raise _gone(row) from error
        raise Refused(str(error)) from error
    except OSError as error:
        raise ApiError(507, f"The export cannot be written: {error.strerror or error}.") from error
    return _tar(archive, f"{name}-step-{row.step}-{format}.tar")


async def _own_checkpoint(run_folder: Path, row: CheckpointRow) -> Path:
    folder = await asyncio.to_thread(own_checkpoint, run_folder, row.path)
    if folder is None:
        raise Refused(f"This checkpoint lies elsewhere, at {row.path} on {row.host or 'another machine'}.")
    return folder


def _gone(row: CheckpointRow) -> ApiError:
    return ApiError(404, f"The files of the checkpoint of step {row.step} are gone from {row.path}.")


def _tar(archive: Archive, name: str) -> Response:
    headers = {**attachment(name), "Content-Length": str(archive.size)}
    return StreamingResponse(archive.stream(), media_type=TAR, headers=headers)
