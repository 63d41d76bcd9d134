"""What a training will need: memory by part, tokens, time. From sizes alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from events.catalog import ModelRegistered
from events.training import TrainingConfig

from .activations.sources import BUFFER_BYTES, StoredActivations
from .config_fields import TRANSCODERS, kind_of
from .variants import configurations

Known = ModelRegistered | StoredActivations
"""What is known of where activations come from."""

_LATENT_SIZED = {
    "topk": (1.15, 3.0),
    "batchtopk": (1.3, 3.8),
    "matryoshka": (1.5, 4.9),
    "standard": (4.1, 4.1),
    "jumprelu": (6.7, 6.7),
    "gated": (6.6, 6.6),
}
"""Matrices (B, F) of float32 that a step holds at its peak, with sparse products and with dense ones, as measured;
where a penalty makes latents few, the first steps are dense."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a training will need.

    `tokens` are read in all; `parameters` counts the weights of all its SAEs; `memory_bytes` is the peak on its
    device, `memory` the same by part; `disk_bytes` is what a cache of activations takes; `seconds` is None where
    nothing is known about this machine's speed.
    """

    tokens: int
    parameters: int
    memory_bytes: int
    memory: dict[str, int]
    disk_bytes: int = 0
    seconds: float | None = None


def width_of(known: Known) -> int:
    """Dimensions of the activations that an SAE reads."""
    return known.width if isinstance(known, StoredActivations) else known.hidden_dim


def estimate(
    config: TrainingConfig, known: Known, *, devices: Sequence[str] = (), flops_per_second: float | None = None
) -> Estimate:
    """What a resolved configuration will need, from sizes alone; `devices` are those of the machine."""
    tokens = config.total_steps * config.batch_size
    width = width_of(known)
    given = known.target_width if isinstance(known, StoredActivations) else None
    each = configurations(config)
    transcoder = config.architecture_type in TRANSCODERS
    hooks = _number_of_hooks(config)
    weights = hooks * sum(_weights(one, width, given) for one in each)
    wanted = "cuda" if config.device == "auto" and any(one.startswith("cuda") for one in devices) else config.device
    on_gpu = wanted.startswith("cuda")
    at_once = min(config.batch_size, config.micro_batch_size or config.batch_size)
    slots = min(2**19, max(tokens // 4, config.batch_size))
    if isinstance(known, StoredActivations):
        row = (width + (given or 0 if transcoder else 0)) * (4 if known.dtype == "float32" else 2)
        affordable = max(BUFFER_BYTES, 2 * config.batch_size * row)
        buffered, model, cached = min(slots * row, affordable) if config.shuffle else 0, 0, 0
    else:
        element = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2 if on_gpu else 4}[config.model_dtype]
        buffered = slots * width * element * hooks * (2 if transcoder else 1)
        cached = tokens * width * element * hooks * (2 if transcoder else 1) if config.cache else 0
        model = (known.parameters or 12 * known.layers * width * width) * element
    memory = {
        # fp32 master weights, gradients and Adam's two moments
        "weights": weights * 4,
        # those of a part, and those of the parts before it
        "gradients": weights * 4 * (2 if at_once < config.batch_size else 1),
        "optimizer": weights * 8,
        # of one SAE at a time: what is as large as its pre-activations, and residuals
        "step": 4 * at_once * (round(max(_matrices(one, on_gpu) for one in each)) + 6 * max(width, given or 0)),
        "buffer": buffered,
        "language_model": model,
    }
    seconds = None
    if flops_per_second:
        seconds = tokens * flops_per_token(config, known) / flops_per_second
    return Estimate(
        tokens=tokens,
        parameters=weights,
        memory_bytes=sum(memory.values()),
        memory=memory,
        disk_bytes=cached,
        seconds=seconds,
    )


def _number_of_hooks(config: TrainingConfig) -> int:
    return 1 if config.activations else len(config.training_layers or ()) * len(config.hook_types or ())


def _weights(config: TrainingConfig, width: int, given: int | None) -> int:
    """How many numbers an SAE of a resolved configuration has, but for those of its latents' activation; `given` is the
    width of what a transcoder gives, where it is another."""
    latents = config.latent_dim or 0
    if given is None or config.architecture_type not in TRANSCODERS:
        given = width
    skip = 0
    if config.architecture_type == "skip":
        skip = width * given if config.skip_rank is None else (width + given) * config.skip_rank
    return (width + given) * latents + latents + given + skip


def flops_per_token(config: TrainingConfig, known: Known) -> float:
    """Floating-point operations that a token costs in a resolved configuration: the language model, where there is
    one, up to the highest layer that is read, and forward and backward of every SAE (2nF(1 + 4k/F) where gradients live
    on the active set)."""
    language_model = 0.0
    if isinstance(known, ModelRegistered):
        share = (max(config.training_layers or (), default=0) + 1) / known.layers
        language_model = 2 * (known.parameters or 12 * known.layers * known.hidden_dim**2) * share
    saes = sum(_sae_flops(one, width_of(known)) for one in configurations(config))
    return language_model + _number_of_hooks(config) * saes


def _sae_flops(config: TrainingConfig, width: int) -> float:
    latents = config.latent_dim or 0
    active = config.k or (config.target_l0 or 0) * latents
    return 2 * width * latents * (1 + 4 * active / max(latents, 1))


def _matrices(config: TrainingConfig, on_gpu: bool) -> float:
    """How many numbers a token's step holds at its peak in matrices of the size of its pre-activations."""
    sparse, dense = _LATENT_SIZED[kind_of(config)]
    return (dense if on_gpu else sparse) * (config.latent_dim or 0)
