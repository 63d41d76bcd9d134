"""The shuffle buffer: activations in an order in which neighbours in the text are no longer neighbours.

The buffer holds N tokens in N slots. In every round a permutation of the slots is drawn, the tokens in its first half
are served, and each served token's slot is taken by the next one of the text; so a token waits two rounds on average
before it is served. Everything follows from the seed and from how many tokens were served: a checkpoint holds that
number, and restoring finds out which tokens of the text lie in the buffer and reads them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .hooks import Pair
from .reading import Passes, no_progress
from .tokens import Progress

LARGEST = 1 << 19

# A token survives a round with probability 1/2: that one of the 2^19 survives 64 has probability 10^-14.
_MEMORY = 64
_EMPTY = -1
_UNKNOWN = -2


def buffer_capacity(total_tokens: int, batch_size: int) -> int:
    """Slots of the buffer: min(2^19, a quarter of the budget), in whole batches, at least two of them."""
    batches = min(LARGEST, total_tokens // 4) // (2 * batch_size)
    return min(max(1, batches) * 2 * batch_size, total_tokens)


class ActivationBuffer:
    """Serves the tokens of `reader` as shuffled batches of raw activations at all its pairs.

    `total_tokens`, a multiple of `batch_size`, is all that will ever be served: the first that many tokens of `reader`,
    each exactly once. Batches come in its type, on its device. It is read as batches are served, about as many tokens
    as are taken out, after a first filling.
    """

    def __init__(
        self,
        reader: Passes,
        *,
        batch_size: int,
        total_tokens: int,
        data_seed: int,
        capacity: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if total_tokens < batch_size or total_tokens % batch_size:
            raise ValueError(f"The total of {total_tokens} tokens is not a whole number of batches of {batch_size}.")
        self._reader = reader
        self._batch, self._total, self._seed = batch_size, total_tokens, data_seed
        self._capacity = capacity or buffer_capacity(total_tokens, batch_size)
        self._half = max(self._capacity // (2 * batch_size), 1) * batch_size
        self._report = progress or no_progress
        self._store = {
            pair: torch.zeros(self._capacity, reader.width(pair), dtype=reader.dtype, device=reader.device)
            for pair in reader.pairs
        }
        self._held = np.full(self._capacity, _EMPTY, dtype=np.int64)  # which token of the text a slot holds
        self._served = 0
        self._fetched = 0  # tokens of the text that have been put into slots
        self._pending: dict[Pair, Tensor] = {}  # what the last pass read beyond that
        self._passes = [(0, 0)]  # first token and number of each pass, from the oldest that is still needed
        self._round, self._order = 0, np.arange(self._capacity)
        self._begin_round(0)

    @property
    def tokens_served(self) -> int:
        return self._served

    @property
    def capacity(self) -> int:
        """Number of slots, in tokens."""
        return self._capacity

    @property
    def epoch(self) -> int:
        """How often the text had been read in full when the newest token in the buffer was read."""
        return self._reader.epoch(self._passes[-1][1])

    def next_batch(self) -> dict[Pair, Tensor]:
        """The next batch: raw activations (batch_size, n) for each pair, row i of all of them the same token.

        Raises RuntimeError when all tokens have been served.
        """
        if self._served >= self._total:
            raise RuntimeError(f"All {self._total} tokens have been served.")
        self._fill(min(self._total, self._capacity + self._served))
        number = self._round_of(self._served)
        if number != self._round:
            self._begin_round(number)
        begin = self._served - number * self._half
        slots = self._order[begin : begin + self._batch]
        index = self._index(slots)
        batch = {pair: store.index_select(0, index) for pair, store in self._store.items()}
        self._served += self._batch
        return batch

    def state(self) -> dict[str, Any]:
        """Where the buffer is, for `restore`: small, and made of what JSON knows."""
        self._forget()
        return {
            **self._settings(),
            "rows_per_pass": self._reader.rows_per_pass,
            "tokens_served": self._served,
            "oldest_pass": list(self._passes[0]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Make this buffer continue after the batch that was the last one when `state` was taken.

        The tokens that were in the buffer then are read again: about as many as four times its slots, at most all that
        were ever read. On the CPU the batches that follow are the same bit by bit, given the same number of threads.
        Raises ValueError where the state belongs to other text, another model or other settings.
        """
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f"The training cannot be resumed: its {name.replace('_', ' ')} was {state.get(name)} "
                    f"and is {value} now."
                )
        self._reader = self._reader.resized(int(state["rows_per_pass"]))
        self._served = int(state["tokens_served"])
        self._fetched = min(self._total, self._capacity + self._served)
        self._held = self._held_after(self._served)
        token, number = (int(value) for value in state["oldest_pass"])
        self._passes = [(token, number)]
        self._pending = {}
        slots = np.argsort(self._held, kind="stable")
        tokens = self._held[slots]
        while True:
            first, number = self._passes[-1]
            self._report("Rebuilding the activation buffer", max(0, first - token), self._fetched - token)
            past = first + self._reader.count(number)
            begin, end = np.searchsorted(tokens, [first, past])
            if begin < end or first < self._fetched < past:
                read = self._reader.read(number)
                self._put(slots[begin:end], {pair: read[pair][self._index(tokens[begin:end] - first)] for pair in read})
                if past > self._fetched:
                    self._pending = {pair: values[self._fetched - first :] for pair, values in read.items()}
            self._passes.append((past, number + 1))
            if past >= self._fetched:
                break
        self._begin_round(self._round_of(self._served))

    def _settings(self) -> dict[str, Any]:
        return {
            **self._reader.identity(),
            "batch_size": self._batch,
            "total_tokens": self._total,
            "data_seed": self._seed,
            "capacity": self._capacity,
        }

    # Order

    def _round_of(self, served: int) -> int:
        """The round in which the batch after `served` tokens lies. The last one serves all that is left."""
        last = -(-(self._total - self._capacity) // self._half)
        return min(served // self._half, last)

    def _permutation(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(_mixed(self._seed, number))
        return torch.randperm(self._capacity, generator=generator).numpy()

    def _begin_round(self, number: int) -> None:
        order = self._permutation(number)
        if number > 0 and number == self._round_of(self._total):
            # In the last round slots can be empty that would have held tokens beyond the total.
            order = order[self._held_after(number * self._half)[order] >= 0]
        self._round, self._order = number, order
        self._forget()

    def _forget(self) -> None:
        """Drop the passes that held only tokens that have been served."""
        held = self._held[self._held >= 0]
        oldest = int(held.min()) if len(held) else self._fetched
        while len(self._passes) > 1 and self._passes[1][0] <= oldest:
            del self._passes[0]

    def _held_after(self, served: int) -> np.ndarray:
        """Which token of the text each slot holds after `served` tokens were served and their slots taken again."""
        last = self._round_of(served)
        held = self._replay(max(0, last - _MEMORY), last, served)
        return held if not (held == _UNKNOWN).any() else self._replay(0, last, served)

    def _replay(self, first: int, last: int, served: int) -> np.ndarray:
        held = np.arange(self._capacity) if first == 0 else np.full(self._capacity, _UNKNOWN, dtype=np.int64)
        for number in range(first, last + 1):
            count = self._half if number < last else served - number * self._half
            slots = self._permutation(number)[:count]
            tokens = self._capacity + number * self._half + np.arange(count)
            held[slots] = np.where(tokens < self._total, tokens, _EMPTY)
        return held

    # Filling

    def _fill(self, upto: int) -> None:
        """Put the tokens of the text before number `upto` into their slots."""
        filling = self._fetched < self._capacity
        idle = 0
        while self._fetched < upto:
            if not self._pending:
                token, number = self._passes[-1]
                self._pending = self._reader.read(number)
                read = len(self._pending[self._reader.pairs[0]])
                self._passes.append((token + read, number + 1))
                idle = 0 if read else idle + 1
                if idle * self._reader.rows_per_pass >= 10_000:
                    raise RuntimeError("The text consists of special tokens only; there is nothing to train on.")
                if filling:
                    self._report("Filling the activation buffer", self._fetched, self._capacity)
            waiting = len(self._pending[self._reader.pairs[0]])
            count = min(waiting, upto - self._fetched)
            tokens = np.arange(self._fetched, self._fetched + count)
            if self._fetched < self._capacity:
                tokens = tokens[: self._capacity - self._fetched]
                count, slots = len(tokens), tokens
            else:
                slots = self._order[tokens - self._capacity - self._round * self._half]
            self._put(slots, {pair: values[:count] for pair, values in self._pending.items()})
            self._held[slots] = tokens
            self._pending = {pair: values[count:] for pair, values in self._pending.items() if count < waiting}
            self._fetched += count

    def _put(self, slots: np.ndarray, values: dict[Pair, Tensor]) -> None:
        index = self._index(slots)
        for pair, store in self._store.items():
            store.index_copy_(0, index, values[pair])

    def _index(self, numbers: np.ndarray) -> Tensor:
        index = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
        device = self._reader.device
        return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)


def _mixed(seed: int, number: int) -> int:
    """One seed of two numbers, such that neighbouring ones have nothing in common."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1
