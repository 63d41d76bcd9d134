"""Activations of a corpus, read in passes: the model's forward pass over a fixed number of rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .hooks import Pair, capture
from .models import LanguageModel
from .tokens import TokenRows

_TOKENS_PER_PASS = {"cuda": 1 << 14}
_TOKENS_PER_PASS_ELSEWHERE = 1 << 12


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
