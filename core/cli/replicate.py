"""`saestudio replicate`: a DuckDB file with everything that a server's log holds. `export-data`: as Parquet files."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from . import output
from .client import data_dir, find_server, no_server
from .failure import Failure

if TYPE_CHECKING:
    from projections.replica import Replica, Standing


LONGEST_AWAY = 10.0
"""Seconds after which a server that does not answer ends a command that waits for it."""

REPLICA = ".replica.duckdb"
"""What an export keeps in its folder, so that the next one asks the server for the rest only."""


def replicate(options: argparse.Namespace) -> int:
    """Bring a replica up to the log's head; with `--follow` keep it there until Ctrl-C."""
    file: Path = options.db.expanduser().absolute()
    with _filled(options, file) as replica:
        if options.follow:
            # From the first word on: whoever reads it may end this at once.
            with contextlib.suppress(KeyboardInterrupt):
                _tell(options, file, replica.standing)
                if not options.json:
                    output.err().print("Following; Ctrl-C ends it, and then the file can be opened.", markup=False)
                while True:
                    replica.wait(2**63, timeout=60)
        _tell(options, file, replica.standing)
    return 0


def export_data(options: argparse.Namespace) -> int:
    """Write every training's metrics and all else as Parquet files, or what has changed since the last time."""
    from projections.exporting import ExportRefused, export

    folder: Path = options.to.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _filled(options, folder / REPLICA) as replica, output.bar("export", quiet=options.json) as show:
            manifest, written = export(replica, folder, output.share(show))
    except (ExportRefused, OSError) as error:
        raise Failure(f"{folder} cannot be exported to: {error}") from error
    if options.json:
        output.print_json({"folder": str(folder), "written": written, **msgspec.to_builtins(manifest)})
    else:
        output.out().print(
            f"{folder} holds the log up to position {manifest.position:,}: {len(manifest.metrics):,} trainings' metrics"
            f" and {len(manifest.views)} other files, {written:,} of all written now.",
            markup=False,
        )
    return 0


@contextlib.contextmanager
def _filled(options: argparse.Namespace, file: Path) -> Iterator[Replica]:
    """A replica of the server's log in a file, up to its head."""
    from projections.replica import Replica, ReplicaFailed

    address = find_server(options)
    if address is None:
        raise Failure(no_server(data_dir(options)))
    try:
        with Replica(address, file) as replica:
            with output.bar("replicate", quiet=options.json) as show:
                heard = time.monotonic()
                while not replica.wait(timeout=0.2):
                    standing = replica.standing
                    if standing.away is None:
                        heard = time.monotonic()
                    elif not standing.head or time.monotonic() - heard > LONGEST_AWAY:
                        raise Failure(standing.away)
                    show(standing.share)
            yield replica
    except ReplicaFailed as error:
        raise Failure(str(error)) from error


def _tell(options: argparse.Namespace, file: Path, standing: Standing) -> None:
    if options.json:
        output.print_json({"db": str(file), **msgspec.to_builtins(standing)})
    else:
        output.out().print(f"{file} holds the log up to position {standing.position:,}.", markup=False)
