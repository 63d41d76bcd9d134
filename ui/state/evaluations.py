"""What a training's SAEs are worth on held-out text, as its page shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from events.training import TrainingConfig

from .. import text
from ..answers import Evaluation, Training
from ..theme import line_style

TONES = {"good": "good", "watch": "warn", "bad": "bad"}

_WORST = ("bad", "watch", "good")

_LOWEST = -7
"""The logarithm at which the first of the bins of a density histogram begins; the last of them ends at 0."""

_ENDED = ("completed", "stopped", "failed")


@dataclass(frozen=True)
class Worth:
    """The newest evaluation in short: means over the SAEs that still learn, or over all where none does, at `step`, and
    the worst verdict with every reason for it."""

    step: int
    fvu: float | None
    recovered: float | None
    verdict: dict[str, str] | None


@dataclass(frozen=True)
class _Figure:
    """A figure of an evaluation. `better` is -1 where less of it is better, 1 where more is, else 0."""

    name: str
    label: str
    help: str
    value: Callable[[Evaluation], float | None]
    say: Callable[[float | None], str]
    better: int = 0
    note: Callable[[Evaluation, float | None], str] = lambda one, wanted: ""


def _per_token(nats: float | None) -> str:
    return text.NOTHING if nats is None else text.metric(nats)


def _ce_increase(one: Evaluation) -> float | None:
    if one.ce_clean is None or one.ce_spliced is None:
        return None
    return one.ce_spliced - one.ce_clean


def _of_latents(count: int, one: Evaluation) -> str:
    latents = sum(one.density_histogram)
    return f"{text.share(count / latents)} of {text.count(latents)}" if latents else ""


FIGURES = (
    _Figure(
        "fvu", "FVU", "The share of the activations' variance that the reconstruction does not explain.",
        lambda one: one.fvu, text.metric, -1, lambda one, wanted: "variance unexplained",
    ),
    _Figure(
        "l0", "L0", "How many latents are active on a token.", lambda one: one.l0, text.mean_count, 0,
        lambda one, wanted: "" if wanted is None else f"target {text.mean_count(wanted).removesuffix('.0')}",
    ),
    _Figure(
        "loss_recovered", "Loss recovered",
        "How much of the language model's loss is kept with the reconstruction in place of the activations, against"
        " zeros in their place.",
        lambda one: one.loss_recovered, lambda value: text.NOTHING if value is None else f"{value * 100:.1f} %", 1,
        lambda one, wanted: "of the model's loss",
    ),
    _Figure(
        "ce_increase", "Loss increase",
        "By how much the language model's cross-entropy rises with the reconstruction in place of the activations.",
        _ce_increase, _per_token, -1,
        lambda one, wanted: f"{_per_token(one.ce_clean)} → {_per_token(one.ce_spliced)} nats"
        if _ce_increase(one) is not None else "",
    ),
    _Figure(
        "kl", "KL divergence",
        "How far the language model's predictions move with the reconstruction in place of the activations.",
        lambda one: one.kl_spliced, _per_token, -1, lambda one, wanted: "nats per token",
    ),
    _Figure(
        "shrinkage", "Shrinkage",
        "The reconstruction's length along the activations: below 1 it is too short, above 1 too long.",
        lambda one: one.shrinkage, text.metric, 0, lambda one, wanted: "1 is none",
    ),
    _Figure(
        "dead", "Dead latents", "Latents that have not fired for as long as the configuration calls dead.",
        lambda one: one.dead_latents, text.count, -1, lambda one, wanted: _of_latents(one.dead_latents, one),
    ),
    _Figure(
        "dense", "Dense latents", "Latents that fire on more than a tenth of the tokens.",
        lambda one: one.dense_latents, text.count, -1, lambda one, wanted: _of_latents(one.dense_latents, one),
    ),
    _Figure(
        "duplicates", "Near-duplicates", "Latents whose direction is almost another's: a cosine above 0.9.",
        lambda one: one.duplicate_latents, text.count, -1, lambda one, wanted: _of_latents(one.duplicate_latents, one),
    ),
)  # fmt: skip
"""What is shown of an evaluation, in its order."""


def newest(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The newest evaluation of every SAE, in the order of the SAEs."""
    found = {one.sae: one for one in sorted(evaluations, key=lambda one: one.step)}
    return [found[sae] for sae in sorted(found)]


def worth(evaluations: Sequence[Evaluation], labels: Sequence[str]) -> Worth | None:
    """The newest evaluation in short; None where there is none."""
    found = newest(evaluations)
    if not found:
        return None
    verdicts = [one.verdict for one in found]
    worst = next((verdict for verdict in _WORST if verdict in verdicts), None)
    said = [f"{_label(labels, one.sae)}: {reason}" for one in found for reason in one.reasons]
    counted = [one for one in found if not one.diverged] or found
    return Worth(
        step=max(one.step for one in found),
        fvu=_mean([one.fvu for one in counted]),
        recovered=_mean([one.loss_recovered for one in counted]),
        verdict=verdict(worst, said),
    )


def verdict(given: str | None, reasons: Sequence[str]) -> dict[str, str] | None:
    """A verdict (good, watch or bad) with its tone and every reason for it; None where there is none."""
    if given is None:
        return None
    return {
        "label": given,
        "tone": TONES.get(given, "quiet"),
        "title": "\n".join(reasons) or "Nothing in the newest evaluation calls for a look.",
    }


def panels(training: Training, evaluations: Sequence[Evaluation], labels: Sequence[str], wanted: float | None) -> Any:
    """What is shown of every SAE: verdict, reasons, figures with how they developed, and the latents' density.

    `wanted` is the number of active latents that the configuration asks for.
    """
    return [
        _panel(one, [each for each in evaluations if each.sae == one.sae], _label(labels, one.sae), wanted)
        for one in newest(evaluations)
    ]


def _panel(one: Evaluation, before: Sequence[Evaluation], label: str, wanted: float | None) -> dict[str, Any]:
    colour, dash = line_style(one.sae)
    return {
        "index": one.sae,
        "label": label,
        "colour": colour,
        "dash": dash,
        "verdict": {"label": one.verdict, "tone": TONES.get(one.verdict, "quiet")} if one.verdict else None,
        "reasons": list(one.reasons),
        "at": f"step {text.count(one.step)}",
        "timestamp": one.timestamp,
        "tokens": f"on {text.count(one.tokens)} tokens",
        "figures": [_figure(figure, one, before, wanted) for figure in FIGURES],
        "density": density(one.density_histogram),
    }


def _figure(figure: _Figure, one: Evaluation, history: Sequence[Evaluation], wanted: float | None) -> dict[str, Any]:
    value = figure.value(one)
    course = [(each.step, known) for each in history if (known := figure.value(each)) is not None]
    return {
        "name": figure.name,
        "label": figure.label,
        "value": figure.say(value),
        "note": figure.note(one, wanted) if value is not None else "not measured",
        "help": figure.help,
        "steps": [step for step, _ in course],
        "course": [known for _, known in course],
        "story": "\n".join(f"Step {text.count(step)}: {figure.say(known)}" for step, known in course[-20:]),
        "trend": _trend(figure, course),
    }


def _trend(figure: _Figure, course: Sequence[tuple[int, float]]) -> dict[str, str] | None:
    """Whether a figure rose or fell since the evaluation before, and whether that is for the better."""
    if len(course) < 2:
        return None
    (step, before), (_, now) = course[-2:]
    if figure.say(before) == figure.say(now):
        return {"sign": "=", "tone": "quiet", "title": f"as at step {text.count(step)}"}
    rose = now > before
    better = figure.better * (1 if rose else -1)
    return {
        "sign": "▲" if rose else "▼",
        "tone": "quiet" if not figure.better else "good" if better > 0 else "bad",
        "title": f"{'up' if rose else 'down'} from {figure.say(before)} at step {text.count(step)}",
    }


def density(histogram: Sequence[int]) -> dict[str, Any] | None:
    """How often the latents fire: bars, ticks in shares of the width, and a sentence. None where it is not known.

    The bar of the latents that never fired is apart and may be cut off: nothing else could be read beside it.
    """
    if len(histogram) < 2 or not sum(histogram):
        return None
    fired, never = list(histogram[:-1]), histogram[-1]
    tallest = max(fired) or never
    edges = [_LOWEST - _LOWEST * index / len(fired) for index in range(len(fired) + 1)]
    bars = [
        {
            "height": count / tallest,
            "title": f"{latents(count)} on {frequency(low)} to {frequency(high)} of tokens",
            "dense": low >= -1 - 1e-9,
        }
        for count, low, high in zip(fired, edges[:-1], edges[1:], strict=True)
    ]
    total = sum(histogram)
    said = f"{latents(total)}; {text.count(never)} never fired on the evaluated text."
    if sum(fired):
        said += f" Half of the others fire on less than {frequency(_median(fired, edges))} of tokens."
    return {
        "bars": bars,
        "never": {
            "height": min(1.0, never / tallest),
            "cut": never > tallest,
            "label": text.count(never),
            "title": f"{latents(never)} never fired",
        },
        "ticks": [{"at": (power - _LOWEST) / -_LOWEST, "label": frequency(power)} for power in (-6, -4, -2, 0)],
        "dense_from": (-1 - _LOWEST) / -_LOWEST,
        "summary": said,
    }


def latents(count: int) -> str:
    """A number of latents in words."""
    return f"{text.count(count)} latent{'' if count == 1 else 's'}"


def frequency(power: float) -> str:
    """A share of tokens given by its logarithm: 0.0001 %, 1.3 %, 100 %."""
    percent = 10.0**power * 100
    return f"{float(f'{percent:.2g}'):.6f}".rstrip("0").rstrip(".") + " %"


def _median(counts: Sequence[int], edges: Sequence[float]) -> float:
    """The upper edge of the bin with the middle one of all that are counted."""
    middle, seen = (sum(counts) + 1) // 2, 0
    for count, edge in zip(counts, edges[1:], strict=True):
        seen += count
        if seen >= middle:
            return edge
    return edges[-1]


def summary(evaluations: Sequence[Evaluation], training: Training) -> str:
    """When the newest evaluation was, and when the next one comes."""
    found = newest(evaluations)
    if not found:
        return ""
    step = max(one.step for one in found)
    said = [f"step {text.count(step)}"]
    tokens = {one.tokens for one in found}
    if len(tokens) == 1:
        said.append(f"{text.count(tokens.pop())} held-out tokens")
    coming = next_step(training)
    if coming is not None and coming > step:
        said.append(f"next at step {text.count(coming)}")
    return " · ".join(said)


def waiting(training: Training) -> str:
    """What there is to say of a training that was never evaluated."""
    if training.status in _ENDED:
        return "This training ended before it was evaluated."
    coming = next_step(training)
    if coming is None:
        return "Nothing has been evaluated yet."
    if training.total_steps is not None and coming >= training.total_steps:
        said = f"The evaluation comes at the end, after step {text.count(coming)}"
    else:
        said = f"The first evaluation comes at step {text.count(coming)}"
    seconds = _seconds_to(training, coming)
    return f"{said}, in about {text.about(seconds)}." if seconds is not None else f"{said}."


def next_step(training: Training) -> int | None:
    """The step at which a training that goes on is evaluated next; None where it does not go on or does not say."""
    config = training.config
    if config is None or training.status in _ENDED or not training.total_steps:
        return None
    every = _interval(config)
    if not every:
        return training.total_steps
    return min(training.total_steps, (training.step // every + 1) * every)


def _interval(config: TrainingConfig) -> int:
    return max(1, config.total_steps // 10) if config.eval_interval is None else config.eval_interval


def _seconds_to(training: Training, step: int) -> float | None:
    if training.status != "running" or not training.tokens_per_second or training.config is None:
        return None
    return (step - training.step) * training.config.batch_size / training.tokens_per_second


def _label(labels: Sequence[str], sae: int) -> str:
    return labels[sae] if sae < len(labels) else f"SAE {sae}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
