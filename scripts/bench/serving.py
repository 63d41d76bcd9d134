"""A real server in a process of its own, for the benchmarks: log, projections, gate and sockets; a page if wanted."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.server.serve import Running, serve
from core.settings import Settings
from events.client import ServerAddress, read_address
from events.training import StepTrained


@contextlib.contextmanager
def server(*, ui: bool = False) -> Iterator[tuple[ServerAddress, Path, int]]:
    """A server on a new data directory, which is deleted with everything in it; and the server's process id."""
    with tempfile.TemporaryDirectory(prefix="saestudio-bench-") as folder:
        data_dir = Path(folder)
        with server_on(data_dir, ui=ui) as (address, pid):
            yield address, data_dir, pid


@contextlib.contextmanager
def server_on(data_dir: Path, *, ui: bool = False) -> Iterator[tuple[ServerAddress, int]]:
    """A server on a data directory, and its process id."""
    with subprocess.Popen([sys.executable, __file__, str(data_dir), str(int(ui))], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("The server did not start.")
            address = read_address(data_dir)
            assert address is not None
            yield address, process.pid
        finally:
            process.terminate()


def chromium() -> str:
    """Where Chromium is. Raises `SystemExit` where it is not on PATH."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("This needs Chromium on PATH.")
    return found


def peak_memory(pid: int) -> int:
    """The most memory that a process has had so far, in MiB; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) // 1_024


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steps(count: int) -> list[StepTrained]:
    """`count` different steps, all of whose optional fields but the coefficient are set: 12 figures and more."""
    return [
        StepTrained(
            step=number % 50_000 + 1,
            loss=1 / (number + 1.1),
            loss_reconstruction=1 / (number + 1.3),
            loss_sparsity=0.01 / (number + 1),
            loss_auxiliary=0.003 / (number + 1),
            l0=49.7 + number % 7 / 10,
            l0_fraction=0.0121,
            fvu=0.117 / (number % 13 + 1),
            dead_latents=number % 97,
            learning_rate=2.1e-4,
            grad_norm=1.234 / (number % 11 + 1),
            tokens=number * 4_096,
            tokens_per_second=38_000.123 + number % 101,
        )
        for number in range(count)
    ]


def encode_floor(events: list[StepTrained]) -> float:
    """Nanoseconds that MessagePack encoding alone takes for one event."""
    import time

    encode = msgspec.msgpack.Encoder().encode
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter_ns()
        for event in events:
            encode(event)
        best = min(best, (time.perf_counter_ns() - began) / len(events))
    return best


if __name__ == "__main__":

    def ready(_: Running) -> None:
        print("ready", flush=True)

    serve(Settings(data_dir=Path(sys.argv[1]), port=0, ui=sys.argv[2] == "1"), on_ready=ready)
