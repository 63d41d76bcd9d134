"""Names and descriptions that a configuration suggests: one pure generator for dashboard, command line and API.

Configurations are plain mappings by the field names of `TrainingConfig`; they may be incomplete, name unregistered
models, or set what a start would refuse: what is set is described.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import count
from typing import Any, TypeGuard

import msgspec
from msgspec import inspect

from events.catalog import ModelRegistered
from events.training import TrainingConfig

from .config_rules import resolve
from .figures import js_number

MAX_NAME = 120
"""Longest generated name, in characters, a ` (2)` included."""

_DATASET_LENGTH = 24

_ARCHITECTURES = {
    "standard": "Std",
    "skip": "Skip",
    "transcoder": "Trans",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "gated": "Gated",
    "matryoshka": "Matryoshka",
}

_ENDING = re.compile(r"-(instruct|chat|it|base|hf|v\d+(\.\d+)*|\d{4}|\d{6}|\d{8})$", re.IGNORECASE)
_SIZE = re.compile(r"^(\d+x)?\d+(\.\d+)?[kmbt]$", re.IGNORECASE)

_DEFAULTS: dict[str, Any] = msgspec.to_builtins(TrainingConfig())

# Told by the fixed parts of the description, or by the name.
_TOLD = {
    "model", "datasets", "activations", "architecture_type", "hidden_dim", "latent_dim", "l1_alpha", "learning_rate",
    "batch_size", "total_steps", "training_layers", "target_l0",
}  # fmt: skip

_LABELS = {
    "hook_types": "Hooks",
    "target_hook_type": "Target",
    "target_layer_offset": "TargetOffset",
    "warmup_steps": "Warmup",
    "decay_steps": "Decay",
    "grad_clip_norm": "Clip",
    "weight_decay": "WeightDecay",
    "normalize_activations": "Norm",
    "normalize_decoder": "DecoderNorm",
    "dtype": "Dtype",
    "model_dtype": "ModelDtype",
    "seed": "Seed",
    "data_seed": "DataSeed",
    "context_size": "Context",
    "k": "k",
    "sparsity_coeff": "SparsityCoeff",
    "initial_threshold": "Thresh",
    "bandwidth": "BW",
}

# What the defaults of other fields depend on, as far as they do not depend on the model.
_DECIDING = ("architecture_type", "activation", "total_steps", "batch_size")

# Their defaults depend on the model, so that what is set is always told.
_OF_THE_MODEL = {"context_size"}


def template_name(config: Mapping[str, Any], taken: Collection[str] = ()) -> str:
    """`{Model}_{Dataset}_{Architecture}_{Layers}`, with ` (2)`, ` (3)`… where the name is in `taken`.

    A folder of activations stands for model and data set. At most `MAX_NAME` characters; the first part is cut first.
    """
    config = _readable(config)
    datasets: list[str] = config.get("datasets") or []
    folder: str = config.get("activations") or ""
    architecture: str = config.get("architecture_type") or _DEFAULTS["architecture_type"]
    parts = ("" if folder else _dataset_part(datasets), _ARCHITECTURES.get(architecture, architecture))
    tail = "_".join(part for part in (*parts, _layers_part(config)) if part)
    model = (_last_part(folder) or "Activations") if folder else _model_part(config.get("model") or "")
    number = 1
    while True:
        suffix = "" if number == 1 else f" ({number})"
        room = MAX_NAME - len(tail) - 1 - len(suffix)
        name = f"{model[: max(room, 1)]}_{tail}"[: MAX_NAME - len(suffix)] + suffix
        if name not in taken:
            return name
        number += 1


def template_description(config: Mapping[str, Any]) -> str:
    """What the configuration sets, in parts joined by ` | `: sizes, rates, layers, sparsity, then all else that differs
    from the defaults of its architecture."""
    config = _readable(config)
    parts = [_width(config)]
    parts.append(_part("L1", config.get("l1_alpha")))
    parts.append(_part("LR", config.get("learning_rate")))
    parts.append(_part("Batch", config.get("batch_size", _DEFAULTS["batch_size"])))
    parts.append(f"Steps: {_steps(config.get('total_steps', _DEFAULTS['total_steps']))}")
    layers = _layers(config)
    parts.append(f"Layers: {', '.join(map(js_number, layers))}" if layers else None)
    parts.append(_part("L0", config.get("target_l0")))
    parts.append(_top_k(config))
    told = {*_TOLD, "k" if config.get("top_k_sparsity") is None else "top_k_sparsity"}
    if config.get("architecture_type") == "jumprelu":
        for field in ("sparsity_coeff", "initial_threshold", "bandwidth"):
            parts.append(_part(_LABELS[field], config.get(field)))
            told.add(field)
    defaults = _defaults(config)
    for field in TrainingConfig.__struct_fields__:
        value = config.get(field)
        if field in told or value is None or value == _DEFAULTS[field]:
            continue
        if field not in _OF_THE_MODEL and value == defaults[field]:
            continue
        label = _LABELS.get(field, "".join(word.capitalize() for word in field.split("_")))
        parts.append(f"{label}: {_text(value)}")
    return " | ".join(part for part in parts if part)


def free_name(name: str, taken: Collection[str], longest: int) -> str:
    """The name, with ` (2)`, ` (3)`… where it is in `taken`; cut so that all has at most `longest` characters."""
    return _first_free(name, taken, longest, ("" if number == 1 else f" ({number})" for number in count(1)))


def copy_name(name: str, taken: Collection[str], longest: int) -> str:
    """`NAME (Copy)`, `NAME (Copy 2)`… that is not in `taken`, of at most `longest` characters."""
    return _first_free(name, taken, longest, (" (Copy)" if number == 1 else f" (Copy {number})" for number in count(1)))


def _first_free(name: str, taken: Collection[str], longest: int, suffixes: Iterator[str]) -> str:
    return next(found for suffix in suffixes if (found := name[: longest - len(suffix)].rstrip() + suffix) not in taken)


def _last_part(place: str) -> str:
    return place.strip().rstrip("/").rpartition("/")[2]


def _model_part(model: str) -> str:
    name = _last_part(model)
    if not name:
        return "Model"
    while (shorter := _ENDING.sub("", name)) != name and shorter:
        name = shorter
    parts = name.split("-")
    kept = parts[:3]
    kept += [part for part in parts[3:] if _SIZE.match(part)][:1]
    return "-".join(kept)


def _dataset_part(datasets: list[str]) -> str:
    if not datasets:
        return "Dataset"
    name = _last_part(datasets[0]).replace("_", "-") or "Dataset"
    if len(name) > _DATASET_LENGTH:
        words = name.split("-")
        kept = words[0]
        for word in words[1:]:
            if len(kept) + 1 + len(word) > _DATASET_LENGTH:
                break
            kept += "-" + word
        name = kept[:_DATASET_LENGTH] or name[:_DATASET_LENGTH]
    return name if len(datasets) == 1 else f"{name}+{len(datasets) - 1}"


def _layers(config: Mapping[str, Any]) -> list[int]:
    return sorted(set(config.get("training_layers") or ()))


def _layers_part(config: Mapping[str, Any]) -> str:
    layers = _layers(config)
    if not layers:
        return ""
    first, last = js_number(layers[0]), js_number(layers[-1])
    return f"L{first}" if len(layers) == 1 else f"L{first}-{last}"


def _width(config: Mapping[str, Any]) -> str | None:
    hidden, latent = config.get("hidden_dim"), config.get("latent_dim")
    if _is_number(hidden) and hidden and _is_number(latent):
        ratio = Decimal(latent) / Decimal(hidden)
        multiple = str(int(ratio)) if ratio == int(ratio) else _one_decimal(ratio)
        return f"Hidden: {js_number(hidden)} → Latent: {js_number(latent)} ({multiple}x)"
    if _is_number(latent):
        return f"Latent: {js_number(latent)}"
    if _is_number(hidden):
        return f"Hidden: {js_number(hidden)}"
    return None


def _top_k(config: Mapping[str, Any]) -> str | None:
    percent, k, latent = config.get("top_k_sparsity"), config.get("k"), config.get("latent_dim")
    if _is_number(percent):
        return f"TopK: {js_number(percent)}%"
    if not _is_number(k):
        return None
    if not _is_number(latent) or not latent:
        return f"k: {js_number(k)}"
    share = Decimal(100) * Decimal(k) / Decimal(latent)
    if share >= Decimal("0.1"):
        return f"TopK: {_one_decimal(share).removesuffix('.0')}%"
    return f"TopK: {js_number(float(f'{share:.2g}'))}%"


def _steps(steps: float) -> str:
    if steps < 1_000:
        return js_number(steps)
    return _one_decimal(Decimal(steps) / 1_000).removesuffix(".0") + "k"


def _one_decimal(value: Decimal) -> str:
    context = Context(prec=max(value.adjusted(), 0) + 8)
    return f"{value.quantize(Decimal('0.1'), rounding=ROUND_HALF_UP, context=context):f}"


def _part(label: str, value: Any) -> str | None:
    return f"{label}: {js_number(value)}" if _is_number(value) else None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if _is_number(value):
        return js_number(value)
    if isinstance(value, list):
        return ", ".join(map(_text, value))  # type: ignore[arg-type]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(one)}" for name, one in value.items()) + "}"  # type: ignore[union-attr]
    return str(value)


def _kind(kind: inspect.Type) -> tuple[type, bool]:
    """bool, float (any number) or str, and whether the field is a list of them."""
    match kind:
        case inspect.Metadata(type=inner):
            return _kind(inner)
        case inspect.UnionType(types=types):
            return _kind(next(one for one in types if not isinstance(one, inspect.NoneType)))
        case inspect.VarTupleType(item_type=item):
            return _kind(item)[0], True
        case inspect.BoolType():
            return bool, False
        case inspect.IntType() | inspect.FloatType():
            return float, False
        case inspect.DictType():
            return dict, False
        case _:
            return str, False


_KINDS = {field.name: _kind(inspect.type_info(field.type)) for field in msgspec.structs.fields(TrainingConfig)}


def _readable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration sets and what is of its field's kind, whatever its range; tuples as lists."""
    found: dict[str, Any] = {}
    for field, (kind, listed) in _KINDS.items():
        value = config.get(field)
        items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[arg-type]
        if listed == isinstance(value, (list, tuple)) and all(_is(kind, item) for item in items):
            found[field] = items if listed else value
    return found


def _is(kind: type, value: Any) -> bool:
    return _is_number(value) if kind is float else isinstance(value, kind)


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields would be where only the architecture and the length of the run are set."""
    deciding = {field: config[field] for field in _DECIDING if config.get(field) is not None}
    datasets = tuple(config.get("datasets") or ())
    anything = ModelRegistered(model_id="", source="", hidden_dim=1, layers=1, hooks=(), context_size=1)
    resolved = resolve(TrainingConfig(**deciding, datasets=datasets), anything)
    found = {name: _plain(value) for name, value in msgspec.structs.asdict(resolved).items()}
    if "activation" in deciding:
        # It decides others and has a default itself.
        found["activation"] = _defaults({**config, "activation": None})["activation"]
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # type: ignore[arg-type]


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
