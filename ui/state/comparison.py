"""Runs side by side: which line is whose, where their configurations differ, what came of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from events.training import TrainingConfig

from .. import text
from ..answers import Evaluation, Training
from ..steps import AXES, Columns
from ..theme import line_style
from .config_fields import FIELDS, Field, plain, words
from .evaluations import TONES as VERDICT_TONES
from .evaluations import newest
from .trainings import ARCHITECTURES, LABELS, TONES, fraction_done, last_part, sae_labels, seconds_since_start

MOST = 10
"""Runs that can be compared at once."""

MEAN = ""
"""The choice to show a run as the mean over its SAEs."""

EACH = "each"
"""The choice to show every SAE of a run as a line of its own."""

METRICS = ("loss", "fvu", "l0", "dead", "sparsity_coefficient", "grad_norm", "tokens_per_second")
"""What is drawn of every line; `dead` is in percent of its latents."""


@dataclass(frozen=True)
class Line:
    """A line in every chart, a column of every table. `sae` is the SAE that it shows.

    None shows the mean over all of them, -1 nothing: the run has no such SAE.
    """

    key: str
    id: str
    label: str
    colour: str
    dash: str
    sae: int | None = None

    def shows(self, sae: int) -> bool:
        """Whether it shows this SAE."""
        return self.sae is None or self.sae == sae


def lines(runs: dict[int, Training], sae: str = MEAN, own: dict[int, int] | None = None) -> list[Line]:
    """The lines of the runs by their slots: one a slot, or one an SAE where there is but one run.

    `own` are the SAEs of the slots that show another one than `sae` says.
    """
    own = own or {}
    if len(runs) == 1 and not own:
        (run,) = runs.values()
        labels = sae_labels(run.saes, len(run.saes))
        if len(labels) > 1:
            return [_line(f"sae{index}", run, label, index, index) for index, label in enumerate(labels)]
    found: list[Line] = []
    for slot, run in sorted(runs.items()):
        labels = sae_labels(run.saes, len(run.saes))
        name, which = run.name or run.id, None
        if slot in own:
            which = own[slot] if own[slot] < len(labels) else -1
            name += f" · {labels[which] if which >= 0 else f'SAE {own[slot]}'}"
        elif sae != MEAN:
            which = labels.index(sae) if sae in labels else -1
        found.append(_line(key_of(slot), run, name, slot, which))
    return found


def key_of(slot: int) -> str:
    """The key of the line that a slot shows."""
    return f"run{slot}"


def _line(key: str, run: Training, label: str, style: int, sae: int | None) -> Line:
    colour, dash = line_style(style)
    return Line(key=key, id=run.id, label=label, colour=colour, dash=dash, sae=sae)


def config_of(line: Line, run: Training) -> TrainingConfig | None:
    """The configuration that a line was trained with: its variant's where the run has variants."""
    config = run.config
    if config is None or not config.variants or line.sae is None or not 0 <= line.sae < len(run.saes):
        return config
    variant = run.saes[line.sae].variant
    if variant is None or variant >= len(config.variants):
        return config
    own = config.variants[variant]
    architecture = own.get("architecture_type", config.architecture_type)
    unused = {field.name for field in FIELDS if field.only is not None and architecture not in field.only}
    kept = {name: value for name, value in plain(config).items() if name not in unused and name != "variants"}
    return msgspec.convert({**kept, **own}, TrainingConfig)


def has_variants(run: Training) -> bool:
    """Whether a run's SAEs have configurations of their own."""
    return run.config is not None and bool(run.config.variants)


def choices_of_sae(runs: dict[int, Training]) -> list[str]:
    """The labels of all SAEs of several runs, the commonest first; empty where there is nothing to choose."""
    counts: dict[str, int] = {}
    for run in runs.values():
        for label in sae_labels(run.saes, len(run.saes)):
            counts[label] = counts.get(label, 0) + 1
    if len(runs) < 2 or all(len(run.saes) < 2 for run in runs.values()):
        return []
    return sorted(counts, key=lambda label: -counts[label])


def columns(line: Line, steps: Columns, saes: int, latents: int | None) -> dict[str, NDArray[np.float64]]:
    """The columns of a line, made from those of its run's steps: `AXES` and `METRICS`."""
    found = {name: np.asarray(steps[name], dtype=np.float64) for name in AXES}
    shown = [sae for sae in range(saes) if line.shows(sae)]
    for metric in METRICS:
        name = "dead_latents" if metric == "dead" else metric
        if name in steps:
            values = np.asarray(steps[name], dtype=np.float64)
            found[metric] = values if shown else np.full(len(values), math.nan)
            continue
        if not shown:
            found[metric] = np.full(len(found["step"]), math.nan)
            continue
        values = np.array([steps[f"{name}_{sae}"] for sae in shown], dtype=np.float64).mean(axis=0)
        found[metric] = values * (100 / latents if latents else math.nan) if metric == "dead" else values
    return found


def choices_of_line(
    run: Training, slot: int, *, sae: str, own: dict[int, int], taken: Collection[int], room: int
) -> list[dict[str, Any]]:
    """What one slot can show of a run with several SAEs: what `sae` says for all, or one of them.

    Not those that are `taken` by other slots. Each can have a line of its own where there is `room` for so many more.
    What cannot be chosen says why.
    """
    labels = sae_labels(run.saes, len(run.saes))
    if len(labels) < 2:
        return []
    shown = own.get(slot)
    missing = len(labels) - sum(index in taken for index in range(len(labels)))
    more = missing - (shown is None)
    each = "they are" if not missing else f"needs {MOST - room + more} lines, at most {MOST}" if more > room else ""
    choices = [("", f"mean of {len(labels)} SAEs" if sae == MEAN else f"{sae}, as all", "")]
    for index, label in enumerate(labels):
        choices.append((str(index), label, "has a line already" if index in taken and index != shown else ""))
    choices.append((EACH, "each on its own", each))
    now = "" if shown is None else str(shown)
    return [
        {
            "value": value,
            "label": f"{label} ({why})" if why else label,
            "disabled": bool(why),
            "chosen": value == now,
        }
        for value, label, why in choices
    ]


def offered(training: Training) -> dict[str, str]:
    """A run as it is offered to be added."""
    config = training.config
    about = [LABELS.get(training.status, training.status)]
    if config is not None:
        about += [ARCHITECTURES.get(config.architecture_type, config.architecture_type), last_part(config.model)]
    return {"id": training.id, "name": training.name or training.id, "about": " · ".join(about)}


# Tables


def head(line: Line, run: Training) -> dict[str, Any]:
    """The head of a line's column."""
    return {
        "key": line.key,
        "id": line.id,
        "label": line.label,
        "name": run.name or run.id,
        "colour": line.colour,
        "dash": line.dash,
        "href": f"?training={quote(line.id, safe='')}",
        "status": LABELS.get(run.status, run.status),
        "tone": TONES.get(run.status, "quiet"),
    }


def differences(runs: Sequence[TrainingConfig | None], *, every: bool = False) -> list[dict[str, Any]]:
    """A row for each field in which the configurations differ, or for `every` field that one of them sets."""
    rows: list[dict[str, Any]] = []
    for field in FIELDS:
        values = [_set(None if config is None else getattr(config, field.name)) for config in runs]
        known = [value for value, config in zip(values, runs, strict=True) if config is not None]
        differ = any(value != known[0] for value in known[1:])
        if differ or (every and any(value is not None for value in known)):
            rows.append(
                {
                    "name": field.name,
                    "label": field.label,
                    "unit": field.unit,
                    "help": field.help,
                    "differs": differ,
                    "cells": [
                        {"text": _cell(field, value, config), "quiet": value is None}
                        for value, config in zip(values, runs, strict=True)
                    ],
                }
            )
    return rows


def _set(value: Any) -> Any:
    """A value; None where it stands for nothing that was set."""
    return None if value in ((), "") else value


def _cell(field: Field, value: Any, config: TrainingConfig | None) -> str:
    if value is not None:
        return words(value)
    applies = config is not None and (field.only is None or config.architecture_type in field.only)
    return field.default or "not set" if applies else text.NOTHING


@dataclass(frozen=True)
class Result:
    """What came of a line: its run, the last row of its columns, and its newest evaluations."""

    line: Line
    run: Training
    last: dict[str, float]
    evaluations: Sequence[Evaluation] = ()

    @property
    def shown(self) -> list[Evaluation]:
        """The newest evaluation of every SAE that the line shows."""
        return [one for one in newest(self.evaluations) if self.line.shows(one.sae)]

    def mean(self, figure: Callable[[Evaluation], float | None]) -> float | None:
        """A figure of the newest evaluations, the mean over the SAEs that the line shows."""
        known = [value for one in self.shown if (value := figure(one)) is not None]
        return sum(known) / len(known) if known else None


_Say = Callable[[float | None], str]
_Value = Callable[[Result], float | None]


def _last(name: str) -> _Value:
    return lambda result: result.last.get(name)


def _percent(value: float | None) -> str:
    return text.NOTHING if value is None else f"{value:.1f} %"


_FIGURES: tuple[tuple[str, str, _Value, _Say, int], ...] = (
    ("tokens", "Tokens", _last("tokens"), text.short, 0),
    ("loss", "Loss", _last("loss"), text.metric, 0),
    ("fvu", "FVU", _last("fvu"), text.metric, -1),
    ("l0", "L0", _last("l0"), text.mean_count, 0),
    ("dead", "Dead latents", _last("dead"), _percent, -1),
    ("tokens_per_second", "Tokens/s", _last("tokens_per_second"), text.short, 1),
    ("evaluated_fvu", "FVU, evaluated", lambda one: one.mean(lambda made: made.fvu), text.metric, -1),
    ("evaluated_l0", "L0, evaluated", lambda one: one.mean(lambda made: made.l0), text.mean_count, 0),
    (
        "loss_recovered",
        "Loss recovered",
        lambda one: one.mean(lambda made: None if made.loss_recovered is None else made.loss_recovered * 100),
        _percent,
        1,
    ),
    ("kl", "KL divergence", lambda one: one.mean(lambda made: made.kl_spliced), text.metric, -1),
    ("shrinkage", "Shrinkage", lambda one: one.mean(lambda made: made.shrinkage), text.metric, 0),
    ("dense", "Dense latents", lambda one: one.mean(lambda made: made.dense_latents), text.mean_count, -1),
)
"""Name, label, value, how it is said, and whether less (-1) or more (1) of it is better."""


def figures(results: Sequence[Result], now: float) -> list[dict[str, Any]]:
    """What came of every line, a row for each figure; the best of a row is marked."""
    rows = [
        {"name": "verdict", "label": "Verdict", "cells": [_verdict(result) for result in results]},
        {"name": "steps", "label": "Steps", "cells": [{"text": _steps(result.run)} for result in results]},
        {
            "name": "time",
            "label": "Time",
            "cells": [{"text": text.duration(seconds_since_start(result.run, now))} for result in results],
        },
    ]
    for name, label, value, say, better in _FIGURES:
        values = [_finite(value(result)) for result in results]
        known = [one for one in values if one is not None]
        if not known:
            continue
        best = (max(known) if better > 0 else min(known)) if better and len(set(map(say, known))) > 1 else None
        cells = [{"text": say(one), "best": one is not None and one == best} for one in values]
        rows.append({"name": name, "label": label, "cells": cells})
    return rows


def _steps(run: Training) -> str:
    done = fraction_done(run)
    return text.count(run.step) if done is None else f"{text.count(run.step)} · {text.progress(done)}"


def _verdict(result: Result) -> dict[str, Any]:
    verdicts = [one.verdict for one in result.shown]
    worst = next((verdict for verdict in ("bad", "watch", "good") if verdict in verdicts), None)
    if worst is None:
        return {"text": text.NOTHING}
    return {
        "text": worst,
        "tone": VERDICT_TONES[worst],
        "title": "\n".join(reason for one in result.shown for reason in one.reasons),
    }


# The frontier


@dataclass(frozen=True)
class Point:
    """An SAE by what it costs (`l0`) and what it misses (`fvu`); not `evaluated`: as its newest step says."""

    line: Line
    label: str
    l0: float
    fvu: float
    evaluated: bool


def points(results: Sequence[Result], last: dict[str, dict[int, tuple[float, float]]]) -> list[Point]:
    """Every SAE that the lines show. `last` has by line the newest (L0, FVU) of its SAEs' steps."""
    found: list[Point] = []
    for result in results:
        labels = sae_labels(result.run.saes, len(result.run.saes))
        evaluated = {one.sae: (one.l0, one.fvu) for one in result.shown}
        stepped = last.get(result.line.key, {})
        for sae in sorted(evaluated.keys() | stepped.keys()):
            if not result.line.shows(sae):
                continue
            l0, fvu = evaluated.get(sae, (None, None))
            made = l0 is not None and fvu is not None
            if l0 is None or fvu is None:
                l0, fvu = stepped.get(sae, (math.nan, math.nan))
            if not (math.isfinite(l0) and math.isfinite(fvu)):
                continue
            name = labels[sae] if sae < len(labels) else f"SAE {sae}"
            label = result.line.label
            if label != name and not label.endswith(f" · {name}"):
                label += f" · {name}"
            found.append(Point(line=result.line, label=label, l0=l0, fvu=fvu, evaluated=made))
    return found


def densities(results: Sequence[Result]) -> dict[str, list[int]]:
    """How often the latents that a line shows fire, by line: bins without the latents that never fired."""
    found: dict[str, list[int]] = {}
    for result in results:
        known = [one.density_histogram[:-1] for one in result.shown if len(one.density_histogram) > 1]
        if known and any(map(sum, known)):
            found[result.line.key] = [sum(bins) for bins in zip(*known, strict=False)]
    return found


def frontier(found: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both, by rising L0."""
    best: list[Point] = []
    for point in sorted(found, key=lambda one: (one.l0, one.fvu)):
        if not best or point.fvu < best[-1].fvu:
            best.append(point)
    return best


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
