"""Which device a training runs on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch


class DeviceUnavailable(Exception):
    """The configured device does not exist here; the sentence says what there is."""


def choose(wanted: str) -> torch.device:
    """The device that `wanted` (auto, cpu, cuda, cuda:N) names on this machine.

    auto is the GPU with the most free memory, else the CPU; cuda is that GPU too. Raises `DeviceUnavailable`.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and count == 0:
        return torch.device("cpu")
    if count == 0:
        raise DeviceUnavailable(f"device is {wanted!r}, but torch sees no CUDA device here; use 'cpu' or 'auto'.")
    if wanted.startswith("cuda:"):
        index = int(wanted.removeprefix("cuda:"))
        if index >= count:
            raise DeviceUnavailable(
                f"device is {wanted!r}, but there are {count} CUDA devices here, cuda:0 to cuda:{count - 1}."
            )
        return torch.device("cuda", index)
    return torch.device("cuda", most_free(count))


def most_free(count: int) -> int:
    """The index of the CUDA device with the most free memory, the first of equals."""
    if count == 1:
        return 0
    by_uuid = _free_by_uuid()
    free = [by_uuid.get(_uuid(index)) for index in range(count)]
    if any(amount is None for amount in free):
        # Asking torch costs a context, a few hundred MB, on every device that is asked.
        free = [torch.cuda.mem_get_info(index)[0] for index in range(count)]
    return max(range(count), key=lambda index: (free[index] or 0, -index))


def name(device: torch.device) -> str:
    """The device's name for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model or "CPU"


def _uuid(index: int) -> str:
    return str(getattr(torch.cuda.get_device_properties(index), "uuid", "")).removeprefix("GPU-")


def _free_by_uuid() -> dict[str, int]:
    """Free MiB by device, from the driver's own tool; empty where that cannot be asked."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    try:
        answer = subprocess.run(
            [command, "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    free: dict[str, int] = {}
    for line in answer.stdout.splitlines():
        uuid, _, amount = line.partition(",")
        if amount.strip().isdigit():
            free[uuid.strip().removeprefix("GPU-")] = int(amount)
    return free
