"""Activations, read in passes: of a corpus, by the model's forward pass over a fixed number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from .hooks import Pair, capture
from .models import LanguageModel
from .tokens import TokenRows

_TOKENS_PER_PASS = {"cuda": 1 << 14}
_TOKENS_PER_PASS_ELSEWHERE = 1 << 12


class Passes(Protocol):
    """Activations at `pairs` in an order that is always the same, without end, pass by pass of `rows_per_pass` rows."""

    @property
    def pairs(self) -> tuple[Pair, ...]: ...
    @property
    def rows_per_pass(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def tokens(self) -> int | None:
        """How many different ones there are; None where that is not known."""
        ...

    def width(self, pair: Pair, /) -> int:
        """n at `pair`."""
        ...

    def count(self, number: int, /) -> int:
        """How many tokens pass `number` has, without reading it."""
        ...

    def read(self, number: int, /) -> dict[Pair, Tensor]:
        """Activations (tokens, n) of pass `number`, in `dtype` on `device`: the same bits every time."""
        ...

    def epoch(self, number: int, /) -> int:
        """How often all had been read in full before pass `number`."""
        ...

    def identity(self) -> dict[str, Any]:
        """What has to be the same for passes to be the same, as JSON holds it, by words for people."""
        ...

    def resized(self, rows_per_pass: int, /) -> Self:
        """The same activations in passes of another size."""
        ...


class ActivationReader:
    """Reads the activations of all kept tokens at `pairs`, pass by pass.

    Pass p is always rows p·R to (p+1)·R - 1 in one batch of the same shape, so that reading it again gives the same
    bits on the same device (a token's values depend in their last bits on its place in the batch).
    """

    def __init__(
        self, lm: LanguageModel, rows: TokenRows, pairs: Sequence[Pair], rows_per_pass: int | None = None
    ) -> None:
        self.lm, self.rows, self.pairs = lm, rows, tuple(dict.fromkeys(pairs))
        most = _TOKENS_PER_PASS.get(lm.device.type, _TOKENS_PER_PASS_ELSEWHERE)
        self.rows_per_pass = rows_per_pass or max(1, most // rows.context_size)

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def tokens(self) -> int | None:
        return None

    def width(self, pair: Pair) -> int:
        return self.lm.facts.hidden_dim

    def epoch(self, number: int) -> int:
        return self.rows.epoch(number * self.rows_per_pass)

    def identity(self) -> dict[str, Any]:
        facts = self.lm.facts
        return {
            "data": self.rows.fingerprint,
            "model": [facts.family, facts.layers, facts.hidden_dim, facts.parameters, facts.revision],
            "hooks": [f"{layer}.{hook}" for layer, hook in self.pairs],
        }

    def resized(self, rows_per_pass: int) -> ActivationReader:
        return ActivationReader(self.lm, self.rows, self.pairs, rows_per_pass)

    def of(self, pairs: Sequence[Pair]) -> ActivationReader:
        """The same passes at other layers and hooks."""
        return ActivationReader(self.lm, self.rows, pairs, self.rows_per_pass)

    def count(self, number: int) -> int:
        """How many tokens are kept of pass `number`; needs no forward pass."""
        return int(self.rows.kept(self._tokens(number)).sum())

    def read(self, number: int) -> dict[Pair, Tensor]:
        """Activations (kept tokens, n) of pass `number`, in the order of the text, in the model's type and device."""
        tokens = self._tokens(number)
        # Chosen on the CPU, where the tokens are: boolean indexing on the device would wait for it.
        kept = self.rows.kept(tokens).flatten().nonzero().squeeze(1)
        found = capture(self.lm, self._to_device(tokens), self.pairs)
        chosen = self._to_device(kept)
        return {pair: value.flatten(0, 1).index_select(0, chosen) for pair, value in found.items()}

    def _tokens(self, number: int) -> Tensor:
        return self.rows.rows(number * self.rows_per_pass, self.rows_per_pass)

    def _to_device(self, values: Tensor) -> Tensor:
        device = self.lm.device
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def no_progress(what: str, done: int, total: int | None) -> None:
    """The progress of one who does not ask for it."""
