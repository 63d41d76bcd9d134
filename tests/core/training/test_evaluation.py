"""The figures of an evaluation, on SAEs whose figures are known beforehand."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.activations.models import LanguageModel, load_model
from core.catalogue import BUILTIN_MODELS
from core.sae.normalisation import Normalisation
from core.sae.skip import BatchTopKSkip
from core.sae.topk import TopK
from core.training.evaluation import (
    BINS,
    Budget,
    Evaluating,
    Evaluation,
    _where,
    duplicates,
    histogram,
    verdict,
)
from core.training.optim import Adam
from core.training.student import Pair, Student
from events.training import EvaluationMade, TrainingConfig

WIDTH, CONTEXT, ROWS = 128, 32, 24
BUDGET = Budget(tokens=10_000, loss_tokens=10_000, seconds=60.0)


class Rows:
    """Held-out rows whose first position is never kept."""

    context_size = CONTEXT

    def __init__(self, lm: LanguageModel) -> None:
        ids = lm.tokenizer(inspect.getsource(argparse)[20_000:40_000])["input_ids"]
        self._ids = torch.tensor(ids[: ROWS * CONTEXT]).reshape(ROWS, CONTEXT)

    def rows(self, start: int, count: int, /) -> Tensor:
        return self._ids[start : start + count]

    def available(self, limit: int) -> int:
        return min(ROWS, limit)

    def kept(self, rows: Tensor) -> Tensor:
        kept = torch.ones(rows.shape, dtype=torch.bool)
        kept[:, 0] = False
        return kept


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model(BUILTIN_MODELS[0].source, device="cpu")


def _student(kind: str, scale: float = 1.0, layer: int = 1) -> Student:
    """An SAE that copies its input exactly, or one whose output is its decoder's bias."""
    latents = 2 * WIDTH
    sae = TopK(width=WIDTH, latents=latents, k=WIDTH, variance=1.0, dead_after=10)
    with torch.no_grad():
        both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
        sae.W_enc.copy_(both)
        sae.W_dec.copy_(both if kind == "copy" else torch.zeros_like(both))
    normalisation = Normalisation("expected_average_only_in", scale, 1.0, 0.0)
    at, optimiser = (layer, "resid_post"), Adam(sae.named_parameters())
    return Student(at, at, normalisation, normalisation, sae, optimiser, TrainingConfig())


def _evaluate(lm: LanguageModel, student: Student, budget: Budget = BUDGET) -> EvaluationMade:
    (event,) = Evaluation(lm, Rows(lm), [student]).run(3, budget)
    return event


def _known(value: float | None) -> float:
    assert value is not None
    return value


def test_an_exact_copy_loses_nothing(lm: LanguageModel) -> None:
    event = _evaluate(lm, _student("copy", scale=0.37))
    assert (event.step, event.sae, event.tokens) == (3, 0, ROWS * (CONTEXT - 1))
    assert _known(event.fvu) < 1e-9
    assert event.l0 == pytest.approx(WIDTH, rel=1e-3)
    assert event.ce_spliced == pytest.approx(_known(event.ce_clean), abs=1e-4)
    assert abs(_known(event.kl_spliced)) < 1e-5
    assert event.loss_recovered == pytest.approx(1.0, abs=1e-3)
    assert event.shrinkage == pytest.approx(1.0, abs=1e-5)
    assert sum(event.density_histogram) == 2 * WIDTH
    assert event.verdict == "good"
    assert event.reasons == ()


def test_an_empty_output_is_zero_ablation(lm: LanguageModel) -> None:
    event = _evaluate(lm, _student("nothing"))
    assert event.ce_spliced == pytest.approx(_known(event.ce_ablated_zero), abs=1e-5)
    assert _known(event.ce_ablated_zero) > _known(event.ce_clean)
    assert event.loss_recovered == pytest.approx(0.0, abs=1e-5)
    assert _known(event.kl_spliced) > 0.1
    assert event.verdict == "bad"


def test_the_mean_explains_no_variance_and_is_mean_ablation(lm: LanguageModel) -> None:
    student = _student("nothing")
    mean = Evaluation(lm, Rows(lm), [student])._reconstruct(10_000, 1e18, lambda: False)[0][0].target
    with torch.no_grad():
        student.sae.get_parameter("b_dec").copy_(mean / (ROWS * (CONTEXT - 1)))
    event = _evaluate(lm, student)
    assert event.fvu == pytest.approx(1.0, abs=1e-5)
    assert event.ce_spliced == pytest.approx(_known(event.ce_ablated_mean), abs=1e-4)


def test_a_transcoder_that_gives_what_its_target_is_loses_nothing(lm: LanguageModel) -> None:
    # resid_pre of layer 2 is resid_post of layer 1: what the skip gives is exactly the target.
    sae = BatchTopKSkip(
        width=WIDTH, latents=2 * WIDTH, k=4, variance=1.0, dead_after=10, unit_decoder=False,
        source_centre=torch.zeros(WIDTH),
    )  # fmt: skip
    with torch.no_grad():
        sae.W_skip.copy_(torch.eye(WIDTH) * 0.5)
    source, target = (Normalisation("expected_average_only_in", scale, 1.0, 0.0) for scale in (0.4, 0.2))
    optimiser = Adam(sae.named_parameters())
    student = Student((1, "resid_post"), (2, "resid_pre"), source, target, sae, optimiser, TrainingConfig())
    event = _evaluate(lm, student)
    assert _known(event.fvu) < 1e-9
    # The tokens are fewer than ten a dimension.
    assert event.fvu_affine is None
    assert event.ce_spliced == pytest.approx(_known(event.ce_clean), abs=1e-4)
    assert event.loss_recovered == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        sae.W_skip.zero_()
    event = _evaluate(lm, student)
    assert _known(event.fvu) > 0.99
    assert event.ce_spliced == pytest.approx(_known(event.ce_ablated_zero), abs=1e-4)
    # What is replaced is the target, wherever the source lies.
    elsewhere = replace(student, pair=(0, "resid_post"), target=(2, "resid_post"))
    nothing = _evaluate(lm, _student("nothing", layer=2))
    event = _evaluate(lm, elsewhere)
    assert event.ce_ablated_zero == pytest.approx(_known(nothing.ce_ablated_zero), rel=1e-6)
    assert event.ce_spliced == pytest.approx(_known(nothing.ce_ablated_zero), abs=1e-4)
    judgement, (reason,) = verdict(recovered=0.99, dead_share=0.0, l0=4.0, wanted_l0=4.0, fvu=0.5, fvu_affine=0.4)
    assert (judgement, reason) == ("watch", "An affine map without latents leaves less unexplained (40.0%).")


class Given(Evaluating):
    """Evaluates on batches that are there already."""

    def __init__(self, student: Student, batches: Sequence[Tensor]) -> None:
        super().__init__([student], torch.device("cpu"))
        self._given = batches

    def _batches(self, limit: int) -> Iterator[Mapping[Pair, Tensor]]:
        return ({self._students[0].pair: batch} for batch in self._given)


def test_fvu_is_one_quotient_of_sums_with_every_dimension_about_its_own_mean() -> None:
    student = _student("copy")
    with torch.no_grad():
        student.sae.W_dec.mul_(0.9)
    generator = torch.Generator().manual_seed(0)
    # Batches of very different sizes, about means that differ from one another and from dimension to dimension.
    batches = [
        spread * torch.randn(tokens, WIDTH, generator=generator) + mean * torch.linspace(-1, 1, WIDTH)
        for tokens, spread, mean in ((40, 0.1, 1.0), (200, 5.0, 3.0), (8, 1.0, -2.0))
    ]

    def quotient(raw: Tensor, mean: Tensor) -> float:
        left = raw - student.reconstruct(raw)[0]
        return float(left.double().square().sum() / (raw - mean).double().square().sum())

    whole = torch.cat(batches)
    (event,) = Given(student, batches).run(1, BUDGET)
    assert event.fvu == pytest.approx(quotient(whole, whole.mean(dim=0)), rel=1e-5)
    assert event.fvu != pytest.approx(quotient(whole, whole.mean()), rel=0.03)
    averaged = sum(quotient(batch, batch.mean(dim=0)) for batch in batches) / len(batches)
    assert event.fvu != pytest.approx(averaged, rel=0.03)


def test_the_clean_loss_is_the_models_own(lm: LanguageModel) -> None:
    ids = Rows(lm).rows(0, ROWS)
    logits = lm.logits(ids)[:, :-1]
    expected = float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    assert _evaluate(lm, _student("copy")).ce_clean == pytest.approx(expected, rel=1e-5)


def test_only_kept_positions_are_replaced() -> None:
    kept = torch.tensor([[[False], [True]]])
    activations = torch.arange(6.0).reshape(1, 2, 3)
    changed = _where(kept, torch.zeros_like)(activations)
    assert changed.tolist() == [[[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]]


def test_an_evaluation_disturbs_no_training(lm: LanguageModel) -> None:
    student = _student("copy")
    before = {name: tensor.clone() for name, tensor in student.sae.tensors().items()}
    first, second = _evaluate(lm, student), _evaluate(lm, student)
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in student.sae.tensors().items())


def test_a_budget_bounds_it_and_a_pause_ends_it(lm: LanguageModel) -> None:
    student = _student("copy")
    small = _evaluate(lm, student, Budget(tokens=3 * CONTEXT, loss_tokens=CONTEXT, seconds=60))
    assert small.tokens == 3 * (CONTEXT - 1)
    assert Evaluation(lm, Rows(lm), [student]).run(3, BUDGET, lambda: True) == []


@pytest.mark.slow
def test_two_saes_share_the_clean_pass(lm: LanguageModel) -> None:
    pair = [_student("copy", layer=1), _student("nothing", layer=2)]
    together = Evaluation(lm, Rows(lm), pair).run(3, BUDGET)
    alone = [_evaluate(lm, student) for student in pair]
    assert together[0] == alone[0]
    assert together[1].sae == 1
    assert together[1].ce_ablated_zero == alone[1].ce_ablated_zero


def test_the_histogram_has_sixty_bins_and_one_for_those_that_never_fired() -> None:
    density = torch.tensor([0.0, 0.0, 1.0, 0.5, 1e-7, 10**-3.45], dtype=torch.float64)
    counts = histogram(density)
    assert len(counts) == BINS + 1
    assert counts[-1] == 2
    assert counts[0] == 1
    assert counts[BINS - 1] == 1
    assert counts[int((-0.30103 + 7) / 7 * BINS)] == 1
    assert counts[int((7 - 3.45) / 7 * BINS)] == 1


def test_near_duplicates_are_counted_whatever_their_length() -> None:
    rows = torch.eye(64)
    assert duplicates(rows) == 0
    rows[1] = 5 * rows[0] + 0.1 * rows[7]
    assert duplicates(rows) == 2
    rows[2] = -rows[0]
    assert duplicates(rows) == 2


@pytest.mark.parametrize(
    ("changed", "judgement", "word"),
    [
        ({}, "good", ""),
        ({"recovered": None}, "good", ""),
        ({"recovered": 0.9}, "watch", "90.0%"),
        ({"dead_share": 0.2}, "watch", "dead"),
        ({"l0": 8.0}, "watch", "L0"),
        ({"l0": 8.0, "wanted_l0": None}, "good", ""),
        ({"recovered": 0.4}, "bad", "40%"),
        ({"dead_share": 0.6}, "bad", "dead"),
        ({"fvu": 0.97}, "bad", "variance"),
        ({"fvu": None}, "bad", "finite"),
        ({"diverged": 1_500}, "bad", "since step 1,500"),
    ],
)
def test_the_verdict_says_why(changed: dict[str, float | None], judgement: str, word: str) -> None:
    facts: dict[str, float | None] = {"recovered": 0.97, "dead_share": 0.01, "l0": 16.0, "wanted_l0": 16.0, "fvu": 0.1}
    found, reasons = verdict(**{**facts, **changed})  # type: ignore[arg-type]
    assert found == judgement
    assert word in " ".join(reasons)
    assert bool(reasons) == (judgement != "good")
