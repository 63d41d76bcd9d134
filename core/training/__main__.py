"""`python -m core.training RUN_FOLDER [--resume] [--progress]`: one training, in a process of its own.

Ends with 0 when the training is completed, paused or stopped, with 1 when it failed, and with 75 when another process
holds the run folder.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the trainer; the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.training", description="Run one training.")
    parser.add_argument("folder", type=Path, help="the run folder, with its run.json")
    parser.add_argument("--resume", action="store_true", help="go on from the newest valid checkpoint")
    parser.add_argument("--progress", action="store_true", help="print progress as JSON lines")
    chosen = parser.parse_args(arguments)
    faulthandler.enable()
    # Beside a server and a browser on the same cores, threads that spin while they wait take the time of those that
    # work; torch's pool must be told before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from .process import run

    return run(chosen.folder.absolute(), resume=chosen.resume, progress=sys.stdout if chosen.progress else None)


if __name__ == "__main__":
    sys.exit(main())
