"""`saestudio export-html`: trainings in one file that opens anywhere."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from core.api import Api

from . import output
from .client import connected
from .failure import Failure

_REFUSED = 3
"""From this exit status on, the program that draws says in one sentence why it does not."""


def export_html(options: argparse.Namespace) -> int:
    """Write one training, or several side by side, with their charts into one file; `ID~N` is one of its SAEs."""
    with connected(options) as api:
        ids = list(dict.fromkeys(_named(api, one) for one in options.ids))
        address = api.address
    target: Path = options.to or Path(f"{ids[0] if len(ids) == 1 else 'comparison'}.html")
    # The dashboard's own program draws it: this process knows nothing of charts.
    made = subprocess.run(
        [sys.executable, "-P", "-m", "ui.export", "--api", address.url, "--out", str(target), "--", *ids],
        env={**os.environ, **({"SAESTUDIO_TOKEN": address.token} if address.token else {})},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = made.stderr.strip().splitlines()
    if made.returncode >= _REFUSED and said:
        raise Failure(said[-1])
    if made.returncode:
        sys.stderr.write(made.stderr)
        how = f"status {made.returncode}" if made.returncode > 0 else f"signal {-made.returncode}"
        raise Failure(f"{target} could not be made: the program that draws it ended with {how}.")
    size = target.stat().st_size
    if options.json:
        output.print_json({"trainings": ids, "file": str(target), "bytes": size})
        return 0
    output.out().print(f"{target} ({size / 1e6:.1f} MB)", markup=False)
    return 0


def _named(api: Api, said: str) -> str:
    """The id that `said` begins, and after `~` the number of an SAE. Raises `Failure` where that is none."""
    id, tilde, sae = said.partition("~")
    if tilde and not (sae.isascii() and sae.isdigit()):
        raise Failure(f"What stands after ~ in {said!r} is the number of an SAE, counted from 0, not {sae!r}.")
    return api.training_id(id) + tilde + sae
