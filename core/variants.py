"""Variants: configurations that are trained side by side, on the same activations of one pass through the model.

A configuration's `variants` say what each of them has otherwise. What a variant leaves out it has from the
configuration, unless it chooses an architecture that has no use for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from events.training import TrainingConfig

from .config_fields import ABOUT, TRANSCODERS, applies, is_shared
from .fields import Problem


def merged(values: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a variant of the configuration `values` sets; without those that its architecture has no use
    for, but for its own: they are wrong then."""
    both = {**values, **variant}
    both.pop("variants", None)
    return {name: value for name, value in both.items() if name in variant or name not in ABOUT or applies(name, both)}


def configurations(config: TrainingConfig) -> tuple[TrainingConfig, ...]:
    """What is trained: the configuration, or what each of its variants makes of it."""
    if config.variants is None:
        return (config,)
    values = _plain(config)
    return tuple(msgspec.convert(merged(values, variant), TrainingConfig) for variant in config.variants)


def differences(config: TrainingConfig, variant: TrainingConfig) -> dict[str, Any]:
    """What `variant`, one of those of `config`, has otherwise: what leads from the one to the other."""
    ours, theirs = _plain(config), _plain(variant)
    return {name: value for name, value in theirs.items() if ours.get(name) != value}


def problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the variants of a configuration as such, before each is looked at as a configuration."""
    variants: tuple[Mapping[str, Any], ...] | None = values.get("variants")
    if variants is None:
        return
    if not variants:
        yield Problem("variants", "variants is empty; give at least one, or leave it out.")
    for number, variant in enumerate(variants):
        for field, value in variant.items():
            if value is None:
                yield Problem("variants", f"Variant {number}: {field} is null; leave it out.")
            elif field not in ABOUT:
                yield Problem("variants", f"Variant {number}: {field} is not a field of a configuration.")
            elif is_shared(field):
                yield Problem(
                    "variants",
                    f"Variant {number}: {field} is the same for all variants; set it in the configuration itself.",
                )
        architectures = [
            one.get("architecture_type") or TrainingConfig().architecture_type
            for one in (values, merged(values, variant))
        ]
        if len({one in TRANSCODERS for one in architectures}) > 1:
            yield Problem(
                "variants",
                f"Variant {number}: {architectures[1]} reads other hooks than {architectures[0]}; train it by itself.",
            )


def _plain(config: TrainingConfig) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(config).items() if value is not None}
