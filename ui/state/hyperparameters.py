"""A training's configuration as its page shows it: every field, what differs from the defaults, and ready to copy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import tomli_w

from events.training import TrainingConfig

from .config_fields import FIELDS, GROUPS, Field, plain, words

_FIXED = {
    field.name: field.default for field in msgspec.structs.fields(TrainingConfig) if field.default not in (None, "", ())
}
"""The fields whose default is the same for every training, with that default."""


_DEFAULTS = TrainingConfig()


def in_toml(config: TrainingConfig) -> str:
    """The fields that a configuration sets, as `saestudio train` reads them."""
    return tomli_w.dumps(plain(config))


def in_json(config: TrainingConfig) -> str:
    """The fields that a configuration sets, as the API takes them."""
    return msgspec.json.format(msgspec.json.encode(plain(config)), indent=2).decode()


def fixed(config: TrainingConfig) -> dict[str, Any]:
    """What a configuration holds in the fields whose default does not depend on others, and what it is about."""
    return {
        name: value
        for name, value in plain(config).items()
        if name in ("model", "datasets", "activations") or name in _FIXED
    }


def next_set(config: TrainingConfig, defaults: TrainingConfig, known: Collection[str]) -> str | None:
    """The first field outside `known` that is not what `defaults` says; None where there is no other.

    A default may follow from what other fields are set to, so `defaults` is the completion of the fields in `known`:
    asked again with each field found, it leaves those that somebody has set.
    """
    for field in FIELDS:
        ours = getattr(config, field.name)
        # What a configuration leaves to the trainer is nobody's setting.
        if field.name not in known and ours is not None and ours != getattr(defaults, field.name):
            return field.name
    return None


def changed(config: TrainingConfig, found: Collection[str]) -> set[str]:
    """The fields that differ from their defaults: those with a fixed one, and `found` among the others."""
    return {name for name, default in _FIXED.items() if getattr(config, name) != default} | set(found)


def groups(config: TrainingConfig, differing: Collection[str]) -> list[dict[str, Any]]:
    """Every field that applies to the architecture, in groups; `differing` are those to be marked."""
    shown: list[dict[str, Any]] = []
    for group, title in GROUPS.items():
        fields = [_shown(field, config, field.name in differing) for field in applying(config) if field.group == group]
        if fields:
            shown.append({"title": title, "fields": fields})
    return shown


def applying(config: TrainingConfig) -> list[Field]:
    """The fields that architecture and source have a use for, and any other that is not at its default all the same."""
    reading = "folder" if config.activations else "text"
    return [
        field
        for field in FIELDS
        if field.applies_to(config.architecture_type, reading)
        or getattr(config, field.name) not in (None, getattr(_DEFAULTS, field.name))
    ]


def summary(config: TrainingConfig, differing: Collection[str] | None) -> str:
    """How many fields there are, and how many of them are not at their default (None: not known yet)."""
    number_of = len(applying(config))
    if differing is None:
        return f"{number_of} fields"
    return f"{number_of} fields, {len(differing)} not at their default"


def _shown(field: Field, config: TrainingConfig, differs: bool) -> dict[str, Any]:
    value = getattr(config, field.name)
    default = f"Default: {field.default}." if field.default else ""
    return {
        "name": field.name,
        "label": field.label,
        "value": field.default or "not set" if value is None else words(value),
        "unit": "" if value is None else field.unit,
        "set": value is not None,
        "differs": differs,
        "help": " ".join(part for part in (field.help, default, f"({field.name})") if part),
    }
