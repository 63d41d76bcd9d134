"""Figures come back for every step, in order and with their own time."""

from __future__ import annotations

import pytest
import torch

from core.training.readback import Direct, Readback, Stamp, readback


def _stamp(step: int) -> Stamp:
    return Stamp(step, occurred_at=1000 + step, tokens=step, tokens_per_second=1.0, device_memory=None)


def _push(ring: Readback, steps: range, device: torch.device) -> None:
    for step in steps:
        ring.push(_stamp(step), [torch.tensor([step, sae], dtype=torch.float64, device=device) for sae in (0.0, 1.0)])


def test_on_the_cpu_every_step_is_there_at_once() -> None:
    ring = readback(torch.device("cpu"), 2, 2)
    assert isinstance(ring, Direct)
    _push(ring, range(1, 4), torch.device("cpu"))
    readings = ring.take()
    assert [reading.stamp.step for reading in readings] == [1, 2, 3]
    assert readings[1].rows == [[2.0, 0.0], [2.0, 1.0]]
    assert ring.drain() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_no_step_is_lost_in_the_ring() -> None:
    device = torch.device("cuda")
    ring = readback(device, 2, 2)
    seen = []
    for start in range(1, 500, 7):
        _push(ring, range(start, start + 7), device)
        seen += ring.take()
    seen += ring.drain()
    assert [reading.stamp.step for reading in seen] == list(range(1, 505))
    assert all(row == [reading.stamp.step, sae] for reading in seen for sae, row in enumerate(reading.rows))
