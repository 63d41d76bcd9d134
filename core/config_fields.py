"""What `TrainingConfig` says about its fields, and which of them an architecture has a use for. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from events.training import TrainingConfig

TRANSCODERS = ("transcoder", "skip")

ACTIVATION_FIELDS = {
    "k": ("batchtopk",),
    "top_k_sparsity": ("batchtopk",),
    "target_l0": ("relu", "jumprelu"),
    "l1_alpha": ("relu", "jumprelu"),
    "sparsity_coeff": ("jumprelu",),
    "initial_threshold": ("jumprelu",),
    "bandwidth": ("jumprelu",),
    "auxk_coefficient": ("batchtopk", "jumprelu"),
    "share_latents_after": ("batchtopk",),
}
"""A transcoder's sparsity fields depend on its activation as an autoencoder's do on its architecture."""


def _abouts() -> dict[str, msgspec.Meta]:
    return {
        field.name: next(one for one in get_args(field.type)[1:] if isinstance(one, msgspec.Meta) and one.description)
        for field in msgspec.structs.fields(TrainingConfig)
    }


ABOUT: dict[str, msgspec.Meta] = _abouts()
"""A description of each field, and in `extra` unit, only, reading, default, group, advanced, shared."""


def only(field: str) -> tuple[str, ...] | None:
    """The architectures that have a use for a field; None: all of them."""
    return (ABOUT[field].extra or {}).get("only")


def is_shared(field: str) -> bool:
    """Whether all variants of a training have this field in common."""
    return bool((ABOUT[field].extra or {})["shared"])


def applies(field: str, values: Mapping[str, Any]) -> bool:
    """Whether what the configuration `values` trains has a use for a field."""
    architecture = values.get("architecture_type") or TrainingConfig().architecture_type
    chosen = only(field)
    if chosen is not None and architecture not in chosen:
        return False
    if architecture in TRANSCODERS and field in ACTIVATION_FIELDS:
        return (values.get("activation") or "batchtopk") in ACTIVATION_FIELDS[field]
    return True


def kind_of(config: TrainingConfig) -> str:
    """The autoencoder that a configuration's sparsity works like: a transcoder's activation decides it."""
    if config.architecture_type not in TRANSCODERS:
        return config.architecture_type
    return {"relu": "standard", "jumprelu": "jumprelu"}.get(config.activation or "", "batchtopk")
