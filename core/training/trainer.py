"""A training from its specification to its end: preparation, the loop, checkpoints, evaluations, and what is told."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from core.config_rules import resolve
from core.run import CHECKPOINTS, RunSpec
from events.event import Event
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    TrainingCompleted,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)

from . import devices
from .beginning import NothingToTrain
from .checkpoint import Checkpoints, Saved, Snapshot
from .control import Wishes
from .evaluation import Evaluating, Evaluation, budget
from .loop import Loop, Source, students_of
from .narration import Narration, mean
from .reporting import Progress, Troubles, include_libraries
from .student import Student

log = logging.getLogger("core.training")

Outcome = Literal["completed", "paused", "stopped"]
Ending = Literal["paused", "stopped"]
Reason = Literal["interval", "request", "pause", "stop", "end"]

_LIBRARIES = ("torch", "transformers", "datasets", "safetensors", "numpy", "saestudio")
_PHASE_SECONDS = 5.0

EVALUATED = "evaluated"
"""Where a checkpoint's state keeps what every SAE left unexplained (FVU) in each evaluation so far, by step: the best
checkpoint stays."""

AGAIN_SECONDS = 5.0
LAST_SECONDS = 3_600.0
"""How often, and how long, the last checkpoint is tried again on a full disk."""


class _Leave(Exception):
    """The preparation, the first filling of the buffer included, was interrupted by a pause or a stop."""


@dataclass
class Trainer:
    """One run of one training.

    `emit(event, occurred_at)` takes what happens; `wishes` is looked at between steps. With `resume` it goes on from
    the newest valid checkpoint, from the beginning where there is none.
    """

    spec: RunSpec
    folder: Path
    emit: Callable[[Event, int | None], None]
    wishes: Wishes
    progress: Progress
    troubles: Troubles
    resume: bool = False
    step: int | None = None
    """The last step that was taken; None before the first."""

    def __post_init__(self) -> None:
        known = self.spec.stored or self.spec.model
        if known is None:
            raise NothingToTrain("The run's specification names neither a model nor a folder of activations.")
        # What was begun goes on with what it was begun with: a default that a later program has added is not for it.
        self.config = self.spec.config if self.resume else resolve(self.spec.config, known)
        self._told = ("", 0.0)
        self._preparing = True

    def run(self) -> Outcome:
        """Train to the end, or to a pause or stop. Whatever goes wrong is raised."""
        device = devices.choose(self.config.device)
        checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.config.checkpoints_kept)
        checkpoints.tidy()
        snapshot = checkpoints.newest() if self.resume else None
        if snapshot is not None:
            self.wishes.forget_up_to(snapshot.state["control_until"])
        self.step = snapshot.step if snapshot is not None else 0
        try:
            loop, evaluation, fingerprint = self._prepare(device, snapshot)
            self._tell_start(loop, device, fingerprint, snapshot)
            evaluated = {} if snapshot is None else snapshot.state.get(EVALUATED, {})
            return _Run(self, loop, checkpoints, evaluation, device, evaluated).to_the_end()
        except _Leave:
            # No step has been taken by this process: there is nothing to save.
            return self.leave(self.step)

    def leave(self, step: int) -> Ending:
        """Tell that the training ended after `step` because it was asked to."""
        if self.wishes.stop:
            log.info("Stopped after step %s.", f"{step:,}")
            self.emit(TrainingStopped(step=step), None)
            return "stopped"
        log.info("Paused after step %s.", f"{step:,}")
        self.emit(TrainingPaused(step=step), None)
        return "paused"

    def stepped(self, step: int) -> None:
        """`step` was taken, so that from now on an end comes between two steps."""
        self.step = step
        self._preparing = False

    def _phase(self, what: str, done: int, total: int | None) -> None:
        """How far the preparation is; also the moment to notice that it is not wanted any more."""
        self.progress.phase(what, done, total)
        now = time.monotonic()
        if what != self._told[0] or now - self._told[1] > _PHASE_SECONDS:
            self._told = (what, now)
            log.info("%s: %s%s.", what, f"{done:,}", f" of {total:,}" if total is not None else "")
        if self._preparing and self.wishes.leave:
            raise _Leave

    def _prepare(self, device: torch.device, snapshot: Snapshot | None) -> tuple[Loop, Evaluating, str]:
        spec, config = self.spec, self.config
        if spec.stored is not None:
            from .stored import prepare

            source, students, evaluation, fingerprint = prepare(spec.stored, config, device, snapshot, self._phase)
            return self._loop(source, students, device, snapshot), evaluation, fingerprint
        # Imported here: transformers takes seconds, which a trainer that cannot run need not wait for.
        from core.activations.buffer import ActivationBuffer
        from core.activations.cached import CachedPasses
        from core.activations.models import load_model
        from core.activations.reading import ActivationReader, Passes
        from core.activations.statistics import measure
        from core.activations.tokens import TokenRows, open_rows

        from .beginning import all_read, new_students

        include_libraries()
        assert spec.model is not None
        pairs = all_read(config)
        log.info("Loading the model %s on %s.", spec.model.title or spec.model.model_id, device)
        lm = load_model(spec.model.source, revision=spec.model.revision, dtype=config.model_dtype, device=device)
        context = min(config.context_size or lm.facts.context_size, lm.facts.context_size)

        def rows(split: Literal["train", "held-out"]) -> TokenRows:
            return open_rows(
                lm,
                spec.datasets,
                split=split,
                context_size=context,
                cache=spec.data_dir / "tokens",
                data_seed=config.data_seed,
                weights=config.dataset_weights,
                progress=self._phase,
            )

        train = rows("train")
        reader: Passes = ActivationReader(lm, train, pairs)
        if config.cache:
            reader = CachedPasses(reader, spec.data_dir / "activations", devices.name(device), self._no_cache)
            log.info("The activations are kept in %s.", reader.folder)
        total = config.total_steps * config.batch_size
        if snapshot is None:
            found = measure(reader, total_tokens=total, progress=self._phase)
            students = new_students(config, found, device)
        else:
            students = students_of(snapshot, config, device)
        source = ActivationBuffer(
            reader,
            batch_size=config.batch_size,
            total_tokens=total,
            data_seed=config.data_seed,
            progress=self._phase,
        )
        loop = self._loop(source, students, device, snapshot)
        return loop, Evaluation(lm, rows("held-out"), students), train.fingerprint

    def _no_cache(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self.troubles.tell("cache", sentence)

    def _loop(
        self, source: Source, students: Sequence[Student], device: torch.device, snapshot: Snapshot | None
    ) -> Loop:
        """The loop, where the last one left off."""
        loop = Loop(self.config, source, students, device, self.emit)
        if snapshot is not None:
            log.info("Going on from the checkpoint of step %s.", f"{snapshot.step:,}")
            loop.restore(snapshot)
        elif self.resume:
            log.info("There is no checkpoint to go on from; the training starts anew.")
        return loop

    def _tell_start(self, loop: Loop, device: torch.device, fingerprint: str, snapshot: Snapshot | None) -> None:
        versions = {"python": platform.python_version()}
        for library in _LIBRARIES:
            try:
                versions[library] = metadata.version(library)
            except metadata.PackageNotFoundError:
                continue
        self.emit(
            TrainingStarted(
                pid=os.getpid(),
                host=socket.gethostname(),
                device=str(device),
                device_name=devices.name(device),
                versions=versions,
                data_fingerprint=fingerprint,
                saes=tuple(student.describe() for student in loop.students),
                config=self.config,
                parameters=sum(student.parameters() for student in loop.students),
                resumed_from=snapshot.step if snapshot is not None else None,
            ),
            None,
        )
        if self.resume:
            self.emit(TrainingResumed(step=loop.step), None)
        names = ", ".join(student.name for student in loop.students)
        log.info(
            "Training %s of %s on %s: %s latents each, %s steps of %s tokens.",
            self.config.architecture_type,
            names,
            device,
            f"{loop.students[0].sae.latents:,}",
            f"{self.config.total_steps:,}",
            f"{self.config.batch_size:,}",
        )


class _Run:
    """The loop with everything that happens between its steps; `evaluated` is what a checkpoint kept of evaluations."""

    def __init__(
        self,
        trainer: Trainer,
        loop: Loop,
        checkpoints: Checkpoints,
        evaluation: Evaluating,
        device: torch.device,
        evaluated: Mapping[str, Any],
    ) -> None:
        self._trainer = trainer
        self._config = trainer.config
        self._emit = trainer.emit
        self._wishes = trainer.wishes
        self._loop = loop
        self._checkpoints = checkpoints
        self._evaluation = evaluation
        self._device = device
        # Earlier programs kept the mean over the SAEs alone.
        self._fvu = {int(step): fvu if isinstance(fvu, list) else [fvu] for step, fvu in evaluated.items()}
        self._saved_step = loop.step
        self._saved: CheckpointSaved | None = None
        self._narration = Narration(trainer.config, loop, trainer.progress)

    def to_the_end(self) -> Outcome:
        config, loop, wishes = self._config, self._loop, self._wishes
        interval = config.eval_interval
        evaluate_every = max(1, config.total_steps // 10) if interval is None else interval
        while loop.step < config.total_steps:
            if wishes.leave:
                return self._leave()
            if wishes.take_checkpoint():
                self._save("request")
            loop.advance()
            step = loop.step
            self._trainer.stepped(step)
            self._tell_diverged()
            self._narration.step()
            if step % config.log_interval == 0:
                self._narration.interval()
            # Before the checkpoint, which says how good it is.
            if evaluate_every and step % evaluate_every == 0 and step < config.total_steps:
                self._evaluate(last=False)
            if config.checkpoint_interval and step % config.checkpoint_interval == 0 and step < config.total_steps:
                self._save("interval")
        self._save("end")
        self._narration.step(last=True)
        self._narration.summary(self._evaluate(last=True))
        self._emit(TrainingCompleted(step=loop.step, seconds=loop.seconds), None)
        return "completed"

    def _tell_diverged(self) -> None:
        if over := [one.name for one in self._loop.students if one.diverged is not None]:
            self._trainer.troubles.tell(
                "diverged", f"Diverged, and left as it was while training goes on: {', '.join(over)}."
            )

    def _leave(self) -> Outcome:
        step = self._loop.step
        self._loop.drain()
        if step > 0:
            self._save("stop" if self._wishes.stop else "pause")
        self._narration.step(last=True)
        return self._trainer.leave(step)

    def _save(self, reason: Reason) -> None:
        loop = self._loop
        if self._saved_step == loop.step:
            if reason == "request" and self._saved is not None:
                # Whoever asked for it waits to hear of it.
                self._emit(msgspec.structs.replace(self._saved, reason=reason), None)
            return
        with loop.speed.hold():
            snapshot = loop.snapshot()
            snapshot.state["control_until"] = self._wishes.latest
            snapshot.state[EVALUATED] = {str(step): list(fvu) for step, fvu in self._fvu.items()}
            saved = self._write(snapshot, last=reason not in ("interval", "request"))
            if saved is None:
                return
            self._saved_step = loop.step
            latest = loop.latest
            self._saved = CheckpointSaved(
                step=loop.step,
                path=str(saved.path),
                size=saved.size,
                host=socket.gethostname(),
                loss=mean(event.loss for event in latest),
                fvu=mean(event.fvu for event in latest),
                reason=reason,
            )
            self._emit(self._saved, None)
            self._prune()

    def _write(self, snapshot: Snapshot, *, last: bool) -> Saved | None:
        """Save the checkpoint; None where that cannot be done now and training goes on. The last one is worth waiting
        for: with it everything would be lost that was trained since the one before."""
        tell = self._trainer.troubles.tell
        deadline, told = time.monotonic() + LAST_SECONDS, False
        while True:
            try:
                saved = self._checkpoints.save(snapshot)
            except OSError as error:
                if last and time.monotonic() > deadline:
                    raise
                then = "it is tried again until the disk takes it" if last else "training goes on"
                sentence = f"The checkpoint of step {snapshot.step} could not be saved ({error}); {then}."
                if not told:
                    log.error("%s", sentence)
                    told = True
                tell("checkpoint", sentence)
                if not last:
                    return None
                time.sleep(AGAIN_SECONDS)
            else:
                tell("checkpoint", None)
                return saved

    def _prune(self) -> None:
        try:
            for step in self._checkpoints.prune(self._scores()):
                self._emit(CheckpointDeleted(step=step, reason="superseded"), None)
        except OSError as error:
            log.error("An old checkpoint could not be deleted (%s); training goes on.", error)

    def _scores(self) -> dict[int, float]:
        """Step → mean FVU of the SAEs that have not diverged since; steps without one are left out."""
        learning = [student.diverged is None for student in self._loop.students]
        means = {
            step: mean(fvu for fvu, counts in zip(each, learning, strict=False) if counts and fvu is not None)
            for step, each in self._fvu.items()
        }
        return {step: score for step, score in means.items() if score is not None}

    def _evaluate(self, *, last: bool) -> list[EvaluationMade]:
        loop, wishes = self._loop, self._wishes
        loop.drain()
        with loop.speed.hold():
            limits = budget(self._device, last=last)
            try:
                made = self._evaluation.run(loop.step, limits, lambda: wishes.leave)
            except torch.OutOfMemoryError as error:
                log.error("There is not enough memory to evaluate step %s (%s); training goes on.", loop.step, error)
                made = []
        if made:
            self._fvu[loop.step] = [event.fvu for event in made]
        for event in made:
            self._emit(event, None)
        return made
