"""Steps become events, and a restored loop takes the very same steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import pytest
import torch
from synthetic import CPU, PAIRS, Synthetic, Told, config, loop

from core.training.checkpoint import Checkpoints, Snapshot
from core.training.loop import CUDA_TOLERANCE, CheckpointMismatch, Loop, NonFinite, students_of
from core.training.student import Pair
from events.training import StepTrained, TrainingConfig


def _values(told: Told) -> list[StepTrained]:
    """The steps without what depends on the machine's speed."""
    steps = [event for event in told.events if isinstance(event, StepTrained)]
    return [msgspec.structs.replace(step, tokens_per_second=0.0) for step in steps]


def test_every_step_of_every_sae_is_told_once_and_in_order() -> None:
    chosen = config()
    trained, told = loop(chosen)
    for _ in range(5):
        trained.advance()
    steps = _values(told)
    assert [(step.step, step.sae) for step in steps] == [(s, i) for s in range(1, 6) for i in (0, 1)]
    last = steps[-1]
    assert last.tokens == 5 * 64
    assert last.l0_fraction == pytest.approx(last.l0 / 96)
    assert last.loss == pytest.approx(last.loss_reconstruction + last.loss_auxiliary)
    assert last.sparsity_coefficient is None
    assert last.device_memory is None
    assert steps[0].learning_rate == pytest.approx(3e-3 / 4)
    times = [time for time in told.times if time is not None]
    assert len(times) == 10
    assert times == sorted(times)
    assert len(set(times)) == 5


def _resumed(snapshot: Snapshot, steps: int) -> tuple[Loop, Told]:
    chosen = config()
    told = Told()
    resumed = Loop(chosen, Synthetic(batch=64), students_of(snapshot, chosen, CPU), CPU, told)
    resumed.restore(snapshot)
    for _ in range(steps):
        resumed.advance()
    return resumed, told


def _parameters(trained: Loop) -> list[torch.Tensor]:
    return [tensor for student in trained.students for tensor in student.sae.tensors().values()]


@pytest.fixture
def halves(tmp_path: pytest.TempPathFactory) -> tuple[Loop, list[StepTrained], Snapshot]:
    """40 steps in one go, the last 21 of them as events, and the checkpoint after 19: between two refreshes of the
    dead latents, some of which there are."""
    trained, told = loop(config())
    for _ in range(19):
        trained.advance()
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)  # type: ignore[operator]
    checkpoints.save(trained.snapshot())
    assert any(len(student.sae.firing.dead) for student in trained.students)
    told.events.clear()
    for _ in range(21):
        trained.advance()
    snapshot = checkpoints.newest()
    assert snapshot is not None
    return trained, _values(told), snapshot


def test_a_restored_loop_takes_the_same_steps_bit_by_bit(halves: tuple[Loop, list[StepTrained], Snapshot]) -> None:
    straight, steps, snapshot = halves
    resumed, told = _resumed(snapshot, 21)
    assert _values(told) == steps
    assert all(torch.equal(a, b) for a, b in zip(_parameters(straight), _parameters(resumed), strict=True))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sae-0", "W_enc"),
        ("sae-0", "b_dec"),
        ("sae-1", "firing.since"),
        ("sae-0", "firing.dead"),
        ("optimiser-0", "W_dec.exp_avg"),
        ("optimiser-0", "W_enc.exp_avg_sq"),
        ("optimiser-1", "b_enc.step"),
    ],
)
def test_each_item_of_a_checkpoint_is_needed(
    halves: tuple[Loop, list[StepTrained], Snapshot], file: str, name: str
) -> None:
    straight, steps, snapshot = halves
    item = snapshot.tensors[file][name]
    snapshot.tensors[file][name] = item[:0] if name == "firing.dead" else torch.zeros_like(item)
    resumed, told = _resumed(snapshot, 21)
    assert _values(told) != steps
    assert not all(torch.equal(a, b) for a, b in zip(_parameters(straight), _parameters(resumed), strict=True))


OTHERS = {
    "resampled": {
        "architecture_type": "standard",
        "k": None,
        "auxk_coefficient": None,
        "l1_alpha": 3.0,
        "resample_interval": 21,
        "dead_token_threshold": 150,
    },
    "gated": {"architecture_type": "gated", "k": None, "auxk_coefficient": None, "target_l0": 0.25},
    "batchtopk": {"architecture_type": "batchtopk", "share_latents_after": 0.8, "total_steps": 100},
    "matryoshka": {"architecture_type": "matryoshka", "share_latents_after": 0.8},
    "standard": {"architecture_type": "standard", "k": None, "auxk_coefficient": None, "target_l0": 0.25},
    "jumprelu": {
        "architecture_type": "jumprelu",
        "k": None,
        "target_l0": 0.25,
        "initial_threshold": 0.02,
        "bandwidth": 0.1,
    },
    "transcoder": {
        "architecture_type": "transcoder",
        "activation": "batchtopk",
        "share_latents_after": 0.8,
        "total_steps": 100,
    },
    "skip": {
        "architecture_type": "skip",
        "activation": "jumprelu",
        "k": None,
        "target_l0": 0.25,
        "initial_threshold": 0.02,
        "bandwidth": 0.1,
        "skip_rank": 3,
    },
}
"""Configurations whose architecture has a state of its own; the tokens of the matryoshka begin to share their latents
between the checkpoint and the end, which forgets the threshold from before."""


STATE = {
    "batchtopk": ("threshold",),
    "matryoshka": ("W_dec",),
    "standard": ("control.l0", "control.integral"),
    "jumprelu": ("control.l0", "theta"),
    "resampled": ("firing.since",),
    "gated": ("control.l0", "control.integral", "b_mag"),
    "transcoder": ("threshold",),
    "skip": ("Q_skip", "W_skip"),
}


class TwoGoes(NamedTuple):
    """A training in one go, and one that was resumed in its middle, with the steps since then."""

    straight: Loop
    steps: list[StepTrained]
    resumed: Loop
    resumed_steps: list[StepTrained]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        for ours, theirs in zip(self.straight.students, self.resumed.students, strict=True):
            found = theirs.sae.tensors()
            yield from ((name, tensor, found[name]) for name, tensor in ours.sae.tensors().items())


def _in_two_goes(chosen: TrainingConfig, device: torch.device, left_out: str | None = None) -> TwoGoes:
    """40 steps, and the last 21 of them from the checkpoint after 19, which has ones in place of `left_out`."""
    straight, told = loop(chosen, Synthetic(batch=64, device=device))
    for _ in range(19):
        straight.advance()
    snapshot = straight.snapshot()
    for file, tensors in snapshot.tensors.items():
        snapshot.tensors[file] = {name: tensor.clone() for name, tensor in tensors.items()}
    told.events.clear()
    for _ in range(21):
        straight.advance()
    straight.drain()
    if left_out is not None:
        of_first = snapshot.tensors["sae-0"]
        of_first[left_out] = torch.ones_like(of_first[left_out])
    resumed_told = Told()
    source = Synthetic(batch=64, device=device)
    resumed = Loop(chosen, source, students_of(snapshot, chosen, device), device, resumed_told)
    resumed.restore(snapshot)
    for _ in range(21):
        resumed.advance()
    resumed.drain()
    return TwoGoes(straight, _values(told), resumed, _values(resumed_told))


@pytest.mark.parametrize(
    ("kind", "left_out"), [(kind, name) for kind, names in STATE.items() for name in (None, *names)]
)
def test_every_architecture_goes_on_where_it_was(kind: str, left_out: str | None) -> None:
    goes = _in_two_goes(config(**OTHERS[kind], normalize_decoder=False), CPU, left_out)
    assert all(torch.equal(ours, theirs) for _, ours, theirs in goes.tensors()) == (left_out is None)
    # The threshold is for inference: it is only remembered.
    assert (goes.resumed_steps == goes.steps) == (left_out in (None, "threshold"))
    last = goes.steps[-1]
    assert (last.sparsity_coefficient is not None) == (not OTHERS[kind].keys().isdisjoint({"target_l0", "l1_alpha"}))
    assert last.loss == pytest.approx(last.loss_reconstruction + last.loss_sparsity + last.loss_auxiliary, rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["topk", *OTHERS])
def test_on_a_gpu_every_architecture_goes_on_within_the_tolerance(kind: str) -> None:
    goes = _in_two_goes(config(**OTHERS.get(kind, {}), normalize_decoder=False), torch.device("cuda"))
    for name, ours, theirs in goes.tensors():
        if not ours.is_floating_point():
            continue
        assert float((ours.double() - theirs.double()).abs().max()) <= CUDA_TOLERANCE, name


def test_a_checkpoint_from_before_a_field_is_taken_as_with_its_default(
    halves: tuple[Loop, list[StepTrained], Snapshot],
) -> None:
    _, _, snapshot = halves
    for field in ("shuffle", "variants", "micro_batch_size"):
        del snapshot.state["config"][field]
    students_of(snapshot, config(), CPU)
    with pytest.raises(CheckpointMismatch, match="micro_batch_size"):
        students_of(snapshot, config(micro_batch_size=32), CPU)


def test_a_checkpoint_of_another_configuration_is_refused_by_field(
    halves: tuple[Loop, list[StepTrained], Snapshot],
) -> None:
    _, _, snapshot = halves
    students_of(snapshot, config(log_interval=7, checkpoint_interval=3, device="cpu"), CPU)
    with pytest.raises(CheckpointMismatch, match="k, learning_rate"):
        students_of(snapshot, config(k=5, learning_rate=1e-3), CPU)


def test_activations_that_are_not_finite_stop_the_training_after_ten_steps(caplog: pytest.LogCaptureFixture) -> None:
    source = Synthetic(batch=64)
    trained, told = loop(config(), source)
    trained.advance()
    before = [tensor.clone() for student in trained.students for tensor in student.sae.parameters()]
    source.factor = float("nan")
    with pytest.raises(NonFinite, match=r"L0\.resid_post.*10 steps"):
        for _ in range(20):
            trained.advance()
    assert trained.step == 11
    assert len(_values(told)) == 2 * 11
    after = [tensor for student in trained.students for tensor in student.sae.parameters()]
    for ours, theirs in zip(before, after, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert "the update was skipped" in caplog.text


class _OneOfTwo(Synthetic):
    """For ten steps from `bad_from` on the second pair's activations are not finite."""

    bad_from = 100

    def next_batch(self) -> dict[Pair, torch.Tensor]:
        batch = super().next_batch()
        if self.bad_from <= self.served < self.bad_from + 10:
            batch[PAIRS[1]] = batch[PAIRS[1]] * float("nan")
        return batch


def test_one_that_diverges_ends_alone_and_stays_so_over_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    chosen = config()
    quiet, quiet_told = loop(chosen)
    source = _OneOfTwo(batch=64)
    source.bad_from = 6
    trained, told = loop(chosen, source)
    snapshot: Snapshot | None = None
    for step in range(1, 31):
        quiet.advance()
        trained.advance()
        if step == 12:
            snapshot = copy.deepcopy(trained.snapshot())
        assert [event.sae for event in trained.latest] == ([0, 1] if step <= 15 else [0])
    assert [student.diverged for student in trained.students] == [None, 15]
    assert "L1.mlp_out learns no more, the others go on" in caplog.text
    # What it does not learn any more is said by every step, and disturbs nobody.
    assert [step for step in _values(told) if step.sae == 0] == [step for step in _values(quiet_told) if step.sae == 0]
    ended = [step for step in _values(told) if step.sae == 1]
    assert len(ended) == 30
    assert [step.learning_rate == 0.0 for step in ended] == [False] * 15 + [True] * 15
    assert all(math.isnan(step.loss) and step.dead_latents == ended[14].dead_latents for step in ended[15:])
    # Of the ten, seven had been skipped when it was saved.
    assert snapshot is not None
    again_told = Told()
    again_source = _OneOfTwo(batch=64)
    again_source.bad_from = 6
    again = Loop(chosen, again_source, students_of(snapshot, chosen, CPU), CPU, again_told)
    again.restore(snapshot)
    for _ in range(13, 31):
        again.advance()
    assert [student.diverged for student in again.students] == [None, 15]
    assert all(torch.equal(a, b) for a, b in zip(_parameters(trained), _parameters(again), strict=True))
    resumed = students_of(again.snapshot(), chosen, CPU)
    assert [student.diverged for student in resumed] == [None, 15]


def test_a_single_bad_batch_is_survived() -> None:
    source = Synthetic(batch=64)
    trained, told = loop(config(), source)
    for step in range(25):
        source.factor = float("nan") if step % 8 == 3 else 1.0
        trained.advance()
    assert _values(told)[-1].loss < 1.0


def test_seconds_of_earlier_runs_count_and_pauses_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = loop(config())
    trained.advance()
    snapshot = trained.snapshot()
    snapshot.state["seconds"] = 500.0
    resumed, _ = _resumed(snapshot, 1)
    assert 500.0 < resumed.seconds < 520.0
    clock = [resumed.speed.now()]
    monkeypatch.setattr("core.training.loop.time", SimpleNamespace(monotonic=lambda: clock[0]))
    before = resumed.seconds
    clock[0] += 1.0
    with resumed.speed.hold():
        clock[0] += 1_000.0
    assert resumed.seconds - before == pytest.approx(1.0)
