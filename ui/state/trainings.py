"""A training as its page, its card and the list show it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from events.event import Recorded
from events.log import LogWritten
from events.status import PROCESS_EXPECTED
from events.training import Sae, StepTrained, TrainingConfig, sae_name

from .. import text
from ..answers import Training
from . import markdown
from .evaluations import Worth, verdict

ARCHITECTURES = {
    "standard": "Standard",
    "skip": "Skip transcoder",
    "transcoder": "Transcoder",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "gated": "Gated",
    "matryoshka": "Matryoshka",
}

LABELS = {
    "queued": "Queued",
    "starting": "Starting…",
    "running": "Running",
    "pausing": "Pausing…",
    "paused": "Paused",
    "resuming": "Resuming…",
    "stopping": "Stopping…",
    "stopped": "Stopped",
    "interrupted": "Interrupted",
    "completed": "Completed",
    "failed": "Failed",
}

TONES = {
    "queued": "quiet",
    "starting": "info",
    "running": "good",
    "pausing": "warn",
    "paused": "warn",
    "resuming": "info",
    "stopping": "warn",
    "stopped": "quiet",
    "interrupted": "bad",
    "completed": "done",
    "failed": "bad",
}

_BEFORE_STEPS = ("queued", "starting", "resuming", "interrupted")
_ENDED = ("stopped", "completed", "failed", "interrupted", "paused")
_RESUMABLE = ("paused", "stopped", "failed", "interrupted")
_RETRIABLE = ("stopped", "failed", "interrupted", "completed")
_DELETABLE = ("queued", "paused", "stopped", "failed", "interrupted", "completed")
_STOPPABLE = ("queued", "starting", "running", "pausing", "resuming", "paused", "interrupted")


_TITLED = ("completed", "failed", "interrupted")
"""How a training ended without anybody having asked for it: worth to be seen from another tab."""

_NAME_LENGTH = 255
"""The longest name that the API takes."""


def sae_labels(saes: Sequence[Sae], number: int) -> list[str]:
    """The labels of `number` SAEs; those that are not described yet are numbered."""
    return [sae_name(saes[index]) if index < len(saes) else f"SAE {index}" for index in range(number)]


def target_l0(config: TrainingConfig | None) -> float | None:
    """How many latents the configuration wants active on a token; None where it does not say, or variants do."""
    if config is None or config.latent_dim is None or config.variants:
        return None
    if config.k is not None:
        return float(config.k)
    if config.top_k_sparsity is not None:
        return config.latent_dim * config.top_k_sparsity / 100
    if config.target_l0 is not None:
        return config.latent_dim * config.target_l0
    return None


def layers(config: TrainingConfig | None, saes: Sequence[Sae] = ()) -> str:
    """The layers that are trained on: 6, 8 or 0–15."""
    if saes and _names_a_place(config):
        return text.series([sae.layer for sae in saes])
    if config is not None and config.training_layers:
        return text.series(config.training_layers)
    return text.NOTHING


def hooks(config: TrainingConfig | None, saes: Sequence[Sae] = ()) -> str:
    """The hooks that are trained on, in their order."""
    names: Iterable[str] = [sae.hook for sae in saes] if _names_a_place(config) else ()
    if not saes and config is not None:
        names = config.hook_types or ()
    return ", ".join(dict.fromkeys(names)) or text.NOTHING


def read_from(config: TrainingConfig) -> str:
    """The model that is read, or the folder of activations in its place."""
    return config.activations or config.model


def _names_a_place(config: TrainingConfig | None) -> bool:
    """Whether anybody said of which layer and hook the activations are."""
    return config is None or not config.activations or bool(config.training_layers or config.hook_types)


def last_part(name: str) -> str:
    """A model's or data set's name without its owner or folder."""
    return name.rstrip("/").rsplit("/", 1)[-1] or name


def fraction_done(training: Training) -> float | None:
    """How much of its steps a training has done, 0–1; None where it does not say how many it will do."""
    if not training.total_steps:
        return None
    return min(1.0, training.step / training.total_steps)


def seconds_left(training: Training) -> float | None:
    """What a running training still needs at its present speed; None where that is not known."""
    if training.status != "running" or not training.tokens_per_second or not training.total_steps:
        return None
    if training.config is None:
        return None
    return max(0, training.total_steps - training.step) * training.config.batch_size / training.tokens_per_second


def seconds_since_start(training: Training, now: float) -> float | None:
    """From a training's first start to its end, or to `now` (s since 1970) while it goes on."""
    if training.started_at is None:
        return None
    end = now
    if training.status in _ENDED:
        last = training.ended_at or training.updated_at
        end = last / 1e6 if last else now
    return max(0.0, end - training.started_at / 1e6)


def all_latents(training: Training) -> int:
    """The latents of all the training's SAEs; 0 where that is not known."""
    width = training.config.latent_dim if training.config is not None else None
    return (width or 0) * len(training.saes)


def dead_share(training: Training) -> float | None:
    """The share of all latents that are dead, 0–1; None where it is not known how many there are."""
    latents = all_latents(training)
    return training.dead_latents / latents if training.dead_latents is not None and latents else None


def standing(training: Training, now: float) -> str:
    """In a few words, what a training is at: what it waits for, how long it needs, how it ended."""
    match training.status:
        case "queued":
            return training.reason or "waits for a free slot"
        case "starting":
            return "loading model and text"
        case "running":
            left = seconds_left(training)
            return f"{text.about(left)} left" if left is not None else ""
        case "pausing" | "stopping":
            return "saving a checkpoint"
        case "resuming":
            return "loading the checkpoint" if training.launched else "waits for a free slot"
        case "paused" | "stopped":
            return f"at step {text.count(training.step)}"
        case "completed":
            took = seconds_since_start(training, now)
            return f"took {text.duration(took)}" if took is not None else ""
        case _:
            return training.reason or ""


def tab_title(training: Training) -> str:
    """What a training's tab is called: how far it is, or how it ended, and its name."""
    name = training.name or training.id
    done = fraction_done(training)
    if training.status in PROCESS_EXPECTED and done is not None:
        return f"{text.progress(done)} · {name}"
    return f"{LABELS[training.status]} · {name}" if training.status in _TITLED else name


def list_row(training: Training, now: float | None = None) -> dict[str, Any]:
    """A line of the list, everything in it ready to be shown."""
    now = time.time() if now is None else now
    config = training.config
    done = fraction_done(training)
    dead = dead_share(training)
    return {
        "id": training.id,
        "name": training.name or training.id,
        "status": training.status,
        "label": LABELS.get(training.status, training.status),
        "tone": TONES.get(training.status, "quiet"),
        "done": done,
        "percent": "" if done is None else text.progress(done),
        "step": text.count(training.step),
        "model": last_part(read_from(config)) if config else text.NOTHING,
        "model_full": read_from(config) if config else "",
        "architecture": ARCHITECTURES.get(config.architecture_type, config.architecture_type) if config else "",
        "layers": layers(config, training.saes),
        "hooks": hooks(config, training.saes),
        "loss": text.metric(training.loss),
        "l0": text.mean_count(training.l0),
        "fvu": text.metric(training.fvu),
        "dead": text.share(dead) if dead is not None else text.count(training.dead_latents),
        "standing": (training.reason if training.status == "running" else None) or standing(training, now),
        "created_at": training.created_at,
        "tags": list(training.tags),
        "note": markdown.excerpt(training.note) if training.note else "",
        "verdict": verdict(training.verdict, training.reasons),
    }


def actions(training: Training) -> list[dict[str, Any]]:
    """The buttons that a training's status calls for, in their order. The server decides; these only spare refusals."""
    status = training.status
    buttons: list[dict[str, Any]] = []

    def button(name: str, label: str, tone: str = "plain", *, enabled: bool = True, busy: bool = False) -> None:
        buttons.append({"name": name, "label": label, "tone": tone, "enabled": enabled, "busy": busy})

    if status in ("starting", "running"):
        button("pause", "Pause", "main", enabled=status == "running")
    if status == "pausing":
        button("pause", "Pausing…", "main", enabled=False, busy=True)
    if status in _RESUMABLE:
        button("resume", "Resume", "main")
    if status == "resuming":
        button("resume", "Resuming…", "main", enabled=False, busy=True)
    if status in _STOPPABLE:
        button("stop", "Stop", "danger")
    if status == "stopping":
        button("stop", "Stopping…", "danger", enabled=False, busy=True)
    if status == "running":
        button("checkpoint", "Save checkpoint")
    if status in _RETRIABLE and training.config is not None:
        button("again", "Retry", "plain" if status in _RESUMABLE else "main")
    if status in _DELETABLE:
        button("delete", "Delete", "danger")
    return buttons


def links(training: Training) -> list[dict[str, Any]]:
    """Where else a training can be looked at."""
    id = quote(training.id, safe="")
    return [
        {"label": "Compare", "href": f"?page=compare&ids={id}", "title": "Beside other runs, or SAE beside SAE"},
        {
            "label": "Export HTML",
            "href": f"export.html?training={id}",
            "title": "One file that opens anywhere, without a server",
            "download": True,
        },
    ]


def retry_name(name: str) -> str:
    """The name of a training that repeats the one called `name`: run → run (retry) → run (retry 2)."""
    said = re.fullmatch(r"(.*) \(retry(?: (\d+))?\)", name, re.DOTALL)
    ending = f" (retry {int(said[2] or 1) + 1})" if said else " (retry)"
    return (said[1] if said else name)[: _NAME_LENGTH - len(ending)] + ending


def alert(training: Training, *, advice: bool = True) -> dict[str, str] | None:
    """What a person should know about how a training stands; with `advice`, what can be done about it too."""
    resume = " Resume goes on from the newest checkpoint, or from the beginning where there is none."
    retry = ""
    if training.config is not None:
        retry = " Retry begins a new training with the same configuration; to change it first, use it as form, below."
    match training.status:
        case "failed":
            said = f"Failed. {text.sentence(training.reason or 'It gave no reason.')} The log below says more."
            return {"tone": "bad", "text": said + (resume + retry if advice else "")}
        case "interrupted":
            said = f"Interrupted. {text.sentence(training.reason or 'Its process is gone.')}"
            return {"tone": "bad", "text": said + (resume if advice else "")}
        case "queued" | "resuming" if training.reason is not None and not training.launched:
            return {"tone": "plain", "text": training.reason}
        case status if status in PROCESS_EXPECTED and training.reason is not None:
            return {"tone": "warn", "text": training.reason}
        case _:
            return None


def subject(training: Training) -> list[dict[str, str]]:
    """What a training is about, each with the word for it: architecture, model, data, layers, hooks, device."""
    config = training.config
    found = {"Device": training.device_name or training.device or ""}
    if config is not None:
        numbers = layers(config, training.saes)
        several = len({sae.layer for sae in training.saes} or set(config.training_layers or ())) > 1
        found = {
            "Architecture": ARCHITECTURES.get(config.architecture_type, config.architecture_type),
            "Model": config.model,
            "Activations": config.activations or "",
            "Data set": ", ".join(config.datasets),
            "Layers": f"layer{'s' if several else ''} {numbers}" if numbers != text.NOTHING else "",
            "Hooks": hooks(config, training.saes),
            **found,
        }
    chips = [{"label": value, "title": title} for title, value in found.items() if value and value != text.NOTHING]
    if training.retry_of is not None:
        earlier = f"?training={quote(training.retry_of, safe='')}"
        chips.append({"label": f"retry of {training.retry_of}", "title": "Repeats", "href": earlier})
    return chips


def facts(training: Training, worth: Worth | None = None) -> list[dict[str, str]]:
    """A training's newest figures, each with what it is to be compared with; `worth` is its newest evaluation."""
    config = training.config
    dead = dead_share(training)
    target = target_l0(config)
    of_latents = of_tokens = ""
    if dead is not None:
        of_latents = f"{text.count(training.dead_latents)} of {text.count(all_latents(training))}"
    if config is not None and training.tokens is not None:
        of_tokens = f"{text.short(training.tokens)} of {text.short(config.total_steps * config.batch_size)} tokens"
    return [
        {"label": "Loss", "value": text.metric(training.loss), "note": "in units of FVU"},
        {
            "label": "L0",
            "value": text.mean_count(training.l0),
            "note": "active latents" if target is None else f"target {text.mean_count(target).removesuffix('.0')}",
        },
        {
            "label": "FVU",
            "value": text.metric(training.fvu),
            "note": "variance unexplained" if worth is None else f"evaluated {text.metric(worth.fvu)}",
        },
        {
            "label": "Loss recovered",
            "value": text.share(worth.recovered if worth is not None else None),
            "note": _recovered(worth),
        },
        {
            "label": "Dead latents",
            "value": text.count(training.dead_latents) if dead is None else text.share(dead),
            "note": of_latents,
        },
        {"label": "Tokens/s", "value": text.short(training.tokens_per_second), "note": of_tokens},
    ]


def _recovered(worth: Worth | None) -> str:
    if worth is None:
        return "not evaluated yet"
    return f"at step {text.count(worth.step)}" if worth.recovered is not None else "not measured"


def times(training: Training, now: float) -> list[str]:
    """How far a training is: steps, percent, time gone, time left or what it is at."""
    steps = f"{text.count(training.step)} / {text.count(training.total_steps)} steps"
    said = [steps if training.total_steps else f"{text.count(training.step)} steps"]
    done = fraction_done(training)
    if done is not None:
        said.append(text.progress(done))
    elapsed = seconds_since_start(training, now)
    if elapsed is not None:
        said.append(f"{text.duration(elapsed)} elapsed")
    waits = training.status in ("queued", "resuming") and training.reason is not None
    # What it waits for has a notice of its own.
    if training.status in ("queued", "starting", "running", "pausing", "resuming", "stopping") and not waits:
        said.append(standing(training, now))
    return [part for part in said if part]


def card(training: Training, now: float | None = None, worth: Worth | None = None) -> dict[str, Any]:
    """The head of a training's page: what it is, how far it is, its newest figures, its buttons."""
    return {
        "id": training.id,
        "name": training.name or training.id,
        "status": training.status,
        "label": LABELS.get(training.status, training.status),
        "tone": TONES.get(training.status, "quiet"),
        "chips": subject(training),
        "done": fraction_done(training),
        "times": times(training, time.time() if now is None else now),
        "verdict": worth.verdict if worth is not None else None,
        "facts": facts(training, worth),
        "actions": actions(training),
        "links": links(training),
        "alert": alert(training),
        "standing": standing(training, time.time() if now is None else now),
        "note": training.note,
        "note_tree": markdown.tree(training.note),
    }


@dataclass
class LiveTraining:
    """A training as the API gave it, with the figures of the steps that have come since.

    Its status is never guessed: `apply` says when the API has to be asked again.
    """

    training: Training
    position: int
    _newest: dict[int, tuple[int, StepTrained]] = field(default_factory=dict)
    """Of each SAE: the step that came last, and its position."""

    def load(self, training: Training, position: int) -> None:
        """Take over an answer of the API that is true at `position`; steps that came after it stay."""
        self.training = training
        self.position = max(self.position, position)
        self._newest = {sae: newest for sae, newest in self._newest.items() if newest[0] > position}
        self._take_figures()

    def apply(self, recorded: Sequence[Recorded]) -> bool:
        """Fold what happened in this training's streams since; True where the API has to be asked again."""
        ask = False
        for one in recorded:
            if one.position <= self.position:
                continue
            self.position = one.position
            match one.data:
                case StepTrained() as step:
                    self._newest[step.sae] = (one.position, step)
                    ask = ask or self.training.status in _BEFORE_STEPS
                case LogWritten():
                    pass
                case _:
                    ask = True
        self._take_figures()
        return ask

    def _take_figures(self) -> None:
        if not self._newest:
            return
        steps = [step for _, step in self._newest.values()]
        latest = max(steps, key=lambda step: step.step)
        # The SAEs of one step come one after the other: those that lag by more belong to an earlier attempt.
        steps = [step for step in steps if latest.step - step.step <= 1]
        self.training = _with_figures(self.training, steps, latest)


def _with_figures(training: Training, steps: Sequence[StepTrained], latest: StepTrained) -> Training:
    return msgspec.structs.replace(
        training,
        step=max(training.step, latest.step),
        loss=_mean(step.loss for step in steps),
        l0=_mean(step.l0 for step in steps),
        fvu=_mean(step.fvu for step in steps),
        dead_latents=sum(step.dead_latents for step in steps),
        tokens=latest.tokens,
        tokens_per_second=latest.tokens_per_second,
    )


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
