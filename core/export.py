"""A trained SAE as files for other programs: in raw units, with what a checkpoint's training added folded away.

From a checkpoint, without torch. Weights come in float32. The scale c that activations were multiplied by is folded
(biases and thresholds are divided by it; in a transcoder by that of the target, o, and what leads from source to target
is multiplied by c / o), and so are the norms g_i of free decoder rows (rows are divided by g_i, what leads into latent
i is multiplied by it), so that whoever loads the file feeds raw activations and finds unit rows. A BatchTopK transcoder
chooses its latents without regard to g_i: its rows stay as they are.
Per-token normalisations cannot be folded: their name stays in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from events.training import Sae, sae_name

from .hook_names import FAMILIES, TRANSFORMER_LENS, place
from .run import RunSpec
from .variants import merged

Tensors = dict[str, np.ndarray]

SAE_LENS = "6.54.12"
"""The version of SAELens whose files these are; it takes files without one for those of an old version."""

Format = Literal["saelens", "safetensors"]
"""`saelens`: a folder an SAE, as `SAE.load_from_disk` reads it. `safetensors`: a file an SAE, with what describes it as
JSON in its header's `config`."""


class ExportError(Exception):
    """A checkpoint cannot be exported; the sentence says why."""


class Exported(NamedTuple):
    """One SAE: its name, what describes it (`cfg.json`), and its weights."""

    name: str
    config: dict[str, Any]
    tensors: Tensors


def exported(checkpoint: Path, spec: RunSpec) -> Iterator[Exported]:
    """Every SAE of a checkpoint's folder, read when its turn comes. Raises `ExportError`, before the first one."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text("utf-8"))
        config, saes, step = state["config"], state["saes"], state["step"]
        for index in range(len(saes)):
            _verify(checkpoint, _weights(index), state["files"])
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"The checkpoint {checkpoint} cannot be read: {error!r}.") from error

    def one(index: int) -> Exported:
        try:
            tensors = load_file(checkpoint / _weights(index))
        except (OSError, SafetensorError) as error:
            raise ExportError(f"The checkpoint {checkpoint} cannot be read: {error!r}.") from error
        return _exported(_own(config, saes[index]), saes[index], tensors, spec, step)

    return map(one, range(len(saes)))


def _own(config: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The configuration of one SAE: that of the training, or what its variant makes of it."""
    if "variant" not in facts:
        return config
    return {**merged(config, config["variants"][facts["variant"]]), "variants": None}


def _exported(config: dict[str, Any], facts: dict[str, Any], tensors: Tensors, spec: RunSpec, step: int) -> Exported:
    kind = _kind(config)
    return Exported(
        _folder_name(facts),
        _described(kind, config, facts, tensors, spec, step),
        _folded(_INFERENCE[kind](tensors), facts),
    )


def write(sae: Exported, folder: Path, format: Format = "saelens") -> Path:
    """Write an SAE into `folder`, as a new folder or file called after it; its path.

    Raises `ExportError` where that is there already, and OSError.
    """
    target = folder / (sae.name if format == "saelens" else f"{sae.name}.safetensors")
    if target.exists():
        raise ExportError(f"{target} is there already; an export wants a new folder.")
    described = msgspec.json.encode(sae.config)
    try:
        if format == "safetensors":
            folder.mkdir(parents=True, exist_ok=True)
            save_file(sae.tensors, target, metadata={"config": described.decode()})
            return target
        target.mkdir(parents=True)
        (target / "cfg.json").write_bytes(msgspec.json.format(described))
        save_file(sae.tensors, target / "sae_weights.safetensors")
    except SafetensorError as error:
        # What the library says of a full disk.
        raise OSError(f"{target}: {error}") from error
    return target


def _weights(index: int) -> str:
    return f"sae-{index}.safetensors"


def _verify(checkpoint: Path, name: str, files: dict[str, dict[str, Any]]) -> None:
    with (checkpoint / name).open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != files[name]["sha256"]:
        raise ValueError(f"{name} is damaged, its checksum differs")


# What each architecture is at inference, in the units that it was trained in and with unit decoder rows


def _unit_rows(tensors: Tensors, *into_latents: str) -> Tensors:
    norms = np.linalg.norm(tensors["W_dec"], axis=1)
    # A transcoder's rows begin at 0, and stay there where a latent never fired.
    norms = np.where(norms > 0, norms, 1.0).astype(norms.dtype)
    return {
        "W_enc": (tensors["W_enc"] * norms[:, None]).T,
        "W_dec": tensors["W_dec"] / norms[:, None],
        "b_dec": tensors["b_dec"],
        **{name: tensors[name] * norms for name in into_latents},
    }


def _with_threshold(tensors: Tensors) -> Tensors:
    # The threshold is one for all latents, of p_i·‖W_dec_i‖: that of unit rows.
    threshold = np.full(tensors["W_dec"].shape[0], max(0.0, float(tensors["threshold"])), dtype=np.float32)
    return {**_unit_rows(tensors, "b_enc"), "threshold": threshold}


def _jumprelu(tensors: Tensors) -> Tensors:
    folded = _unit_rows(tensors, "b_enc", "theta")
    threshold = folded.pop("theta")
    return {**folded, "threshold": threshold}


def _ranked_by_size(tensors: Tensors) -> Tensors:
    # A transcoder's latents are chosen by p_i alone: its rows stay as they are.
    threshold = np.full(tensors["W_dec"].shape[0], max(0.0, float(tensors["threshold"])), dtype=np.float32)
    kept = {name: tensors[name] for name in ("b_enc", "W_dec", "b_dec")}
    return {**kept, "W_enc": tensors["W_enc"].T, "threshold": threshold}


def _with_skip(inference: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    def function(tensors: Tensors) -> Tensors:
        skip = tensors["W_skip"]
        return {**inference(tensors), "W_skip": skip @ tensors["Q_skip"] if "Q_skip" in tensors else skip}

    return function


def _gated(tensors: Tensors) -> Tensors:
    return {**_unit_rows(tensors, "b_gate", "b_mag"), "r_mag": tensors["r_mag"]}


_INFERENCE: dict[str, Callable[[Tensors], Tensors]] = {
    "standard": lambda tensors: _unit_rows(tensors, "b_enc"),
    "topk": lambda tensors: _unit_rows(tensors, "b_enc"),
    "batchtopk": _with_threshold,
    "matryoshka": _with_threshold,
    "jumprelu": _jumprelu,
    "gated": _gated,
}
_TRANSCODERS: dict[str, Callable[[Tensors], Tensors]] = {
    "batchtopk": _ranked_by_size,
    "relu": lambda tensors: _unit_rows(tensors, "b_enc"),
    "jumprelu": _jumprelu,
}
for _activation, _inference in _TRANSCODERS.items():
    _INFERENCE |= {f"transcoder {_activation}": _inference, f"skip {_activation}": _with_skip(_inference)}

_LOADED_AS = {
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "transcoder relu": "transcoder",
    "transcoder batchtopk": "jumprelu_transcoder",
    "transcoder jumprelu": "jumprelu_transcoder",
    "skip relu": "skip_transcoder",
    "skip batchtopk": "jumprelu_skip_transcoder",
    "skip jumprelu": "jumprelu_skip_transcoder",
}
"""What an architecture is to whoever loads it, where that is not its own name."""

_IN_UNITS_OF_THE_OUTPUT: tuple[str, ...] = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")
_FROM_INPUT_TO_OUTPUT: tuple[str, ...] = ("W_enc", "W_skip")


def _kind(config: dict[str, Any]) -> str:
    kind: str = config["architecture_type"]
    return f"{kind} {config['activation']}" if kind in ("transcoder", "skip") else kind


def _folder_name(facts: dict[str, Any]) -> str:
    return (
        sae_name(msgspec.convert({key: facts[key] for key in Sae.__struct_fields__ if key in facts}, Sae))
        .replace(" → ", "-to-")
        .replace(" #", "-variant-")
    )


def _folds(mode: str) -> bool:
    return mode in ("none", "expected_average_only_in")


def _folded(tensors: Tensors, facts: dict[str, Any]) -> Tensors:
    """In raw units: x = c·raw of the source, and o·raw of what is given; latents then are in those of the latter."""
    source = facts["normalisation"]
    if not _folds(source["mode"]):
        return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    scale = facts.get("target_normalisation", source)["scale"]
    factors = dict.fromkeys(_IN_UNITS_OF_THE_OUTPUT, 1 / scale) | dict.fromkeys(
        _FROM_INPUT_TO_OUTPUT, source["scale"] / scale
    )
    return {
        name: np.ascontiguousarray(value * factors.get(name, 1.0), dtype=np.float32) for name, value in tensors.items()
    }


def _described(
    kind: str, config: dict[str, Any], facts: dict[str, Any], tensors: Tensors, spec: RunSpec, step: int
) -> dict[str, Any]:
    latents, width = tensors["W_dec"].shape
    mode: str = facts["normalisation"]["mode"]
    layer, hook = facts["layer"], facts["hook"]
    # Of activations in a folder nobody may have said what they are of.
    named = spec.stored is None or bool(config.get("training_layers") and config.get("hook_types"))
    family = spec.model.family if spec.model is not None else ""
    described: dict[str, Any] = {
        "architecture": _LOADED_AS.get(kind, kind),
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none" if _folds(mode) else mode,
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAE_LENS,
            "model_name": spec.model.source if spec.model is not None else None,
            "hook_name": f"blocks.{layer}.{TRANSFORMER_LENS[hook]}" if named else None,
            "hf_hook_name": place(family, layer, hook).hf_hook_name if family in FAMILIES else None,
            "hook_head_index": None,
            "context_size": config["context_size"],
            "prepend_bos": spec.stored is None,
            "exclude_special_tokens": spec.stored is None,
            "seqpos_slice": [None],
            "dataset_path": ", ".join(one.source for one in (spec.stored, *spec.datasets) if one is not None),
            "training_architecture": config["architecture_type"],
            "sae_studio": {
                "version": version("saestudio"),
                "training": spec.id,
                "name": spec.name,
                "step": step,
                "normalisation": facts["normalisation"],
                "config": config,
            },
        },
    }
    if "target_hook" in facts:
        target_layer, target_hook = facts["target_layer"], facts["target_hook"]
        described |= {"d_in": tensors["W_enc"].shape[1], "d_out": width, "apply_b_dec_to_input": False}
        described["metadata"]["hook_name_out"] = (
            f"blocks.{target_layer}.{TRANSFORMER_LENS[target_hook]}" if named else None
        )
        described["metadata"]["hf_hook_name_out"] = (
            place(family, target_layer, target_hook).hf_hook_name if family in FAMILIES else None
        )
    if kind == "topk":
        described |= {"k": config["k"], "rescale_acts_by_decoder_norm": False}
    return described
