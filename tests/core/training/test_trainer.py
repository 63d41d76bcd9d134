"""A whole training in this process: what it tells, in which order, and what it leaves behind."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from runs import history, small_model, specification
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.activations import reading
from core.run import RunSpec
from core.training import checkpoint, trainer
from core.training.beginning import NothingToTrain
from core.training.control import Wishes
from core.training.evaluation import Evaluation
from core.training.loop import CheckpointMismatch
from core.training.reporting import Progress, Troubles
from core.training.trainer import Outcome, Trainer
from events.control import CheckpointRequested, PauseRequested, StopRequested
from events.event import Event, Recorded, event_type, now_us
from events.ids import new_id
from events.log import LogWritten
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    StepTrained,
    TrainingCompleted,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
    TroubleReported,
)


class Run:
    """One process's part of a training, without the process."""

    def __init__(self, spec: RunSpec, *, resume: bool = False, at: dict[int, Event] | None = None) -> None:
        self.told: list[Event] = []
        self.wishes = Wishes()
        self.lines = io.StringIO()
        self._at = at or {}
        folder = spec.data_dir / "trainings" / spec.id
        self.checkpoints = folder / "checkpoints"
        self.trainer = Trainer(
            spec, folder, self._emit, self.wishes, Progress(self.lines), Troubles(self._emit), resume=resume
        )

    def __call__(self) -> Outcome:
        return self.trainer.run()

    def _emit(self, event: Event, _: int | None) -> None:
        self.told.append(event)
        if isinstance(event, StepTrained) and event.sae == 0 and (wish := self._at.get(event.step)):
            now = now_us()
            self.wishes.on_control(
                Recorded(
                    position=1,
                    stream="control-x",
                    version=1,
                    type=event_type(wish),
                    occurred_at=now,
                    recorded_at=now,
                    data=wish,
                )
            )

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    def saved(self) -> list[str]:
        return sorted(entry.name for entry in self.checkpoints.iterdir())


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunSpec]:
    model = small_model(tmp_path_factory.mktemp("models") / "small")
    data = tmp_path_factory.mktemp("data")
    return lambda **changed: specification(data, model, **changed)


def test_a_training_tells_everything_from_start_to_end(
    spec: Callable[..., RunSpec], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(spec(eval_interval=8))
    assert run() == "completed"
    kinds = [event_type(event) for event in run.told]
    assert kinds[0] == "TrainingStarted"
    assert kinds[-3:] == ["EvaluationMade", "EvaluationMade", "TrainingCompleted"]
    started: TrainingStarted = run.told[0]  # type: ignore[assignment]
    assert [(sae.layer, sae.hook) for sae in started.saes] == [(1, "resid_post"), (2, "resid_post")]
    assert all(sae.mean_ratio is not None and sae.mean_ratio > 0 for sae in started.saes)
    assert started.parameters == 2 * (2 * 256 * 32 + 256 + 32)
    assert started.device == "cpu"
    assert started.data_fingerprint
    assert started.versions["torch"]
    assert [(e.step, e.sae) for e in run.of(StepTrained)] == [(s, i) for s in range(1, 21) for i in (0, 1)]
    assert [(e.step, e.reason) for e in run.of(CheckpointSaved)] == [
        (5, "interval"),
        (10, "interval"),
        (15, "interval"),
        (20, "end"),
    ]
    assert [e.step for e in run.of(CheckpointDeleted)] == [5, 10]
    assert run.saved() == ["step-00000015", "step-00000020"]
    saved = run.of(CheckpointSaved)[-1]
    assert saved.size == sum(file.stat().st_size for file in Path(saved.path).iterdir())
    assert [(e.step, e.sae) for e in run.of(EvaluationMade)] == [(8, 0), (8, 1), (16, 0), (16, 1), (20, 0), (20, 1)]
    assert all(0 < e.fvu < 1 and e.ce_spliced > 0 for e in run.of(EvaluationMade))
    assert run.of(TrainingCompleted)[0].step == 20
    first, last = run.of(StepTrained)[0], run.of(StepTrained)[-2]
    assert last.fvu < first.fvu
    assert "step 20 loss" in caplog.text
    assert "L1.resid_post leaves" in caplog.text


@pytest.mark.slow
def test_the_best_checkpoint_stays_across_a_pause(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Evaluation.run

    def made(self: Evaluation, step: int, *rest: Any) -> list[EvaluationMade]:
        fvu = 0.01 if step == 5 else 0.9
        return [msgspec.structs.replace(event, fvu=fvu) for event in whole(self, step, *rest)]

    monkeypatch.setattr(Evaluation, "run", made)
    chosen = spec(eval_interval=5, total_steps=30)
    first = Run(chosen, at={12: PauseRequested()})
    assert first() == "paused"
    second = Run(chosen, resume=True)
    assert second() == "completed"
    assert second.saved() == ["step-00000005", "step-00000025", "step-00000030"]
    assert 5 not in [e.step for run in (first, second) for e in run.of(CheckpointDeleted)]


@pytest.mark.slow
def test_what_has_diverged_does_not_choose_the_best_checkpoint(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Evaluation.run
    good = {(5, 1): 0.01, (10, 0): 0.3}

    def made(self: Evaluation, step: int, *rest: Any) -> list[EvaluationMade]:
        if step == 15:
            self._students[1].diverged = 15
        return [
            msgspec.structs.replace(event, fvu=good.get((step, event.sae), 0.5)) for event in whole(self, step, *rest)
        ]

    monkeypatch.setattr(Evaluation, "run", made)
    chosen = spec(eval_interval=5, total_steps=30)
    first = Run(chosen, at={17: PauseRequested()})
    assert first() == "paused"
    second = Run(chosen, resume=True)
    assert second() == "completed"
    assert second.saved() == ["step-00000010", "step-00000025", "step-00000030"]
    told = [(e.step, e.diverged) for run in (first, second) for e in run.of(EvaluationMade) if e.sae == 1]
    assert told == [(step, step >= 15) for step in (5, 10, 15, 20, 25, 30)]


@pytest.mark.slow
def test_what_an_older_program_began_goes_on_without_the_defaults_of_this_one(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = spec(architecture_type="batchtopk", total_steps=12)
    begun = msgspec.structs.replace(
        chosen, config=msgspec.structs.replace(chosen.config, share_latents_after=None, eval_interval=0)
    )
    with monkeypatch.context() as before:
        before.setattr("core.training.trainer.resolve", lambda config, known: config)
        assert Run(begun, at={6: PauseRequested()})() == "paused"
    second = Run(begun, resume=True)
    assert second() == "completed"
    assert second.of(TrainingStarted)[0].config.share_latents_after is None


@pytest.mark.slow
def test_a_skip_transcoder_reads_one_hook_and_gives_another(spec: Callable[..., RunSpec]) -> None:
    changed = {"architecture_type": "skip", "hook_types": None, "target_layer_offset": 1, "training_layers": (0, 1)}
    straight = spec(**changed, normalize_decoder=None, total_steps=14)
    whole = Run(straight)
    assert whole() == "completed"
    started = whole.of(TrainingStarted)[0]
    assert [(sae.layer, sae.hook, sae.target_layer, sae.target_hook) for sae in started.saes] == [
        (0, "mlp_in", 1, "mlp_out"),
        (1, "mlp_in", 2, "mlp_out"),
    ]
    made = whole.of(EvaluationMade)
    assert [(e.step, e.sae) for e in made] == [(14, 0), (14, 1)]
    assert all(e.fvu is not None and e.fvu_affine is not None and e.ce_spliced is not None for e in made)
    assert history(_in_two_goes(straight)) == history(whole.told)


@pytest.mark.slow
def test_a_variant_is_bit_by_bit_what_it_would_be_alone_and_costs_no_pass_of_the_model(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    captured = reading.capture

    def counted(lm: Any, tokens: torch.Tensor, pairs: Any) -> Any:
        passes.append(len(tokens))
        return captured(lm, tokens, pairs)

    monkeypatch.setattr(reading, "capture", counted)
    variants: list[dict[str, Any]] = [
        {"k": 4, "seed": 5},
        {"architecture_type": "jumprelu", "target_l0": 0.05, "learning_rate": 2e-3, "normalize_activations": "none"},
    ]
    shared = {"training_layers": (1,), "total_steps": 14, "eval_interval": 7}
    together = Run(spec(variants=tuple(variants), **shared))
    assert together() == "completed"
    of_both = passes.copy()
    started = together.of(TrainingStarted)[0]
    assert [(sae.layer, sae.variant) for sae in started.saes] == [(1, 0), (1, 1)]
    for number, variant in enumerate(variants):
        own = {**variant, "k": variant.get("k")}
        alone = Run(spec(**shared, **own))
        passes.clear()
        assert alone() == "completed"
        assert passes == of_both
        for kind in (StepTrained, EvaluationMade):
            theirs = [_untimed(event, 0) for event in together.of(kind) if event.sae == number]
            assert theirs == [_untimed(event, 0) for event in alone.of(kind)]
        ours, theirs = (
            load_file(run.checkpoints / "step-00000014" / f"sae-{index}.safetensors")
            for run, index in ((together, number), (alone, 0))
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _untimed(event: Any, sae: int) -> Any:
    changed = {"sae": sae} | ({"tokens_per_second": 0.0} if isinstance(event, StepTrained) else {})
    return msgspec.structs.replace(event, **changed)


@pytest.mark.slow
def test_variants_go_on_where_they_were(spec: Callable[..., RunSpec]) -> None:
    straight = spec(variants=({"k": 4}, {"architecture_type": "gated"}), training_layers=(1,), total_steps=14)
    whole = Run(straight)
    whole()
    assert history(_in_two_goes(straight)) == history(whole.told)


def _in_two_goes(straight: RunSpec) -> list[Event]:
    """What the same training tells that is paused after step 7 and resumed."""
    paused = msgspec.structs.replace(straight, id=new_id())
    first = Run(paused, at={7: PauseRequested()})
    assert first() == "paused"
    second = Run(paused, resume=True)
    assert second() == "completed"
    return first.told + second.told


@pytest.mark.slow
def test_its_progress_lines_are_those_that_the_command_line_reads(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec(total_steps=3))
    run()
    lines = [json.loads(line) for line in run.lines.getvalue().splitlines()]
    assert any("phase" in line for line in lines)
    steps = [line for line in lines if "step" in line]
    assert set(steps[-1]) == {"step", "total_steps", "loss", "l0", "fvu", "tokens_per_second", "eta_seconds"}
    assert (steps[-1]["step"], steps[-1]["total_steps"], steps[-1]["eta_seconds"]) == (3, 3, 0.0)


@pytest.mark.slow
def test_a_paused_training_goes_on_with_the_very_next_step(spec: Callable[..., RunSpec]) -> None:
    straight = spec(total_steps=14)
    whole = Run(straight)
    whole()
    paused = msgspec.structs.replace(straight, id="0" * 14)
    first = Run(paused, at={7: PauseRequested()})
    assert first() == "paused"
    assert first.told[-1] == TrainingPaused(step=7)
    assert [(e.step, e.reason) for e in first.of(CheckpointSaved)] == [(5, "interval"), (7, "pause")]
    second = Run(paused, resume=True)
    # The server sends the pause again to a process that it was not asked to start.
    second.wishes.on_control(first.wishes._requests[0])
    assert second() == "completed"
    assert second.of(TrainingStarted)[0].resumed_from == 7
    assert second.of(TrainingResumed) == [TrainingResumed(step=7)]
    assert history(first.told + second.told) == history(whole.told)


def test_a_stop_ends_it_after_saving(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec(), at={3: StopRequested()})
    assert run() == "stopped"
    assert run.told[-1] == TrainingStopped(step=3)
    assert [(e.step, e.reason) for e in run.of(CheckpointSaved)] == [(3, "stop")]


@pytest.mark.slow
def test_a_checkpoint_can_be_asked_for(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec(total_steps=4), at={2: CheckpointRequested()})
    assert run() == "completed"
    assert [(e.step, e.reason) for e in run.of(CheckpointSaved)] == [(2, "request"), (4, "end")]


@pytest.mark.slow
def test_a_checkpoint_that_is_there_already_is_told_to_whoever_asks_for_it(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec(total_steps=4, checkpoint_interval=2), at={2: CheckpointRequested()})
    assert run() == "completed"
    assert [(e.step, e.reason) for e in run.of(CheckpointSaved)] == [(2, "interval"), (2, "request"), (4, "end")]


@pytest.mark.slow
def test_a_resume_without_any_checkpoint_starts_anew_and_says_so(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec(total_steps=2), resume=True)
    assert run() == "completed"
    assert run.of(TrainingResumed) == [TrainingResumed(step=0)]
    assert run.of(TrainingStarted)[0].resumed_from is None
    assert [e.step for e in run.of(StepTrained)] == [1, 1, 2, 2]


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_does_not_end_it(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    run = Run(spec(total_steps=7, checkpoint_interval=3))
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if run.trainer.step == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert run() == "completed"
    assert [e.step for e in run.of(CheckpointSaved)] == [6, 7]
    assert "training goes on" in caplog.text
    troubles = [one.message for one in run.of(TroubleReported)]
    assert (len(troubles), troubles[-1]) == (2, None)
    assert "The checkpoint of step 3 could not be saved ([Errno 28] No space left on device)" in str(troubles[0])


@pytest.mark.slow
def test_the_last_checkpoint_is_tried_again_until_the_disk_takes_it(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(spec(total_steps=4, checkpoint_interval=0))
    real, tries = checkpoint.save_file, 0

    def full(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(trainer, "AGAIN_SECONDS", 0.01)
    assert run() == "completed"
    assert [e.step for e in run.of(CheckpointSaved)] == [4]
    assert [one.message is None for one in run.of(TroubleReported)] == [False, True]
    assert caplog.text.count("tried again until the disk takes it") == 1
    # A disk that stays full ends it, in words.
    tries = -1_000_000
    again = Run(spec(total_steps=4, checkpoint_interval=0))
    monkeypatch.setattr(trainer, "LAST_SECONDS", 0.0)
    with pytest.raises(OSError, match="No space left on device"):
        again()


def test_a_changed_configuration_is_not_resumed(spec: Callable[..., RunSpec]) -> None:
    one = spec(total_steps=4)
    Run(one, at={2: PauseRequested()})()
    other = msgspec.structs.replace(one, config=msgspec.structs.replace(one.config, k=9))
    with pytest.raises(CheckpointMismatch, match="in k;"):
        Run(other, resume=True)()


def test_a_preparation_that_is_not_wanted_any_more_ends_soon(spec: Callable[..., RunSpec]) -> None:
    run = Run(spec())
    run.wishes.on_signal(15, None)
    assert run() == "paused"
    assert [event for event in run.told if not isinstance(event, LogWritten)] == [TrainingPaused(step=0)]


def test_a_pause_while_the_buffer_fills_is_no_failure(
    spec: Callable[..., RunSpec], caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(spec())

    class Pausing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Filling"):
                run.wishes.on_signal(15, None)

    handler = Pausing()
    logging.getLogger("core.training").addHandler(handler)
    caplog.set_level(logging.INFO)
    try:
        assert run() == "paused"
    finally:
        logging.getLogger("core.training").removeHandler(handler)
    assert run.of(TrainingStarted)
    assert not run.of(StepTrained)
    assert run.told[-1] == TrainingPaused(step=0)


def test_a_configuration_without_a_layer_is_refused(spec: Callable[..., RunSpec]) -> None:
    one = spec()
    empty = msgspec.structs.replace(one, config=msgspec.structs.replace(one.config, training_layers=()))
    with pytest.raises(NothingToTrain, match="training_layers"):
        Run(empty)()


@pytest.mark.slow
def test_signs_of_a_collapse_are_warned_about_once(
    spec: Callable[..., RunSpec], caplog: pytest.LogCaptureFixture
) -> None:
    Run(spec(latent_dim=2048, dead_token_threshold=300, k=1, log_interval=4, auxk_coefficient=0.0))()
    assert caplog.text.count("L1.resid_post: more than half of its latents are dead") == 1
