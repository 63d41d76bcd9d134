"""What this machine has to train on, told without torch: by /proc and nvidia-smi."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

_QUERY = "index,name,memory.total,memory.free,utilization.gpu"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Something to train on; `id` is what a configuration's `device` calls it.

    Memory is in bytes, `utilization` 0-1 (of the CPU: the load of the last minute over its cores); None where it
    cannot be told.
    """

    id: str
    kind: str
    name: str
    memory_total: int | None = None
    memory_free: int | None = None
    utilization: float | None = None
    cores: int | None = None


def list_devices() -> list[Device]:
    """The CPU, then every NVIDIA GPU that this process may use. Blocks for up to some seconds where there are GPUs."""
    return [_cpu(), *_gpus()]


def names_to_check(devices: Sequence[Device]) -> list[str] | None:
    """The devices that a configuration may name; None where there may be GPUs that nvidia-smi does not tell of."""
    if len(devices) < 2 and any(Path(path).exists() for path in ("/dev/kfd", "/dev/nvidiactl", "/dev/nvhost-ctrl")):
        return None
    return [device.id for device in devices]


def _cpu() -> Device:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _meminfo()
    return Device(
        id="cpu",
        kind="cpu",
        name=_cpu_name(),
        memory_total=memory.get("MemTotal"),
        memory_free=memory.get("MemAvailable"),
        utilization=round(min(os.getloadavg()[0] / cores, 1.0), 3),
        cores=cores,
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return {}
    sizes: dict[str, int] = {}
    for line in lines:
        key, _, value = line.partition(":")
        sizes[key] = int(value.split()[0]) * 1024
    return sizes


def _gpus() -> list[Device]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return visible(parse(answer.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse(output: str) -> list[Device]:
    """The GPUs in nvidia-smi's comma-separated answer; figures that it does not have become None."""
    found: list[Device] = []
    for line in output.splitlines():
        columns = [column.strip() for column in line.split(",")]
        if len(columns) != 5 or not columns[0].isdigit():
            continue
        index, name, total, free, busy = columns
        found.append(
            Device(
                id=f"cuda:{index}",
                kind="cuda",
                name=name,
                memory_total=_mebibytes(total),
                memory_free=_mebibytes(free),
                utilization=int(busy) / 100 if busy.isdigit() else None,
            )
        )
    return found


def visible(devices: list[Device], mask: str | None) -> list[Device]:
    """The GPUs as a process under `CUDA_VISIBLE_DEVICES` counts them; a mask by other names than indices hides
    which is which, and leaves only their number."""
    if mask is None:
        return devices
    chosen: list[Device] = []
    by_index = {device.id.removeprefix("cuda:"): device for device in devices}
    for place, name in enumerate(part.strip() for part in mask.split(",") if part.strip()):
        if name == "-1":
            break
        device = by_index.get(name)
        if device is None and not name.isdigit() and place < len(devices):
            device = devices[place]
        if device is None:
            break
        chosen.append(msgspec.structs.replace(device, id=f"cuda:{place}"))
    return chosen


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None
