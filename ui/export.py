"""`python -m ui.export --api URL ID…`: runs in one file that opens anywhere. The API's token is in SAESTUDIO_TOKEN.

`ID~N` stands for a run's SAE number N, alone or beside others; an empty ID leaves a colour out, as on the page.

A process of its own: drawing takes seconds, and neither the dashboard nor the server should wait for it. Its exit
status is one of `EXITS` where there is nothing to write, with the reason as the last line on standard error; any other
one but 0 is a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import report
from .answers import Training
from .gateway import ApiError, ApiRefused, Gateway
from .report import Exported
from .state.compare_asked import Asked
from .state.comparison import MOST

LIMIT = 3_000_000
"""Bytes that a file may have."""

_POINTS = (1000, 500, 240, 120, 60)
"""Points of a run's history, for each SAE: as many as fit. Each keeps the extremes of every metric."""

_LINES = 200
"""Log lines in a file, of all its runs together."""

_NOT_FOUND = 404

UNWRITABLE = 3
"""Exit status where the file cannot be written to its place."""

EXITS = {400: 4, 404: 5, 413: 6, 502: 7, 503: 8}
"""The exit status for each HTTP status that a refusal has. 1 and 2 are Python's and argparse's own."""


class ExportRefused(Exception):
    """There is nothing to write, for the reason that `str()` says; `status` is the HTTP status of such a refusal."""

    def __init__(self, reason: str, status: int) -> None:
        self.status = status
        super().__init__(reason)


async def exported(gateway: Gateway, ids: Sequence[str], *, limit: int = LIMIT) -> bytes:
    """The file of these runs, in at most `limit` bytes. Raises `ExportRefused` and `ApiError`."""
    named = [id for id in ids if id]
    if not named:
        raise ExportRefused("No training was named.", 400)
    if len(named) > MOST:
        raise ExportRefused(f"At most {MOST} trainings go into one file, not {len(named)}.", 400)
    asked = Asked.of({"ids": ",".join(ids)})
    once = list(dict.fromkeys(asked.ids.values()))
    smallest = 0
    for points in _POINTS:
        runs = [await _known(gateway, id, points, _LINES // len(once)) for id in once]
        if len(asked.ids) == 1:
            _look_for(asked.own, runs[0].training)
        file = report.render(runs, asked)
        if len(file) <= limit:
            return file
        smallest = len(file)
    reason = f"The file would have {smallest:,} bytes; at most {limit:,} are allowed. Name fewer trainings."
    raise ExportRefused(reason, 413)


async def _known(gateway: Gateway, id: str, points: int, lines: int) -> Exported:
    try:
        training, position = await gateway.training(id)
    except ApiRefused as refused:
        if refused.status == _NOT_FOUND:
            raise ExportRefused(f"There is no training {id!r}.", 404) from refused
        raise
    history = await gateway.history(id, points=points)
    evaluations = await gateway.evaluations(id)
    log = await gateway.logs(id, limit=lines)
    return Exported(training=training, history=history, evaluations=evaluations.data, lines=log.data, position=position)


def _look_for(own: dict[int, int], training: Training) -> None:
    """Raises `ExportRefused` where the only SAE that is asked for is not there."""
    for sae in own.values():
        if sae >= len(training.saes):
            held = f"its SAEs are 0 to {len(training.saes) - 1}" if training.saes else "it has none yet"
            raise ExportRefused(f"There is no SAE {sae} in training {training.id!r}: {held}.", 404)


async def _fetched(api: str, token: str | None, ids: Sequence[str]) -> bytes:
    gateway = Gateway(api, token)
    try:
        return await exported(gateway, ids)
    finally:
        await gateway.close()


def main() -> int:
    """Write the file. What keeps it from being written is said on standard error, in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m ui.export", description="Runs in one file that opens anywhere.")
    parser.add_argument("--api", required=True, help="the URL of SAE Studio's server")
    parser.add_argument("--out", type=Path, help="the file to be written (default: standard output)")
    parser.add_argument("ids", nargs="+", metavar="ID")
    options = parser.parse_args()
    try:
        file = asyncio.run(_fetched(options.api, os.environ.pop("SAESTUDIO_TOKEN", None), options.ids))
        if options.out is None:
            sys.stdout.buffer.write(file)
        else:
            options.out.write_bytes(file)
    except ExportRefused as refused:
        sys.stderr.write(f"{refused}\n")
        return EXITS[refused.status]
    except ApiError as error:
        sys.stderr.write(f"{error}\n")
        return EXITS[502 if isinstance(error, ApiRefused) else 503]
    except OSError as error:
        sys.stderr.write(f"{options.out} cannot be written: {error.strerror or error}.\n")
        return UNWRITABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
