"""`saestudio doctor`: what a training needs from this machine, and whether it is there."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.text import Text

from core.settings import Settings
from events.disk import OVERRIDE, file_system, is_network

from . import output
from .client import data_dir, running_server
from .server import holder

_LITTLE_SPACE = 5_000_000_000
_NO_SPACE = 500_000_000
_TORCH_TIMEOUT = 120

_PACKAGES = (
    "saestudio", "torch", "transformers", "datasets", "duckdb", "pyarrow", "msgspec", "starlette", "uvicorn",
    "websockets", "panel", "bokeh", "holoviews",
)  # fmt: skip

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found and, where it is not right, what to do."""

    subject: str
    state: Literal["ok", "warning", "problem"]
    text: str


def doctor(options: argparse.Namespace) -> int:
    """Look at everything; 1 where something would keep a training from running."""
    folder = data_dir(options)
    findings = [*_python(), *_machine(), *_storage(folder), *_holder(folder)]
    with output.err().status("Asking PyTorch…"):
        torch, problem = _ask_torch()
    findings += _torch(torch) if torch is not None else [Finding("PyTorch", "problem", problem)]
    versions = {name: _version(name) for name in _PACKAGES}
    if options.json:
        output.print_json({"findings": findings, "torch": torch, "versions": versions, "data_dir": str(folder)})
    else:
        for finding in findings:
            mark, style = _MARKS[finding.state]
            output.out().print(Text.assemble((mark, style), " ", (f"{finding.subject:<15}", "bold"), finding.text))
        listed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        output.out().print(Text.assemble("  ", (f"{'versions':<15}", "bold"), listed))
    return int(any(finding.state == "problem" for finding in findings))


def _python() -> Iterator[Finding]:
    number = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "Python",
        "ok" if fits else "problem",
        f"{number} in {sys.prefix}" if fits else f"{number} in {sys.prefix}; SAE Studio needs 3.11, 3.12 or 3.13.",
    )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("machine", "ok", f"{platform.system()} {platform.machine()}, {cores} cores, {output.size(memory)}")


def _storage(folder: Path) -> Iterator[Finding]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    made = "" if there == folder else " (not made yet)"
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("data directory", "problem", f"{folder}{made}: {there} cannot be written to by this user.")
        return
    yield Finding("data directory", "ok", f"{folder}{made}")
    kind = file_system(there)
    if is_network(kind):
        advice = f"choose a local disk with --data-dir, or set {OVERRIDE}=allow."
        yield Finding("file system", "problem", f"{kind}: locks and fsync over a network cannot be relied on; {advice}")
    elif kind.startswith("fuse") or kind == "9p":
        yield Finding("file system", "warning", f"{kind}: locks and memory maps may be slow; a local disk is better.")
    else:
        yield Finding("file system", "ok", kind or "of an unknown kind")
    free = shutil.disk_usage(there).free
    if free < _NO_SPACE:
        yield Finding("disk", "problem", f"{output.size(free)} free: too little for checkpoints and the log.")
    elif free < _LITTLE_SPACE:
        yield Finding("disk", "warning", f"{output.size(free)} free: keep an eye on the size of checkpoints.")
    else:
        yield Finding("disk", "ok", f"{output.size(free)} free")


def _holder(folder: Path) -> Iterator[Finding]:
    """Who has the data directory."""
    address = running_server(folder)
    if address is not None:
        yield Finding("server", "ok", f"runs at {address.url}")
    elif (held_by := holder(Settings(data_dir=folder))) is not None:
        yield Finding("server", "warning", f"process {held_by.pid} holds the data directory, but no server answers.")
    else:
        yield Finding("server", "ok", "none runs on this data directory")


def _ask_torch() -> tuple[dict[str, Any] | None, str]:
    """What PyTorch reports from a process of its own, or why it cannot."""
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "core.training.doctor"],
            capture_output=True,
            timeout=_TORCH_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"did not answer within {_TORCH_TIMEOUT} seconds."
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "replace").strip().splitlines()
        return None, f"cannot be used: {said[-1] if said else f'exit status {answer.returncode}'}"
    return msgspec.json.decode(answer.stdout), ""


def _torch(torch: dict[str, Any]) -> Iterator[Finding]:
    build, driver = torch["cuda_build"], torch["driver_cuda"]
    built = f"for CUDA {build}" if build else f"for ROCm {torch['hip_build']}" if torch["hip_build"] else "for the CPU"
    version = f"{torch['torch']}, built {built}"
    if torch["cuda_available"] or not driver:
        yield Finding("PyTorch", "ok", version)
    elif build is None:
        yield Finding(
            "PyTorch",
            "problem",
            f"{version}, but there is an NVIDIA driver for CUDA {driver}: a CUDA build of PyTorch would use the GPU.",
        )
    else:
        remark = f" ({torch['remarks'][0]})" if torch["remarks"] else ""
        yield Finding("PyTorch", "problem", f"{version}, but the driver runs CUDA {driver} at most{remark}")
    for device in torch["devices"]:
        memory = f"{output.size(device['memory_free'])} of {output.size(device['memory_total'])} free"
        yield Finding(device["device"], "ok", f"{device['name']}, {memory}")
    count = len(torch["devices"])
    why = "there is no CUDA device" if not count else "it is the only GPU" if count == 1 else "most free memory"
    yield Finding("device = auto", "ok", f"{torch['auto']} ({torch['auto_name']}): {why}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
