"""The SAEs that a training begins with: which hooks they read and give, and what each makes of what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from core.activations.statistics import HookStatistics
from core.sae.normalisation import Ends, Scaled, normalisation
from core.variants import configurations
from events.training import TrainingConfig

from .student import Pair, Student


class NothingToTrain(Exception):
    """The configuration names no layer or no hook, or was not filled in; the sentence says what is missing."""


def sources(config: TrainingConfig) -> list[Pair]:
    """The layers and hooks that are read. Raises `NothingToTrain`."""
    layers, hooks = config.training_layers, config.hook_types
    if config.activations:
        # What lies in a folder needs a name, even where nobody said which layer and hook it is of.
        layers = layers or (0,)
        hooks = hooks or (("resid_post",) if config.target_hook_type is None else ("mlp_in",))
    if not layers or not hooks:
        raise NothingToTrain("training_layers and hook_types must name at least one layer and one hook.")
    return [(layer, hook) for layer in layers for hook in hooks]


def target_of(config: TrainingConfig, pair: Pair) -> Pair:
    """The layer and hook whose activations an SAE of `pair` is to give: its own but for transcoders."""
    if config.target_hook_type is None:
        return pair
    return pair[0] + (config.target_layer_offset or 0), config.target_hook_type


def all_read(config: TrainingConfig) -> tuple[Pair, ...]:
    """Every layer and hook that is read, what is to be given included."""
    return tuple(dict.fromkeys(one for pair in sources(config) for one in (pair, target_of(config, pair))))


def new_students(config: TrainingConfig, found: Mapping[Pair, HookStatistics], device: torch.device) -> list[Student]:
    """One SAE for each layer and hook, and for each variant there, before its first step."""

    def scaled(one: TrainingConfig, pair: Pair) -> Scaled:
        facts = found[pair]
        return normalisation(
            one.normalize_activations,
            mean=facts.mean,
            mean_norm=facts.mean_norm,
            variance=facts.variance,
            sample=facts.sample,
        )

    students: list[Student] = []
    for pair in sources(config):
        target = target_of(config, pair)
        for number, one in _numbered(config):
            source = scaled(one, pair)
            ends = Ends(source, source if target == pair else scaled(one, target))
            students.append(Student.new(one, pair, ends, device, target=target, variant=number))
    return students


def _numbered(config: TrainingConfig) -> list[tuple[int | None, TrainingConfig]]:
    """What is trained on the activations of one hook, each with the number of its variant."""
    if config.variants is None:
        return [(None, config)]
    return list(enumerate(configurations(config)))
