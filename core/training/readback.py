"""A step's figures on their way from the device to the host, without making either wait.

On CUDA they are written into a ring on the device; a side stream copies a block of steps at a time into pinned memory,
and the host reads a block once its copy is done. On the CPU they are read at once.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_BLOCK_STEPS = 16
_BLOCKS = 4
_MOST_SECONDS = 0.25
"""A block is sent off after this long even if it is not full, so that slow steps are seen live."""


@dataclass(frozen=True)
class Stamp:
    """What the host knew when a step was made; `occurred_at` in µs since 1970."""

    step: int
    occurred_at: int
    tokens: int
    tokens_per_second: float
    device_memory: int | None


@dataclass(frozen=True)
class Reading:
    """A step's figures: `rows[sae][field]`."""

    stamp: Stamp
    rows: list[list[float]]


class Readback(Protocol):
    """Figures go in as device tensors and come out, in order, as numbers."""

    def push(self, stamp: Stamp, figures: list[Tensor]) -> None:
        """A step's figures, one tensor an SAE."""
        ...

    def take(self) -> list[Reading]:
        """The steps whose figures have arrived since the last call."""
        ...

    def drain(self) -> list[Reading]:
        """All steps that have not been taken yet; waits for the device."""
        ...


def readback(device: torch.device, saes: int, fields: int) -> Readback:
    """The way that suits `device`."""
    return DeviceRing(device, saes, fields) if device.type == "cuda" else Direct()


class Direct:
    """Reads at once: on the CPU there is nothing to wait for."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def push(self, stamp: Stamp, figures: list[Tensor]) -> None:
        self._readings.append(Reading(stamp, [row.tolist() for row in figures]))

    def take(self) -> list[Reading]:
        readings, self._readings = self._readings, []
        return readings

    drain = take


class DeviceRing:
    """Blocks of steps on a CUDA device, copied to pinned memory by a stream of their own."""

    def __init__(self, device: torch.device, saes: int, fields: int) -> None:
        shape = (_BLOCKS, _BLOCK_STEPS, saes, fields)
        self._ring = torch.zeros(shape, dtype=torch.float64, device=device)
        self._host = torch.zeros(shape, dtype=torch.float64, pin_memory=True)
        self._stream = torch.cuda.Stream(device)
        self._device = device
        self._block = 0
        self._stamps: list[Stamp] = []
        self._opened = 0.0
        self._under_way: deque[tuple[int, list[Stamp], torch.cuda.Event]] = deque()
        self._readings: list[Reading] = []

    def push(self, stamp: Stamp, figures: list[Tensor]) -> None:
        if not self._stamps:
            self._opened = time.monotonic()
        self._ring[self._block, len(self._stamps)].copy_(torch.stack(figures), non_blocking=True)
        self._stamps.append(stamp)
        if len(self._stamps) == _BLOCK_STEPS or time.monotonic() - self._opened > _MOST_SECONDS:
            self._send()

    def take(self) -> list[Reading]:
        while self._under_way and self._under_way[0][2].query():
            self._collect()
        readings, self._readings = self._readings, []
        return readings

    def drain(self) -> list[Reading]:
        if self._stamps:
            self._send()
        while self._under_way:
            self._under_way[0][2].synchronize()
            self._collect()
        return self.take()

    def _send(self) -> None:
        block, stamps = self._block, self._stamps
        written = torch.cuda.Event()
        written.record(torch.cuda.current_stream(self._device))
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(written)
            self._host[block].copy_(self._ring[block], non_blocking=True)
            copied.record(self._stream)
        self._under_way.append((block, stamps, copied))
        self._block = (block + 1) % _BLOCKS
        self._stamps = []
        while self._under_way and any(waiting == self._block for waiting, _, _ in self._under_way):
            # The host is a whole ring ahead of the device: the block must be read before it is written again.
            self._under_way[0][2].synchronize()
            self._collect()

    def _collect(self) -> None:
        block, stamps, _ = self._under_way.popleft()
        rows = self._host[block, : len(stamps)].tolist()
        self._readings.extend(Reading(stamp, row) for stamp, row in zip(stamps, rows, strict=True))
