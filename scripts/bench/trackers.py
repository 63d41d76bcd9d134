#!/usr/bin/env python
"""How fast other trackers take steps of 12 metrics, beside this one, in one run.

    .venv/bin/python scripts/bench/trackers.py [--steps 100000] [--venvs FOLDER]

Each tracker gets a virtual environment of its own (kept in FOLDER where one is named), if its package installs here;
one that does not is left out and named. Each logs the same steps in a row from one process into an empty folder, and is
timed call by call and to the end, when it says that it has finished and everything is on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import encode_floor, server, steps

METRICS = 12

COMMON = f"""
import json, random, sys, time
count, folder = int(sys.argv[1]), sys.argv[2]
draw = random.Random(0)
rows = [{{f"m{{i}}": draw.random() for i in range({METRICS})}} for _ in range(1_000)]
def timed(log, finish):
    times, began = [], time.perf_counter()
    for number in range(count):
        at = time.perf_counter_ns()
        log(rows[number % 1_000], number)
        times.append(time.perf_counter_ns() - at)
    finish()
    took = time.perf_counter() - began
    times.sort()
    print(json.dumps([took, times[count // 2], times[count * 99 // 100]]))
"""

TRACKERS = {
    "goodseed": """
import goodseed
run = goodseed.Run(project="bench/bench", storage="local", log_dir=folder, capture_hardware_metrics=False,
                   capture_stdout=False, capture_stderr=False, capture_traceback=False, git_ref=False)
timed(lambda row, step: run.log_metrics(row, step), run.close)
""",
    "trackio": """
import trackio
trackio.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
timed(lambda row, step: trackio.log(row, step=step), trackio.finish)
""",
    "expman-rs": """
import expman
run = expman.Experiment("bench", base_dir=folder, redirect_console=False, system_metrics_interval_secs=0,
                        heartbeat_interval_secs=0, capture_provenance=False)
timed(lambda row, step: run.log_vector(row, step), run.close)
""",
    "tensorboard": """
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(folder)
def log(row, step):
    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
timed(log, writer.close)
""",
}


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="saestudio-trackers-") as temporary:
        yield Path(temporary)


def installed(name: str, folder: Path) -> Path | None:
    """The Python of a virtual environment with the package; None where that does not install."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary", name]
    done = subprocess.run(command, capture_output=True, check=False)
    return python if done.returncode == 0 else None


def tracker(name: str, python: Path, count: int) -> tuple[float, float, float] | None:
    """Steps a second, and p50 and p99 of a call in µs; None where it fails."""
    with tempfile.TemporaryDirectory(prefix="saestudio-tracker-") as folder:
        # Whatever it keeps at home belongs to this run.
        environment = {**os.environ, "HOME": folder, "TRACKIO_DIR": f"{folder}/trackio"}
        done = subprocess.run(
            [str(python), "-c", COMMON + TRACKERS[name], str(count), folder],
            capture_output=True, text=True, env=environment, cwd=folder, check=False,
        )  # fmt: skip
    try:
        took, p50, p99 = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        print(f"  {name} failed: {done.stderr.strip().rpartition(chr(10))[2][:200]}")
        return None
    return count / took, p50 / 1e3, p99 / 1e3


def ours(count: int) -> float:
    """Steps a second, durable and projected, over the socket."""
    import ingest

    with server() as (address, data_dir, _):
        command = [sys.executable, ingest.__file__, "--produce", address.url, str(data_dir / "trainings"), str(count)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            said, _ = child.communicate("go\n")
    return count / float(said.split()[-2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--venvs", type=Path, help="keep the trackers' environments here")
    options = parser.parse_args()
    floor = encode_floor(steps(20_000))
    print(f"msgspec encoding alone: {1e9 / floor:,.0f} steps/s")
    own = ours(options.steps)
    print(f"{'this one':12} {own:10,.0f} steps/s")
    best = 0.0
    with kept(options.venvs) as folder:
        for name in TRACKERS:
            python = installed(name, folder)
            if python is None:
                print(f"{name:12} does not install here")
                continue
            found = tracker(name, python, options.steps)
            if found is not None:
                rate, p50, p99 = found
                best = max(best, rate)
                print(f"{name:12} {rate:10,.0f} steps/s   a call p50 {p50:8.1f} µs  p99 {p99:9.1f} µs", flush=True)
    if best:
        print(f"this one takes {own / best:.1f} times as many steps as the fastest of them")


if __name__ == "__main__":
    main()
