"""Which device a configuration gets."""

from __future__ import annotations

import pytest
import torch

from core.training import devices


class _Gpus:
    """A machine with GPUs of this much free memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(devices, "_free_by_uuid", lambda: {f"u{index}": each for index, each in enumerate(free)})
        monkeypatch.setattr(devices, "_uuid", lambda index: f"u{index}")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _Gpus(monkeypatch)
    assert devices.choose("auto") == devices.choose("cpu") == torch.device("cpu")
    with pytest.raises(devices.DeviceUnavailable, match="no CUDA device"):
        devices.choose("cuda:0")


def test_auto_is_the_gpu_with_the_most_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _Gpus(monkeypatch, 10, 40, 30)
    assert devices.choose("auto") == devices.choose("cuda") == torch.device("cuda", 1)
    assert devices.choose("cuda:2") == torch.device("cuda", 2)
    assert devices.choose("cpu") == torch.device("cpu")
    with pytest.raises(devices.DeviceUnavailable, match="cuda:0 to cuda:2"):
        devices.choose("cuda:3")


def test_the_device_has_a_name_for_people() -> None:
    assert devices.name(torch.device("cpu"))
