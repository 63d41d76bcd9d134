"""`saestudio replicate`: a DuckDB file with everything that a server's log holds, for any tool that reads DuckDB."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from . import output
from .client import data_dir, find_server, no_server
from .failure import Failure

if TYPE_CHECKING:
    from projections.replica import Standing


def replicate(options: argparse.Namespace) -> int:
    """Bring a replica up to the log's head; with `--follow` keep it there until Ctrl-C."""
    from projections.replica import Replica, ReplicaFailed

    address = find_server(options)
    if address is None:
        raise Failure(no_server(data_dir(options)))
    file: Path = options.db.expanduser().absolute()
    try:
        with Replica(address, file) as replica:
            with output.bar("replicate", quiet=options.json) as show:
                while not replica.wait(timeout=0.2):
                    standing = replica.standing
                    if standing.away is not None and not standing.head:
                        raise Failure(standing.away)
                    show(standing.share)
            _tell(options, file, replica.standing)
            if options.follow:
                if not options.json:
                    output.err().print("Following; Ctrl-C ends it, and then the file can be opened.", markup=False)
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        replica.wait(2**63, timeout=60)
                _tell(options, file, replica.standing)
    except ReplicaFailed as error:
        raise Failure(str(error)) from error
    return 0


def _tell(options: argparse.Namespace, file: Path, standing: Standing) -> None:
    if options.json:
        output.print_json({"db": str(file), **msgspec.to_builtins(standing)})
    else:
        output.out().print(f"{file} holds the log up to position {standing.position:,}.", markup=False)
