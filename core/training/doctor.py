"""`python -m core.training.doctor`: what PyTorch is and sees on this machine, as one JSON object.

A process of its own, so that a command line that asks never loads torch.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from typing import Any

import msgspec
import torch

from . import devices


def report() -> dict[str, Any]:
    """PyTorch's build, the driver, every device with its memory in bytes, and what `auto` would choose."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    chosen = devices.choose("auto")
    return {
        "torch": str(torch.__version__),
        "cuda_build": torch.version.cuda,
        "hip_build": torch.version.hip,
        "driver_cuda": _driver_cuda(),
        "cuda_available": available,
        "remarks": [str(warning.message).splitlines()[0] for warning in caught],
        "threads": torch.get_num_threads(),
        "devices": [_cuda(index) for index in range(torch.cuda.device_count() if available else 0)],
        "auto": str(chosen),
        "auto_name": devices.name(chosen),
    }


def _cuda(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_free": free,
        "memory_total": total,
    }


def _driver_cuda() -> str | None:
    """The newest CUDA version that the installed NVIDIA driver can run; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(report()).decode() + "\n")
