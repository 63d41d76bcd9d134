"""What an SAE is worth on text that it never saw: reconstruction, latents, and the language model with it spliced in.

Time is bounded: a `Budget` says how many held-out tokens are read and after how many seconds the evaluation makes do
with what it has. Interim evaluations are small, the last one large; both read the held-out rows from the first on, so
that evaluations of one size can be compared.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from core.sae.autoencoder import Code
from events.training import EvaluationMade

from .affine import AffineFit
from .student import Pair, Student

if TYPE_CHECKING:
    from core.activations.models import LanguageModel

Verdict = Literal["good", "watch", "bad"]

BINS = 60
LOWEST = -7.0
DENSE = 0.1
"""A latent that fires for more than this share of tokens is dense."""
DUPLICATE = 0.9
"""Decoder rows with a larger cosine are near-duplicates."""

_CHUNK_TOKENS = 8_192
_CHUNK_LOGITS = 1 << 25
_DUPLICATE_PRODUCTS = {"cpu": 10**12, "cuda": 10**14}


class Budget(NamedTuple):
    """At most this many tokens for reconstruction and for the language model's loss, and about this many seconds."""

    tokens: int
    loss_tokens: int
    seconds: float


_BUDGETS = {
    ("cpu", False): Budget(16_384, 4_096, 10.0),
    ("cpu", True): Budget(65_536, 16_384, 60.0),
    ("cuda", False): Budget(131_072, 32_768, 20.0),
    ("cuda", True): Budget(1_048_576, 131_072, 300.0),
}


def budget(device: torch.device, *, last: bool) -> Budget:
    """What an evaluation may cost on `device`; the `last` of a training may cost more."""
    return _BUDGETS["cuda" if device.type == "cuda" else "cpu", last]


class HeldOut(Protocol):
    """Rows of token ids (n, C) that training never reads."""

    @property
    def context_size(self) -> int: ...
    def rows(self, start: int, count: int, /) -> Tensor: ...
    def available(self, limit: int) -> int: ...
    def kept(self, rows: Tensor) -> Tensor: ...


@dataclass
class _Sums:
    """Sums over tokens of one SAE, in float64 and raw units."""

    error: Tensor
    target: Tensor
    target_square: Tensor
    output_square: Tensor
    product: Tensor
    fired: Tensor
    affine: AffineFit | None
    """What a map without latents would leave unexplained, shared by all SAEs of the same source and target; None for
    an autoencoder, which could copy."""

    @classmethod
    def zero(cls, student: Student, affine: AffineFit | None, device: torch.device) -> _Sums:
        sae, width = student.sae, student.width

        def scalar() -> Tensor:
            return torch.zeros((), dtype=torch.float64, device=device)

        return cls(
            error=scalar(),
            target=torch.zeros(width, dtype=torch.float64, device=device),
            target_square=scalar(),
            output_square=scalar(),
            product=scalar(),
            fired=torch.zeros(sae.latents, dtype=torch.int64, device=device),
            affine=affine,
        )

    def add(self, target: Tensor, output: Tensor, code: Code) -> None:
        target, output = target.double(), output.double()
        self.error += (target - output).square().sum()
        self.target += target.sum(dim=0)
        self.target_square += target.square().sum()
        self.output_square += output.square().sum()
        self.product += (target * output).sum()
        self.fired.index_add_(0, code.active.col, (code.values > 0).to(torch.int64))


class Losses(NamedTuple):
    """The language model's cross-entropies and divergence with one SAE's hook replaced, nats per token."""

    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float


class Evaluating(ABC):
    """Evaluates the SAEs of a training on activations that it never reads."""

    caveats: ClassVar[tuple[str, ...]] = ()
    """What every verdict has to say besides."""

    def __init__(self, students: Sequence[Student], device: torch.device) -> None:
        self._students = tuple(students)
        self._device = device

    @torch.no_grad()
    def run(self, step: int, limits: Budget, interrupted: Callable[[], bool] = lambda: False) -> list[EvaluationMade]:
        """One event an SAE; none where there is no held-out text or `interrupted()` became true meanwhile."""
        deadline = time.monotonic() + limits.seconds
        sums, tokens = self._reconstruct(limits.tokens, time.monotonic() + limits.seconds / 2, interrupted)
        if tokens == 0 or interrupted():
            return []
        means = [each.target / tokens for each in sums]
        losses = self._language_model(limits.loss_tokens, deadline, means, interrupted)
        if interrupted():
            return []
        return [
            self._event(step, index, student, sums[index], tokens, losses[index] if losses else None)
            for index, student in enumerate(self._students)
        ]

    def _reconstruct(self, limit: int, deadline: float, interrupted: Callable[[], bool]) -> tuple[list[_Sums], int]:
        students = self._students
        affine = {
            (student.pair, student.target): AffineFit(student.source_width, student.width, self._device)
            for student in students
            if not student.sae.autoencoder
        }
        sums = [_Sums.zero(one, affine.get((one.pair, one.target)), self._device) for one in students]
        tokens = 0
        for raw in self._batches(limit):
            for student, each in zip(students, sums, strict=True):
                output, code = student.reconstruct(raw[student.pair])
                each.add(raw[student.target], output, code)
            for (source, target), fit in affine.items():
                fit.add(raw[source], raw[target])
            tokens += len(raw[students[0].pair])
            if time.monotonic() > deadline or interrupted():
                break
        return sums, tokens

    @abstractmethod
    def _batches(self, limit: int) -> Iterator[Mapping[Pair, Tensor]]:
        """About `limit` held-out activations, (B, n) by pair, raw and in float32, always the same."""

    def _language_model(
        self, limit: int, deadline: float, means: list[Tensor], interrupted: Callable[[], bool]
    ) -> list[Losses]:
        """What the language model makes of each SAE in place of its hook; nothing where there is no such model."""
        return []

    def _event(
        self, step: int, index: int, student: Student, sums: _Sums, tokens: int, losses: Losses | None
    ) -> EvaluationMade:
        sae = student.sae
        variation = float(sums.target_square - sums.target.square().sum() / tokens)
        fvu = _finite(float(sums.error) / variation) if variation > 0 else None
        l0 = float(sums.fired.sum()) / tokens
        product = float(sums.product)
        density = sums.fired.double() / tokens
        recovered = None
        if losses is not None and losses.zero > losses.clean:
            recovered = _finite((losses.zero - losses.spliced) / (losses.zero - losses.clean))
        dead = int(sae.firing.count_dead())
        left = None if sums.affine is None else sums.affine.fvu()
        affine = None if left is None else _finite(left)
        judgement, reasons = verdict(
            recovered=recovered,
            dead_share=dead / sae.latents,
            l0=l0,
            wanted_l0=sae.wanted_l0,
            fvu=fvu,
            fvu_affine=affine,
            diverged=student.diverged,
        )
        return EvaluationMade(
            step=step,
            sae=index,
            tokens=tokens,
            fvu=fvu,
            fvu_affine=affine,
            l0=l0,
            dead_latents=dead,
            dense_latents=int((density > DENSE).sum()),
            duplicate_latents=duplicates(sae.W_dec.detach()),
            ce_clean=losses.clean if losses else None,
            ce_spliced=losses.spliced if losses else None,
            ce_ablated_zero=losses.zero if losses else None,
            ce_ablated_mean=losses.mean if losses else None,
            kl_spliced=losses.kl if losses else None,
            loss_recovered=recovered,
            shrinkage=float(sums.output_square) / product if product > 0 else None,
            density_histogram=histogram(density),
            verdict=judgement,
            reasons=(*reasons, *self.caveats),
            diverged=student.diverged is not None,
        )


class Evaluation(Evaluating):
    """Evaluates on held-out rows of text, which the language model reads."""

    def __init__(self, lm: LanguageModel, rows: HeldOut, students: Sequence[Student]) -> None:
        super().__init__(students, lm.device)
        self._lm = lm
        self._rows = rows

    def _batches(self, limit: int) -> Iterator[Mapping[Pair, Tensor]]:
        from core.activations.hooks import capture

        lm, pairs = self._lm, [pair for student in self._students for pair in student.pairs]
        context = self._rows.context_size
        available = self._rows.available(math.ceil(limit / context))
        chunk = max(1, _CHUNK_TOKENS // context)
        for start in range(0, available, chunk):
            rows = self._rows.rows(start, min(chunk, available - start))
            kept = self._rows.kept(rows).flatten().to(lm.device)
            captured = capture(lm, rows.to(lm.device), pairs)
            yield {pair: values.flatten(0, 1)[kept].to(torch.float32) for pair, values in captured.items()}

    def _language_model(
        self, limit: int, deadline: float, means: list[Tensor], interrupted: Callable[[], bool]
    ) -> list[Losses]:
        from core.activations.hooks import capture, replaced

        lm, students = self._lm, self._students
        context = self._rows.context_size
        available = self._rows.available(math.ceil(limit / context))
        chunk = max(1, _CHUNK_LOGITS // (context * max(1, lm.facts.vocab_size)))
        totals = torch.zeros(len(students), len(Losses._fields), dtype=torch.float64, device=lm.device)
        predictions = 0
        for start in range(0, available, chunk):
            rows = self._rows.rows(start, min(chunk, available - start))
            kept = self._rows.kept(rows).to(lm.device).unsqueeze(-1)
            ids = rows.to(lm.device)
            targets = ids[:, 1:].unsqueeze(-1)
            clean = _log_probabilities(lm.logits(ids))
            clean_loss = -clean.gather(-1, targets).sum(dtype=torch.float64)
            # A transcoder reads another hook than it replaces.
            elsewhere = [student.pair for student in students if student.target != student.pair]
            sources = capture(lm, ids, elsewhere) if elsewhere else {}
            for index, student in enumerate(students):
                mean = means[index].to(torch.float32)
                totals[index, 0] += clean_loss
                replacements = (
                    _spliced(student, sources),
                    torch.zeros_like,
                    lambda raw, mean=mean: mean.expand_as(raw),
                )
                for column, replacement in enumerate(replacements, start=1):
                    with replaced(lm, student.target, _where(kept, replacement)):
                        changed = _log_probabilities(lm.logits(ids))
                    totals[index, column] -= changed.gather(-1, targets).sum(dtype=torch.float64)
                    if column == 1:
                        # clean·(log clean - log changed), made in place: these are the largest tensors of all.
                        divergence = changed.neg_().add_(clean).mul_(clean.exp())
                        totals[index, 4] += divergence.sum(dtype=torch.float64)
            predictions += targets.numel()
            if time.monotonic() > deadline or interrupted():
                break
        return [Losses(*row) for row in (totals / predictions).tolist()] if predictions else []


def histogram(density: Tensor) -> tuple[int, ...]:
    """Latents by log10 of their `density (F)`: 60 bins on [-7, 0], then those that never fired."""
    fired = density > 0
    place = ((density.clamp_min(10**LOWEST).log10() - LOWEST) / -LOWEST * BINS).long().clamp(0, BINS - 1)
    place = torch.where(fired, place, BINS)
    return tuple(
        torch.zeros(BINS + 1, dtype=torch.int64, device=density.device)
        .index_add_(0, place, torch.ones_like(place))
        .tolist()
    )


def duplicates(decoder: Tensor) -> int:
    """How many rows of `decoder (F, n)` point almost the same way as another (cosine above 0.9).

    Where comparing all with all would take long, evenly spaced rows are compared with all and the count is scaled up.
    """
    rows = decoder / decoder.norm(dim=1, keepdim=True).clamp_min(1e-12)
    latents, width = rows.shape
    affordable = _DUPLICATE_PRODUCTS["cuda" if decoder.is_cuda else "cpu"] // (2 * width * latents)
    stride = max(1, math.ceil(latents / max(1, affordable)))
    chosen = torch.arange(0, latents, stride, device=rows.device)
    found = torch.zeros((), dtype=torch.int64, device=rows.device)
    for part in chosen.split(max(1, (1 << 24) // latents)):
        cosines = rows[part] @ rows.T
        # Every row has cosine 1 with itself.
        cosines[torch.arange(len(part), device=rows.device), part] = 0
        found += (cosines.amax(dim=1) > DUPLICATE).sum()
    return round(int(found) * latents / len(chosen))


def verdict(
    *,
    recovered: float | None,
    dead_share: float,
    l0: float,
    wanted_l0: float | None,
    fvu: float | None,
    fvu_affine: float | None = None,
    diverged: int | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    """A plain judgement and the reasons that keep it from being better.

    `recovered` is the share of the language model's loss that the SAE preserves against zero ablation; `wanted_l0` is
    None where no number of active latents was asked for, `fvu_affine` for an autoencoder; `diverged` is the step since
    which it learns no more.
    """
    bad = []
    if diverged is not None:
        bad.append(f"It diverged: it has learnt nothing since step {diverged:,}.")
    if recovered is not None and recovered < 0.5:
        bad.append(f"Only {recovered:.0%} of the model's loss is recovered.")
    if dead_share > 0.5:
        bad.append(f"{dead_share:.0%} of the latents are dead.")
    if fvu is None:
        bad.append("The reconstruction is not a finite number.")
    elif fvu > 0.95:
        bad.append(f"{fvu:.0%} of the variance is unexplained.")
    if bad:
        return "bad", tuple(bad)
    watch = []
    if recovered is not None and recovered < 0.95:
        watch.append(f"{recovered:.1%} of the model's loss is recovered; 95 % is good.")
    if dead_share >= 0.1:
        watch.append(f"{dead_share:.0%} of the latents are dead; below 10 % is good.")
    if wanted_l0 is not None and abs(l0 - wanted_l0) > 0.1 * wanted_l0:
        watch.append(f"L0 is {l0:.1f}; {wanted_l0:g} were asked for.")
    if fvu is not None and fvu_affine is not None and fvu >= fvu_affine:
        watch.append(f"An affine map without latents leaves less unexplained ({fvu_affine:.1%}).")
    return ("watch", tuple(watch)) if watch else ("good", ())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _where(kept: Tensor, replacement: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replaces activations (R, C, n) at the kept positions `kept (R, C, 1)`."""

    def function(activations: Tensor) -> Tensor:
        raw = activations.flatten(0, 1).to(torch.float32)
        changed = replacement(raw).reshape(activations.shape).to(activations.dtype)
        return torch.where(kept, changed, activations)

    return function


def _spliced(student: Student, sources: Mapping[Pair, Tensor]) -> Callable[[Tensor], Tensor]:
    """What the SAE makes of activations (N, n), in their place: of those at its source where that is another hook."""
    if student.target == student.pair:
        return lambda raw: student.reconstruct(raw)[0]
    source = sources[student.pair].flatten(0, 1).to(torch.float32)
    return lambda _: student.reconstruct(source)[0]


def _log_probabilities(logits: Tensor) -> Tensor:
    """Of the tokens that follow, (R, C-1, vocabulary), in float32."""
    return logits[:, :-1].to(torch.float32).log_softmax(dim=-1)
