"""Folders of activations as somebody else's program would have left them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

DIRECTIONS = 40


def activations(rows: int, width: int, seed: int = 0) -> Tensor:
    """Sparse combinations of fixed directions with a little noise, (rows, width) float32."""
    directions = torch.randn(DIRECTIONS, width, generator=torch.Generator().manual_seed(1_000 + width))
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(rows, DIRECTIONS, generator=generator) < 0.08
    size = torch.rand(rows, DIRECTIONS, generator=generator) + 0.5
    noise = 0.05 * torch.randn(rows, width, generator=generator)
    return (on * size) @ directions + 0.7 + noise


def make_folder(
    folder: Path,
    counts: Sequence[int] = (300, 0, 500, 200),
    *,
    width: int = 16,
    target_width: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """Files `part-1`, `part-2`, … of so many rows; what they hold, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    x = activations(sum(counts), width).to(dtype)
    t = activations(sum(counts), target_width, seed=1).to(dtype) if target_width else None
    start = 0
    for number, count in enumerate(counts, start=1):
        tensors = {"x": x[start : start + count].clone()}
        if t is not None:
            tensors["t"] = t[start : start + count].clone()
        save_file(tensors, folder / f"part-{number}.safetensors")
        start += count
    return x, t
