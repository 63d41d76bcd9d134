"""What a configuration must satisfy, what its defaults are, and what it will need. No torch.

Form, server, command line and trainer share these rules. All problems of a configuration are found at once, each at
its field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from events.catalog import DatasetRegistered, ModelRegistered
from events.training import Reading, TrainingConfig

from .activations.sources import StoredActivations
from .catalogue import absolute
from .config_fields import ABOUT, ACTIVATION_FIELDS, TRANSCODERS, applies, kind_of, only
from .estimate import Estimate, Known, estimate, width_of
from .fields import Problem, convert_fields
from .folder_rules import find_folder, folder_problems, folder_warnings
from .variants import configurations, differences, merged
from .variants import problems as variant_problems

_UNIT_ROWS = ("topk", "batchtopk", "matryoshka")
_PENALISED = ("standard", "gated", "jumprelu")
_PER_TOKEN = ("layer_norm", "constant_norm_rescale")

_SPARSITY = frozenset({"architecture_type", "activation", "latent_dim", "k", "top_k_sparsity", "target_l0"})
"""What must be sound for defaults and limits of sparsity to mean anything."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a check.

    `config` has every default filled in and is None where there is a problem. `unregistered` lists fields and ids that
    the catalogue does not hold: no problem yet, for somebody may look at them, but nothing that depends on them
    could be checked.
    """

    config: TrainingConfig | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    estimate: Estimate | None = None
    unregistered: tuple[Problem, ...] = ()


def check(
    raw: Mapping[str, Any],
    models: Iterable[ModelRegistered],
    datasets: Iterable[DatasetRegistered],
    *,
    folders: Iterable[StoredActivations] = (),
    devices: Sequence[str] | None = None,
    flops_per_second: float | None = None,
) -> Checked:
    """Everything that can be said about the configuration `raw` (plain data, by the field names of `TrainingConfig`).

    `folders` are the folders of activations that were looked at; `devices` are the names that this machine has (`cpu`,
    `cuda:0`; None: not known here) and `flops_per_second` the speed that it reached, for an estimate of the time.
    """
    values, problems = convert_fields(raw, TrainingConfig, what="a configuration")
    unregistered: list[Problem] = []
    known: Known | None = None
    if values.get("activations"):
        known = find_folder(values["activations"], folders)
        if known is None:
            unregistered.append(Problem("activations", values["activations"]))
    elif not any(problem.field == "activations" for problem in problems):
        known = _registered_model(values, models, problems, unregistered)
        _check_datasets(values, datasets, problems, unregistered)
    problems += _examined(values, problems, known, devices)
    problems += _variants_examined(values, problems, known, devices)
    if problems:
        return Checked(problems=tuple(dict.fromkeys(problems)), unregistered=tuple(unregistered))
    config = msgspec.convert(values, TrainingConfig)
    if known is None:
        return Checked(unregistered=tuple(unregistered), warnings=_warned(config, None))
    config = resolve(config, known)
    return Checked(
        config=None if unregistered else config,
        warnings=_warned(config, known),
        estimate=estimate(config, known, devices=devices or (), flops_per_second=flops_per_second),
        unregistered=tuple(unregistered),
    )


def resolve(config: TrainingConfig, known: Known) -> TrainingConfig:
    """The configuration with every default filled in that depends on the model, or the folder of activations, or on
    other fields.

    `k` stands for `top_k_sparsity` afterwards. What only the trainer can know stays None: `grad_clip_norm`
    (measured activations), and `skip_rank` where the skip has full rank.
    """
    filled: dict[str, Any] = {}

    def default(field: str, value: Any) -> Any:
        current = getattr(config, field)
        if current is not None:
            return current
        filled[field] = value
        return value

    architecture = config.architecture_type
    width = width_of(known)
    default("hidden_dim", width)
    if isinstance(known, StoredActivations):
        # Not told which layer and hook, nobody knows them.
        filled["activations"] = known.source
    else:
        default("training_layers", (known.layers // 2,))
        default("hook_types", ("mlp_in",) if architecture in TRANSCODERS else ("resid_post",))
        default("context_size", min(known.context_size, 1_024))
        default("dataset_weights", (1.0,) * len(config.datasets))
    if architecture not in TRANSCODERS:
        default("normalize_decoder", architecture in _UNIT_ROWS)
    latents = default("latent_dim", 16 * width)
    if architecture in TRANSCODERS:
        default("target_hook_type", "mlp_out")
        if isinstance(known, ModelRegistered):
            default("target_layer_offset", 0)
        default("activation", "batchtopk")
    kind = kind_of(config)

    wanted = max(1, min(50, width // 8))
    if kind in _UNIT_ROWS:
        if config.top_k_sparsity is not None:
            filled["k"] = max(1, round(config.top_k_sparsity / 100 * latents))
            filled["top_k_sparsity"] = None
        else:
            default("k", wanted)
    else:
        if config.l1_alpha is None and config.sparsity_coeff is None:
            default("target_l0", wanted / latents)
        if kind == "jumprelu":
            default("initial_threshold", 0.02)
            default("bandwidth", 0.1)
    if kind in (*_UNIT_ROWS, "jumprelu"):
        default("auxk_coefficient", 1 / 8)
    if kind in ("batchtopk", "matryoshka"):
        default("share_latents_after", 0.8)

    tokens = config.total_steps * config.batch_size
    default("dead_token_threshold", min(max(3 * tokens // 1_000, 10_000), 10_000_000))
    default("learning_rate", default_learning_rate(latents, config.total_steps))
    default("warmup_steps", min(1_000, config.total_steps // 20))
    default("decay_steps", config.total_steps // 5)
    default("eval_interval", max(1, config.total_steps // 10))
    resolved = msgspec.structs.replace(config, **filled)
    if config.variants is None:
        return resolved
    each = [resolve(one, known) for one in configurations(config)]
    # A default that a variant does not have (a target, beside a coefficient of its own) is not for it to inherit.
    unlike = {name: None for name in filled if any(_lacks(one, name) for one in each)}
    resolved = msgspec.structs.replace(resolved, **unlike)
    return msgspec.structs.replace(resolved, variants=tuple(differences(resolved, one) for one in each))


def _lacks(config: TrainingConfig, field: str) -> bool:
    """Whether a resolved configuration leaves a field open that it could have."""
    chosen = {"architecture_type": config.architecture_type, "activation": config.activation}
    return getattr(config, field) is None and applies(field, chosen)


def _examined(
    values: Mapping[str, Any], problems: Sequence[Problem], known: Known | None, devices: Sequence[str] | None
) -> list[Problem]:
    """What is wrong with fields that are sound each by itself; `problems` are those that were found in them."""
    found: list[Problem] = []
    if not any(problem.field == "architecture_type" for problem in problems):
        found += _applicability(values)
    found += _cross_field(values, known, devices)
    if known is not None and not _SPARSITY.intersection(problem.field for problem in (*problems, *found)):
        without = {name: value for name, value in values.items() if name != "variants"}
        found += _resolved_problems(resolve(msgspec.convert(without, TrainingConfig), known))
    return found


def _variants_examined(
    values: Mapping[str, Any], problems: Sequence[Problem], known: Known | None, devices: Sequence[str] | None
) -> list[Problem]:
    """What is wrong with the variants, less what is wrong with the configuration itself."""
    found = list(variant_problems(values))
    if found or any(problem.field in ("variants", "architecture_type") for problem in problems):
        return found
    told = set(problems)
    for number, variant in enumerate(values.get("variants") or ()):
        theirs, wrong = convert_fields(merged(values, variant), TrainingConfig, what="a configuration")
        wrong += _examined(theirs, wrong, known, devices)
        found += [
            Problem("variants", f"Variant {number}: {problem.message}")
            for problem in dict.fromkeys(wrong)
            if problem not in told
        ]
    return found


def _warned(config: TrainingConfig, known: Known | None) -> tuple[Problem, ...]:
    """Warnings of what is trained; one that not all variants share is at `variants`."""
    each = [tuple(_warnings(one, known)) for one in configurations(config)]
    common = [warning for warning in each[0] if all(warning in theirs for theirs in each)]
    own = [
        Problem("variants", f"Variant {number}: {warning.message}")
        for number, theirs in enumerate(each)
        for warning in theirs
        if warning not in common
    ]
    return (*common, *own)


def default_learning_rate(latents: int, steps: int) -> float:
    """2e-4 / sqrt(F / 2^14) (Gao et al. 2024, fig. 3), three times that in runs under 10,000 steps."""
    rate = 2e-4 / math.sqrt(latents / 2**14) * (3 if steps < 10_000 else 1)
    return min(max(rate, 1e-6), 1e-2)


def find_model(wanted: str, models: Iterable[ModelRegistered]) -> ModelRegistered | None:
    """The registered model with that id, else the one with that source."""
    models, place = list(models), absolute(wanted)
    return next((m for m in models if m.model_id == wanted), None) or next(
        (m for m in models if m.source in (wanted, place)), None
    )


def find_dataset(wanted: str, datasets: Iterable[DatasetRegistered]) -> DatasetRegistered | None:
    """The registered data set with that id, else the one with that source."""
    datasets, place = list(datasets), absolute(wanted)
    return next((d for d in datasets if d.dataset_id == wanted), None) or next(
        (d for d in datasets if d.source in (wanted, place)), None
    )


def _registered_model(
    values: Mapping[str, Any],
    models: Iterable[ModelRegistered],
    problems: list[Problem],
    unregistered: list[Problem],
) -> ModelRegistered | None:
    if any(problem.field == "model" for problem in problems):
        return None
    wanted = values.get("model", "").strip()
    if not wanted:
        problems.append(
            Problem("model", "model is missing: give a catalogue id such as demo, a local folder or a hub id.")
        )
        return None
    found = find_model(wanted, models)
    if found is None:
        unregistered.append(Problem("model", wanted))
    return found


def _check_datasets(
    values: Mapping[str, Any],
    datasets: Iterable[DatasetRegistered],
    problems: list[Problem],
    unregistered: list[Problem],
) -> None:
    if any(problem.field == "datasets" for problem in problems):
        return
    chosen: tuple[str, ...] = values.get("datasets", ())
    if not chosen or not all(one.strip() for one in chosen):
        problems.append(
            Problem("datasets", "datasets is missing: give at least one catalogue id such as stdlib, path or hub id.")
        )
        return
    datasets = list(datasets)
    for number, one in enumerate(chosen):
        if one in chosen[:number]:
            problems.append(Problem("datasets", f"datasets names {one!r} twice; use dataset_weights for its share."))
        elif find_dataset(one, datasets) is None:
            unregistered.append(Problem("datasets", one))
    weights = values.get("dataset_weights")
    if weights is not None and len(weights) != len(chosen):
        problems.append(
            Problem(
                "dataset_weights",
                f"dataset_weights has {len(weights)} numbers for {len(chosen)} data sets; give one for each.",
            )
        )


def _applicability(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Fields that are set although the source of activations, the architecture, or the transcoder's activation, has no
    use for them."""
    architecture = values.get("architecture_type", "topk")
    reading: Reading = "folder" if values.get("activations") else "text"
    for field in msgspec.structs.fields(TrainingConfig):
        if (ABOUT[field.name].extra or {})["reading"] in (None, reading):
            continue
        if values.get(field.name) in (None, "", field.default):
            continue
        yield Problem(
            field.name,
            f"{field.name} does not apply to a folder of activations; leave it out, or leave activations out."
            if reading == "folder"
            else f"{field.name} applies to a folder of activations only; name one in activations, or leave it out.",
        )
    for field in msgspec.structs.fields(TrainingConfig):
        name, chosen = field.name, only(field.name)
        if values.get(name) is None or applies(name, values):
            continue
        if chosen is not None and architecture not in chosen:
            yield Problem(name, f"{name} does not apply to {architecture}; it is for {', '.join(chosen)}.")
        else:
            activation = values.get("activation") or "batchtopk"
            yield Problem(
                name,
                f"{name} does not apply to a {architecture} with activation {activation}; it is for"
                f" {', '.join(ACTIVATION_FIELDS[name])}.",
            )


def _cross_field(values: Mapping[str, Any], known: Known | None, devices: Sequence[str] | None) -> Iterator[Problem]:
    architecture = values.get("architecture_type", "topk")
    if values.get("k") is not None and values.get("top_k_sparsity") is not None:
        message = "k and top_k_sparsity say the same thing twice; set one of them."
        yield Problem("k", message)
        yield Problem("top_k_sparsity", message)
    for field in ("training_layers", "hook_types"):
        chosen = values.get(field)
        if chosen is not None and not chosen:
            yield Problem(field, f"{field} is empty; name at least one, or leave it out for the default.")
        if chosen and len(set(chosen)) < len(chosen):
            yield Problem(field, f"{field} names the same one twice.")
    if architecture in TRANSCODERS:
        if values.get("normalize_activations") in _PER_TOKEN:
            yield Problem(
                "normalize_activations",
                f"normalize_activations {values['normalize_activations']} works token by token and cannot be undone"
                f" across hooks; a {architecture} allows expected_average_only_in and none.",
            )
        target = values.get("target_hook_type") or "mlp_out"
        if not values.get("target_layer_offset") and target in (values.get("hook_types") or ("mlp_in",)):
            yield Problem(
                "target_hook_type",
                f"{architecture.capitalize()} predicts another hook's activation; choose a target different from the"
                " source.",
            )
    steps = values.get("total_steps", TrainingConfig().total_steps)
    for field in ("warmup_steps", "decay_steps"):
        chosen = values.get(field)
        if chosen is not None and chosen > steps:
            yield Problem(field, f"{field} is {chosen:,}, more than the {steps:,} steps of the run.")
    warmup, decay = values.get("warmup_steps") or 0, values.get("decay_steps") or 0
    if max(warmup, decay) <= steps < warmup + decay:
        yield Problem(
            "decay_steps", f"warmup_steps and decay_steps are {warmup + decay:,} together, more than {steps:,} steps."
        )
    device = values.get("device", "auto")
    if devices is not None and device.startswith("cuda") and not _has_device(device, devices):
        yield Problem("device", f"device {device} is not on this machine; it has {', '.join(devices)}.")
    if isinstance(known, StoredActivations):
        yield from folder_problems(values, known)
    elif known is not None:
        yield from _against_model(values, known)


def _has_device(device: str, devices: Sequence[str]) -> bool:
    return device in devices or (device == "cuda" and any(one.startswith("cuda") for one in devices))


def _against_model(values: Mapping[str, Any], model: ModelRegistered) -> Iterator[Problem]:
    name = model.model_id
    for layer in values.get("training_layers") or ():
        if layer >= model.layers:
            yield Problem(
                "training_layers",
                f"training_layers names layer {layer}; {name} has layers 0 to {model.layers - 1}.",
            )
    for field in ("hook_types", "target_hook_type"):
        chosen = values.get(field) or ()
        for hook in (chosen,) if isinstance(chosen, str) else chosen:
            if hook not in model.hooks:
                yield Problem(field, f"{field} names {hook}; {name} has {', '.join(model.hooks)}.")
    layers = values.get("training_layers") or (model.layers // 2,)
    offset = values.get("target_layer_offset") or 0
    if offset and max(layers) + offset >= model.layers > max(layers):
        yield Problem(
            "target_layer_offset",
            f"target_layer_offset {offset} above layer {max(layers)} is beyond {name}'s last layer {model.layers - 1}.",
        )
    context = values.get("context_size")
    if context is not None and context > model.context_size:
        yield Problem(
            "context_size", f"context_size is {context:,}; {name} reads at most {model.context_size:,} tokens."
        )
    width = values.get("hidden_dim")
    if width is not None and width != model.hidden_dim:
        yield Problem(
            "hidden_dim", f"hidden_dim is {width:,}; the activations of {name} have {model.hidden_dim:,} dimensions."
        )
    rank = values.get("skip_rank")
    if rank is not None and rank > model.hidden_dim:
        yield Problem("skip_rank", f"skip_rank is {rank:,}, more than the width {model.hidden_dim:,} of {name}.")


def _resolved_problems(config: TrainingConfig) -> Iterator[Problem]:
    latents = config.latent_dim or 0
    if config.k is not None and config.k > latents / 4:
        yield Problem(
            "k", f"k is {config.k:,}; at most a quarter of the {latents:,} latents ({latents // 4:,}) may be active."
        )
    if config.target_l0 is not None and config.target_l0 > 0.25:
        yield Problem(
            "target_l0",
            f"target_l0 is {config.target_l0:g} of {latents:,} latents; at most a quarter (0.25) may be active.",
        )
    if config.target_l0 is not None and config.l1_alpha == 0 and kind_of(config) in ("standard", "gated"):
        yield Problem(
            "l1_alpha",
            "l1_alpha is 0, from where target_l0 cannot steer it; give a start above 0, or leave it out.",
        )
    if config.target_l0 is not None and config.target_l0 * latents < 1:
        yield Problem(
            "target_l0",
            f"target_l0 {config.target_l0:g} is less than one of {latents:,} latents; at least {1 / latents:.2g}.",
        )


def _penalty_warnings(config: TrainingConfig) -> Iterator[Problem]:
    """What is known of penalties: how a coefficient, a threshold or a bandwidth goes wrong."""
    architecture = kind_of(config)
    if architecture not in _PENALISED:
        return
    if config.normalize_decoder:
        yield Problem(
            "normalize_decoder",
            f"{architecture} finds features better with free decoder rows, whose norms the penalty takes into account.",
        )
    if config.target_l0 is not None:
        if config.total_steps < 3_000:
            yield Problem(
                "total_steps",
                f"{config.total_steps:,} steps are few for target_l0 to be reached: the coefficient may still be on its"
                " way at the end.",
            )
    elif architecture == "jumprelu":
        coefficient = config.l1_alpha if config.sparsity_coeff is None else config.sparsity_coeff
        field = "l1_alpha" if config.sparsity_coeff is None else "sparsity_coeff"
        if coefficient == 0:
            yield Problem(field, f"{field} 0 penalises nothing: a large share of the latents will stay active.")
        elif coefficient is not None:
            yield Problem(
                field,
                "A fixed coefficient says which way thresholds move rather than how far; target_l0 is the surer way to"
                " an L0.",
            )
    elif config.l1_alpha == 0:
        yield Problem("l1_alpha", "l1_alpha 0 penalises nothing: a large share of the latents will stay active.")
    elif config.l1_alpha is not None:
        yield Problem(
            "l1_alpha",
            "L0 falls steeply with a fixed l1_alpha: twice the right one can silence every latent; target_l0 is the"
            " surer way to an L0.",
        )
    threshold, bandwidth = config.initial_threshold, config.bandwidth
    if bandwidth is not None and bandwidth < 0.01:
        yield Problem(
            "bandwidth",
            f"With a bandwidth of {bandwidth:g} hardly any pre-activation reaches a threshold's gradient: L0 may never"
            " fall. They start at about 0.1.",
        )
    if threshold is not None and threshold > 0.5:
        yield Problem(
            "initial_threshold",
            f"Pre-activations start at about 0.1: above a threshold of {threshold:g} hardly any latent fires, and most"
            " will be dead.",
        )


def _warnings(config: TrainingConfig, known: Known | None) -> Iterator[Problem]:
    """Settings that are allowed and known to disappoint."""
    tokens = config.total_steps * config.batch_size
    if config.weight_decay > 0:
        yield Problem(
            "weight_decay",
            "Weight decay shrinks the decoder and is known to raise the FVU a lot; 0 is the usual choice.",
        )
    if config.auxk_coefficient == 0:
        yield Problem("auxk_coefficient", "Without the auxiliary loss many latents may die and never come back.")
    if config.dead_token_threshold is not None and config.dead_token_threshold >= tokens:
        yield Problem(
            "dead_token_threshold",
            f"The run reads {tokens:,} tokens, so no latent can count as dead, and none is revived.",
        )
    if config.checkpoint_interval == 0:
        yield Problem(
            "checkpoint_interval", "Without checkpoints a training that is killed starts again from the beginning."
        )
    if config.total_steps < 500:
        yield Problem(
            "total_steps",
            f"{config.total_steps:,} steps are few: expect features that are far from learnt.",
        )
    if kind_of(config) == "jumprelu":
        if config.target_l0 is not None:
            for field in ("sparsity_coeff", "l1_alpha"):
                if getattr(config, field) is not None:
                    yield Problem(field, f"target_l0 steers the sparsity; {field} is not used.")
        elif config.sparsity_coeff is not None and config.l1_alpha is not None:
            yield Problem("l1_alpha", "sparsity_coeff is set; l1_alpha is not used.")
    yield from _penalty_warnings(config)
    hooks, layers = config.hook_types or (), config.training_layers or ()
    if {"resid_pre", "resid_post"} <= set(hooks) and any(layer + 1 in layers for layer in layers):
        yield Problem(
            "hook_types",
            "resid_post of a layer is resid_pre of the next one: some SAEs will be trained on the same activations.",
        )
    if isinstance(known, StoredActivations):
        yield from folder_warnings(config, known)
    if known is None or config.latent_dim is None:
        return
    width, latents = width_of(known), config.latent_dim
    active = config.k if config.k is not None else (config.target_l0 or 0) * latents
    if active > width / 2:
        yield Problem(
            "k" if config.k is not None else "target_l0",
            f"{active:,.0f} active latents for {width:,} dimensions are dense: the code may copy its input instead of"
            " finding features.",
        )
    if latents < width:
        yield Problem("latent_dim", f"{latents:,} latents are fewer than the {width:,} dimensions they describe.")
    if config.learning_rate is not None:
        usual = default_learning_rate(latents, config.total_steps)
        if config.learning_rate > 10 * usual:
            yield Problem(
                "learning_rate",
                f"More than ten times the usual {usual:.1g} for {latents:,} latents: latents are likely to die.",
            )
