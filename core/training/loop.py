"""The steps of a training: one batch of activations, one update of every SAE, its figures as events."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from events.event import Event, now_us
from events.training import StepTrained, TrainingConfig

from . import checkpoint
from .readback import Reading, Stamp, readback
from .student import FIELDS, NON_FINITE_LIMIT, Pair, Student, rate

log = logging.getLogger("core.training")

_MEMORY_EVERY = 16
_WINDOW = 4_096
_SKIPPED = FIELDS.index("skipped")


CUDA_TOLERANCE = 1e-5
"""By how much a weight of a resumed training may differ on CUDA from that of one in a single go: kernels may add up in
another order there each time. On a CPU both are the same to the bit."""


class NonFinite(Exception):
    """No SAE is left: each had too many steps in a row whose loss or gradient is not a number."""


class CheckpointMismatch(Exception):
    """A checkpoint is whole but belongs to another configuration; the sentence says what differs."""


class Source(Protocol):
    """Where batches come from: raw activations (B, n) by pair, the same tokens in the same order for every pair.

    `state` is JSON-able; taken after a batch, restoring it gives the following one.
    """

    def next_batch(self) -> Mapping[Pair, Tensor]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Speed:
    """Tokens per second of the last few seconds, by a clock that can be held."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self._held = 0.0
        self._marks: deque[tuple[float, int]] = deque()

    def now(self) -> float:
        """Seconds of training, less those in which the clock was held."""
        return time.monotonic() - self._held

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """What happens meanwhile is no training: evaluations, checkpoints."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._held += time.monotonic() - began

    def mark(self, tokens: int) -> float:
        """`tokens` have been trained in all; the rate in tokens per second, 0 while there is nothing to compare."""
        now = self.now()
        marks = self._marks
        marks.append((now, tokens))
        while len(marks) > 2 and now - marks[1][0] >= self.SECONDS:
            marks.popleft()
        seconds = now - marks[0][0]
        return (tokens - marks[0][1]) / seconds if seconds > 0 else 0.0


class Loop:
    """All SAEs of a training, step by step.

    `emit(event, occurred_at)` gets a `StepTrained` for every step and SAE, in order.
    """

    def __init__(
        self,
        config: TrainingConfig,
        source: Source,
        students: Sequence[Student],
        device: torch.device,
        emit: Callable[[Event, int | None], None],
    ) -> None:
        self.config = config
        self.students = tuple(students)
        self.step = 0
        self.latest: tuple[StepTrained, ...] = ()
        """The last step whose figures have arrived, one event for each SAE that took it."""
        self.speed = Speed()
        self._source = source
        self._device = device
        self._emit = emit
        self._readback = readback(device, len(self.students), len(FIELDS))
        self._memory: int | None = None
        self._seconds_before = 0.0
        self._began = self.speed.now()
        self._window: deque[StepTrained] = deque(maxlen=_WINDOW)
        self.speed.mark(0)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._seconds_before + self.speed.now() - self._began

    def advance(self) -> None:
        """Take one step. An SAE whose update had to be skipped too many times in a row takes no more.

        Raises `NonFinite` when none is left that does.
        """
        batch = self._source.next_batch()
        self.step += 1
        step = self.step
        figures = [
            student.step(batch, step, rate(student.config, step)) if student.diverged is None else student.idle()
            for student in self.students
        ]
        tokens = step * self.config.batch_size
        stamp = Stamp(step, now_us(), tokens, self.speed.mark(tokens), self._device_memory())
        self._readback.push(stamp, figures)
        self._report(self._readback.take())

    def drain(self) -> None:
        """Report the steps whose figures are still on their way."""
        self._report(self._readback.drain())

    def window(self) -> list[StepTrained]:
        """The events that were reported since the last call, the last few thousand at most."""
        window = list(self._window)
        self._window.clear()
        return window

    def snapshot(self) -> checkpoint.Snapshot:
        """Everything that the steps to come depend on."""
        self.drain()
        random_facts, random_tensors = checkpoint.random_state()
        tensors = {"random": random_tensors}
        for index, student in enumerate(self.students):
            tensors[f"sae-{index}"] = student.sae.tensors()
            tensors[f"optimiser-{index}"] = student.optimiser.tensors()
        state = {
            "tokens": self.step * self.config.batch_size,
            "seconds": self.seconds,
            "config": _plain(self.config),
            "saes": [student.facts() for student in self.students],
            "source": self._source.state(),
            "random": random_facts,
        }
        return checkpoint.Snapshot(self.step, state, tensors)

    def restore(self, snapshot: checkpoint.Snapshot) -> None:
        """Go on from `snapshot`: to the bit on a CPU, within `CUDA_TOLERANCE` on CUDA. Raises ValueError (one
        sentence) where it belongs to other data or another model."""
        self.step = snapshot.step
        for index, student in enumerate(self.students):
            student.sae.restore(snapshot.tensors[f"sae-{index}"])
            student.optimiser.restore(snapshot.tensors[f"optimiser-{index}"])
        self._source.restore(snapshot.state["source"])
        checkpoint.restore_random_state(snapshot.state["random"], snapshot.tensors["random"])
        self._seconds_before = snapshot.state["seconds"]
        self.speed = Speed()
        self._began = self.speed.now()
        self.speed.mark(self.step * self.config.batch_size)

    def _report(self, readings: list[Reading]) -> None:
        for reading in readings:
            stamp = reading.stamp
            events = tuple(self._event(stamp, index, row) for index, row in enumerate(reading.rows))
            for event in events:
                self._emit(event, stamp.occurred_at)
            self.latest = tuple(event for event in events if not _over(self.students[event.sae], event.step))
            self._window.extend(self.latest)
            for student, row in zip(self.students, reading.rows, strict=True):
                self._guard(student, stamp.step, skipped=row[_SKIPPED] > 0)

    def _event(self, stamp: Stamp, sae: int, row: list[float]) -> StepTrained:
        loss, reconstruction, sparsity, auxiliary, l0, fvu, dead, coefficient, grad_norm, _ = row
        student = self.students[sae]
        return StepTrained(
            step=stamp.step,
            sae=sae,
            loss=loss,
            loss_reconstruction=reconstruction,
            loss_sparsity=sparsity,
            loss_auxiliary=auxiliary,
            l0=l0,
            l0_fraction=l0 / student.sae.latents,
            fvu=fvu,
            dead_latents=int(dead),
            learning_rate=0.0 if _over(student, stamp.step) else rate(student.config, stamp.step),
            sparsity_coefficient=coefficient if student.sae.penalised else None,
            grad_norm=grad_norm,
            tokens=stamp.tokens,
            tokens_per_second=stamp.tokens_per_second,
            device_memory=stamp.device_memory,
        )

    def _guard(self, student: Student, step: int, *, skipped: bool) -> None:
        if student.diverged is not None:
            return
        if not student.note(step, skipped=skipped):
            if skipped:
                log.warning(
                    "Step %s, %s: loss or gradient is not a finite number; the update was skipped.",
                    f"{step:,}",
                    student.name,
                )
            return
        why = (
            f"loss or gradient was not a finite number in {NON_FINITE_LIMIT} steps in a row, up to step {step:,}; a"
            " lower learning rate may help."
        )
        if all(one.diverged is not None for one in self.students):
            raise NonFinite(f"{', '.join(one.name for one in self.students)}: {why}")
        log.error("%s learns no more, the others go on: %s", student.name, why)

    def _device_memory(self) -> int | None:
        if self._device.type != "cuda":
            return None
        if self._memory is None or self.step % _MEMORY_EVERY == 0:
            self._memory = torch.cuda.memory_reserved(self._device)
        return self._memory


def _over(student: Student, step: int) -> bool:
    """Whether `step` came after the last one that the SAE took."""
    return student.diverged is not None and step > student.diverged


_FREE = frozenset(
    {"device", "cache", "checkpoint_interval", "checkpoints_kept", "eval_interval", "log_interval", "auto_resume"}
)
"""Fields that may differ between a checkpoint and the run that goes on from it: they change no figure."""


def students_of(snapshot: checkpoint.Snapshot, config: TrainingConfig, device: torch.device) -> list[Student]:
    """The SAEs of a checkpoint, still without what they have learnt (`Loop.restore` gives it to them).

    Raises `CheckpointMismatch` where `config` would train something else.
    """
    # A field that the checkpoint's program did not have yet was what its default is.
    now, then = _plain(config), {**_plain(TrainingConfig()), **snapshot.state["config"]}
    changed = sorted(name for name in now if name not in _FREE and now[name] != then[name])
    if changed:
        raise CheckpointMismatch(
            f"The configuration differs from that of the checkpoint of step {snapshot.step:,} in"
            f" {', '.join(changed)}; start a new training instead."
        )
    return [
        Student.of_facts(config, facts, snapshot.tensors[f"sae-{index}"], device)
        for index, facts in enumerate(snapshot.state["saes"])
    ]


def _plain(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as JSON holds it: lists in place of tuples."""
    return msgspec.json.decode(msgspec.json.encode(config))
