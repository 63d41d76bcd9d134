"""Batches of stored activations: shuffled, or in the order of the files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .buffer import ActivationBuffer, buffer_capacity
from .hooks import Pair
from .sources import BUFFER_BYTES, StoredActivations
from .stored import StoredRows
from .tokens import Progress

_BLOCK_ROWS = 4_096
_BLOCK_BYTES = 16 << 20

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class _Reading:
    """Rows of an opened folder by pair, as tensors: `pairs` names `x` and, where it is read, `t`."""

    def __init__(self, rows: StoredRows, pairs: Sequence[Pair], device: torch.device) -> None:
        self.rows, self.pairs, self.device = rows, tuple(pairs), device
        self.dtype = _DTYPES[rows.facts.dtype]

    def read(self, start: int, count: int) -> dict[Pair, Tensor]:
        return {
            pair: self._tensor(self.rows.read(start, count, target=index > 0)) for index, pair in enumerate(self.pairs)
        }

    def identity(self) -> dict[str, Any]:
        return {"data": self.rows.fingerprint, "hooks": [f"{layer}.{hook}" for layer, hook in self.pairs]}

    def _tensor(self, values: np.ndarray) -> Tensor:
        found = torch.from_numpy(values)
        if found.dtype != self.dtype:
            found = found.view(self.dtype)
        return found.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else found


class StoredPasses:
    """The rows that can be trained on, again and again, in blocks of neighbours in another order every time."""

    def __init__(
        self,
        rows: StoredRows,
        pairs: Sequence[Pair],
        device: torch.device,
        data_seed: int,
        rows_per_pass: int | None = None,
    ) -> None:
        facts = rows.facts
        self._reading = _Reading(rows, pairs, device)
        self._seed = data_seed
        self._rows = facts.training_rows
        self.rows_per_pass = rows_per_pass or min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // facts.row_bytes))
        self._blocks = -(-self._rows // self.rows_per_pass)
        self._order = lru_cache(maxsize=4)(self._order_of)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self._reading.pairs

    @property
    def dtype(self) -> torch.dtype:
        return self._reading.dtype

    @property
    def device(self) -> torch.device:
        return self._reading.device

    @property
    def tokens(self) -> int | None:
        return self._rows

    def width(self, pair: Pair) -> int:
        facts = self._reading.rows.facts
        width = facts.width if pair == self.pairs[0] else facts.target_width
        assert width is not None
        return width

    def count(self, number: int) -> int:
        return min(self.rows_per_pass, self._rows - self._start(number))

    def read(self, number: int) -> dict[Pair, Tensor]:
        return self._reading.read(self._start(number), self.count(number))

    def epoch(self, number: int) -> int:
        return number // self._blocks

    def identity(self) -> dict[str, Any]:
        return self._reading.identity()

    def resized(self, rows_per_pass: int) -> StoredPasses:
        return StoredPasses(self._reading.rows, self.pairs, self.device, self._seed, rows_per_pass)

    def _start(self, number: int) -> int:
        epoch, position = divmod(number, self._blocks)
        return int(self._order(epoch)[position]) * self.rows_per_pass

    def _order_of(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 3, epoch]).permutation(self._blocks)


class FileOrder:
    """Serves the rows that can be trained on in the order of the files, again from the first after the last."""

    def __init__(self, rows: StoredRows, pairs: Sequence[Pair], device: torch.device, *, batch_size: int) -> None:
        self._reading = _Reading(rows, pairs, device)
        self._rows = rows.facts.training_rows
        self._batch = batch_size
        self._served = 0

    def next_batch(self) -> dict[Pair, Tensor]:
        parts: list[dict[Pair, Tensor]] = []
        missing = self._batch
        while missing:
            start = (self._served + self._batch - missing) % self._rows
            some = min(missing, self._rows - start)
            parts.append(self._reading.read(start, some))
            missing -= some
        self._served += self._batch
        if len(parts) == 1:
            return parts[0]
        return {pair: torch.cat([part[pair] for part in parts]) for pair in self._reading.pairs}

    def state(self) -> dict[str, Any]:
        return {**self._settings(), "rows_served": self._served}

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f"The training cannot be resumed: its {name.replace('_', ' ')} was {state.get(name)} "
                    f"and is {value} now."
                )
        self._served = int(state["rows_served"])

    def _settings(self) -> dict[str, Any]:
        return {**self._reading.identity(), "batch_size": self._batch}


def shuffled(
    passes: StoredPasses,
    facts: StoredActivations,
    *,
    batch_size: int,
    total_tokens: int,
    data_seed: int,
    progress: Progress | None = None,
) -> ActivationBuffer:
    """Batches of stored rows that were far apart: blocks in a drawn order, mixed in a buffer."""
    return ActivationBuffer(
        passes,
        batch_size=batch_size,
        total_tokens=total_tokens,
        data_seed=data_seed,
        capacity=stored_capacity(facts, total_tokens, batch_size),
        progress=progress,
    )


def stored_capacity(facts: StoredActivations, total_tokens: int, batch_size: int) -> int:
    """Slots of the shuffle buffer: those of a corpus, fewer where rows are so wide that they would not fit."""
    slots = buffer_capacity(total_tokens, batch_size)
    affordable = max(1, BUFFER_BYTES // (facts.row_bytes * 2 * batch_size)) * 2 * batch_size
    return min(slots, affordable)
