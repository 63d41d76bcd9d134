"""How a training goes, in words and figures for people: progress lines, log lines, warnings and the last summary."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

from events.training import EvaluationMade, StepTrained, TrainingConfig

from .loop import Loop
from .reporting import Progress, rate_in_words

log = logging.getLogger("core.training")

_ALARM_SHARE = 0.1
"""Share of the run that passes before an SAE can be said to collapse."""


class Narration:
    """Tells how `loop` goes."""

    def __init__(self, config: TrainingConfig, loop: Loop, progress: Progress) -> None:
        self._config = config
        self._loop = loop
        self._progress = progress
        self._alarmed: set[str] = set()

    def step(self, *, last: bool = False) -> None:
        """The latest step as a progress line; most are left out, the `last` never."""
        latest = self._loop.latest
        if not latest:
            return
        speed = latest[0].tokens_per_second
        left = (self._config.total_steps - latest[0].step) * self._config.batch_size
        self._progress.step(
            {
                "step": latest[0].step,
                "total_steps": self._config.total_steps,
                "loss": mean(event.loss for event in latest),
                "l0": mean(event.l0 for event in latest),
                "fvu": mean(event.fvu for event in latest),
                "tokens_per_second": speed,
                "eta_seconds": left / speed if speed > 0 else None,
            },
            last=last,
        )

    def interval(self) -> None:
        """A log line on the steps since the last one, as means over steps and SAEs, and warnings where needed."""
        window = self._loop.window()
        if not window:
            return
        students = self._loop.students
        latest = [event for event in window if event.step == window[-1].step]
        dead = sum(event.dead_latents for event in latest) / sum(students[event.sae].sae.latents for event in latest)
        log.info(
            "step %s loss %.4f L0 %.1f FVU %.3f dead %.1f %% %s",
            f"{latest[0].step:,}",
            _mean_of(window, "loss"),
            _mean_of(window, "l0"),
            _mean_of(window, "fvu"),
            100 * dead,
            rate_in_words(latest[0].tokens_per_second),
        )
        if self._loop.step >= _ALARM_SHARE * self._config.total_steps:
            self._watch(window)

    def summary(self, evaluations: Sequence[EvaluationMade]) -> None:
        """What came out, a sentence an SAE."""
        loop = self._loop
        log.info(
            "All %s steps are trained: %s tokens in %s.",
            f"{loop.step:,}",
            f"{loop.step * self._config.batch_size:,}",
            _duration(loop.seconds),
        )
        for event in evaluations:
            student = loop.students[event.sae]
            if student.diverged is not None:
                log.warning("%s diverged: it has learnt nothing since step %s.", student.name, f"{student.diverged:,}")
            if event.fvu is None or event.l0 is None:
                log.warning("%s reconstructs nothing finite.", student.name)
                continue
            spliced = (
                ""
                if event.loss_recovered is None
                else f" Spliced into the model it keeps {event.loss_recovered:.1%} of its loss."
            )
            log.info(
                "%s leaves %.1f %% of the variance unexplained (FVU %.3f) on %s held-out tokens, with %.1f active"
                " latents per token (L0); %s of its %s latents are dead.%s",
                student.name,
                100 * event.fvu,
                event.fvu,
                f"{event.tokens:,}",
                event.l0,
                f"{event.dead_latents:,}" if event.dead_latents else "none",
                f"{student.sae.latents:,}",
                spliced,
            )

    def _watch(self, window: list[StepTrained]) -> None:
        """Warn once of each sign that an SAE is collapsing."""
        for index, student in enumerate(self._loop.students):
            own = [event for event in window if event.sae == index]
            if not own:
                continue
            sae = student.sae
            l0 = _mean_of(own, "l0")
            signs = {
                "more than half of its latents are dead": own[-1].dead_latents > sae.latents / 2,
                "more than 95 % of the variance is unexplained": _mean_of(own, "fvu") > 0.95,
            }
            if sae.wanted_l0 is not None:
                signs[f"L0 is below a tenth of the {sae.wanted_l0:g} that were asked for"] = l0 < sae.wanted_l0 / 10
            else:
                signs["less than one latent is active per token; the sparsity coefficient is too large"] = l0 < 1
                signs["more than a quarter of its latents are active; the sparsity coefficient is too small"] = (
                    l0 > sae.latents / 4
                )
            for sign, seen in signs.items():
                if seen and (message := f"{student.name}: {sign}.") not in self._alarmed:
                    self._alarmed.add(message)
                    log.warning("%s", message)


def mean(values: Iterable[float]) -> float | None:
    """None where there is no finite mean."""
    found = list(values)
    average = sum(found) / len(found) if found else math.nan
    return average if math.isfinite(average) else None


def _mean_of(events: Sequence[StepTrained], field: str) -> float:
    return sum(getattr(event, field) for event in events) / len(events)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
