"""A training's configuration, and the facts that its trainer reports.

`TrainingConfig` is the one home of what can be configured: validation, form, tooltips, OpenAPI, command line and
templates all read it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from .event import Event, Float32, Float64, UInt16, UInt32, UInt64

Architecture = Literal["standard", "skip", "transcoder", "jumprelu", "topk", "batchtopk", "gated", "matryoshka"]
HookType = Literal["resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"]
Activation = Literal["batchtopk", "relu", "jumprelu"]
Reading = Literal["text", "folder"]
"""Where activations come from: a language model that reads text, or a folder of files."""

_TRANSCODERS = ("transcoder", "skip")
_AUTOENCODERS = ("standard", "jumprelu", "topk", "batchtopk", "gated", "matryoshka")
_TOPK = ("topk", "batchtopk", "matryoshka", *_TRANSCODERS)
_PENALISED = ("standard", "gated", "jumprelu", *_TRANSCODERS)
_JUMPRELU = ("jumprelu", *_TRANSCODERS)
_AUXK = ("topk", "batchtopk", "matryoshka", "jumprelu", *_TRANSCODERS)


def about(
    text: str,
    *,
    unit: str | None = None,
    only: tuple[str, ...] | None = None,
    reading: Reading | None = None,
    default: str | None = None,
    group: str = "training",
    advanced: bool = False,
    shared: bool = False,
) -> Meta:
    """A configuration field's description.

    `unit` names what the number counts, `only` the architectures that the field applies to (None: all of them),
    `reading` the source of activations that it applies to (None: either), `default` what is taken where the value is
    None, `group` and `advanced` where the form shows it. Fields that are `shared`, and those of data and run, are the
    same for all variants of a training.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "only": only,
        "reading": reading,
        "default": default,
        "group": group,
        "advanced": advanced,
        "shared": shared or group in ("data", "run"),
    }
    return Meta(description=text, extra=extra)


_Count = Annotated[int, Meta(ge=1)]
_CountOrZero = Annotated[int, Meta(ge=0)]
_Positive = Annotated[float, Meta(gt=0)]
_NonNegative = Annotated[float, Meta(ge=0)]
_Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a training computes.

    A field that is None takes the default that its description names; `core.config_rules` fills these in before a
    training is created, so that a stored configuration says what was run. Coefficients are in units of FVU.
    """

    # What is read
    model: Annotated[
        str,
        about(
            "The language model whose activations are read: a catalogue id, a local folder or a hub id.",
            reading="text",
            group="data",
        ),
    ] = ""
    datasets: Annotated[
        tuple[str, ...],
        about(
            "The text that the model reads: catalogue ids, local files or folders, or hub ids.",
            reading="text",
            group="data",
        ),
    ] = ()
    dataset_weights: Annotated[
        tuple[_Positive, ...] | None,
        about(
            "Relative share of each data set, in their order.",
            reading="text",
            default="equal shares",
            group="data",
            advanced=True,
        ),
    ] = None
    activations: Annotated[
        Annotated[str, Meta(max_length=4_096)] | None,
        about(
            "A folder of activations to train on in place of a model and text: .safetensors files with x (rows, n) and,"
            " for transcoders, t (rows, m), in float32 or bfloat16. The last twentieth of the rows is held out.",
            reading="folder",
            group="data",
        ),
    ] = None
    shuffle: Annotated[
        bool,
        about(
            "Shuffle the folder's rows; off serves them in the order of the files.",
            reading="folder",
            group="data",
            advanced=True,
        ),
    ] = True
    cache: Annotated[
        bool,
        about(
            "Keep the activations that the model gives on disk and read them from there when the same training, or"
            " another on the same activations, asks again: the same bits without running the model.",
            reading="text",
            group="data",
            advanced=True,
        ),
    ] = False
    training_layers: Annotated[
        tuple[_CountOrZero, ...] | None,
        about(
            "The model's layers, counted from 0; one SAE is trained for each. For a folder of activations: the one"
            " layer that they are of, where it is known.",
            default="the middle layer",
            group="data",
        ),
    ] = None
    hook_types: Annotated[
        tuple[HookType, ...] | None,
        about(
            "Where in a layer activations are read; one SAE is trained for each layer and hook. For a folder of"
            " activations: the one hook that they are of, where it is known.",
            default="resid_post; mlp_in for transcoder and skip",
            group="data",
        ),
    ] = None
    target_hook_type: Annotated[
        HookType | None,
        about("The hook that a transcoder predicts.", only=_TRANSCODERS, default="mlp_out", group="data"),
    ] = None
    target_layer_offset: Annotated[
        _CountOrZero | None,
        about(
            "How many layers above the source the predicted hook lies.",
            unit="layers",
            reading="text",
            only=_TRANSCODERS,
            default="0",
            group="data",
            advanced=True,
        ),
    ] = None
    context_size: Annotated[
        Annotated[int, Meta(ge=8, le=131_072)] | None,
        about(
            "Length of the rows of text that the model reads.",
            unit="tokens",
            reading="text",
            default="the model's own, at most 1,024",
            group="data",
            advanced=True,
        ),
    ] = None

    # What is trained
    architecture_type: Annotated[Architecture, about("The kind of sparse autoencoder.", group="architecture")] = "topk"
    activation: Annotated[
        Activation | None,
        about(
            "The transcoder's activation function.",
            only=_TRANSCODERS,
            default="batchtopk",
            group="architecture",
        ),
    ] = None
    hidden_dim: Annotated[
        _Count | None,
        about(
            "Width of the activations, n.",
            unit="dimensions",
            default="read from the model",
            group="architecture",
            shared=True,
        ),
    ] = None
    latent_dim: Annotated[
        _Count | None,
        about("Number of latents, F.", unit="latents", default="16 times the width", group="architecture"),
    ] = None
    skip_rank: Annotated[
        _Count | None,
        about(
            "Rank of the linear skip.",
            unit="dimensions",
            only=("skip",),
            default="full rank",
            group="architecture",
            advanced=True,
        ),
    ] = None
    normalize_activations: Annotated[
        Literal["expected_average_only_in", "none", "layer_norm", "constant_norm_rescale"],
        about("How activations are scaled before the encoder.", group="architecture", advanced=True),
    ] = "expected_average_only_in"
    normalize_decoder: Annotated[
        bool | None,
        about(
            "Keep every decoder row at norm 1.",
            only=_AUTOENCODERS,
            default="on for topk, batchtopk and matryoshka",
            group="architecture",
            advanced=True,
        ),
    ] = None

    # How sparse
    k: Annotated[
        _Count | None,
        about(
            "Active latents per token.",
            unit="latents",
            only=_TOPK,
            default="50, at most an eighth of the width",
            group="sparsity",
        ),
    ] = None
    top_k_sparsity: Annotated[
        Annotated[float, Meta(gt=0, le=25)] | None,
        about(
            "Active latents per token as a share of all latents, in place of k.",
            unit="%",
            only=_TOPK,
            group="sparsity",
            advanced=True,
        ),
    ] = None
    target_l0: Annotated[
        Annotated[float, Meta(gt=0, le=0.25)] | None,
        about(
            "Wanted mean share of active latents; the sparsity coefficient is steered to reach it.",
            unit="fraction of latents",
            only=_PENALISED,
            default="min(50, n/8) latents where no coefficient is set",
            group="sparsity",
        ),
    ] = None
    l1_alpha: Annotated[
        _NonNegative | None,
        about(
            "Sparsity penalty on the latents' size (jumprelu: used where sparsity_coeff is not set).",
            unit="FVU",
            only=_PENALISED,
            default="steered to the target",
            group="sparsity",
        ),
    ] = None
    sparsity_coeff: Annotated[
        _NonNegative | None,
        about(
            "Sparsity penalty on the number of active latents.",
            unit="FVU",
            only=_JUMPRELU,
            default="steered to the target",
            group="sparsity",
        ),
    ] = None
    initial_threshold: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        about(
            "Threshold of every latent at the start.",
            unit="pre-activation",
            only=_JUMPRELU,
            default="0.02",
            group="sparsity",
        ),
    ] = None
    bandwidth: Annotated[
        _Positive | None,
        about(
            "Width of the kernel that estimates the threshold's gradient.",
            unit="pre-activation",
            only=_JUMPRELU,
            default="0.1",
            group="sparsity",
        ),
    ] = None
    dead_token_threshold: Annotated[
        _Count | None,
        about(
            "A latent that has not fired for this many tokens counts as dead.",
            unit="tokens",
            default="0.3 % of all tokens, between 10,000 and 10 million",
            group="sparsity",
            advanced=True,
        ),
    ] = None
    auxk_coefficient: Annotated[
        _NonNegative | None,
        about(
            "Weight of the auxiliary loss that revives dead latents; 0 turns it off.",
            only=_AUXK,
            default="1/8",
            group="sparsity",
            advanced=True,
        ),
    ] = None

    share_latents_after: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        about(
            "Part of the run in which each token has k latents of its own, before tokens share them, k on average;"
            " 0: they share from the start.",
            only=("batchtopk", "matryoshka", *_TRANSCODERS),
            default="0.8",
            group="sparsity",
            advanced=True,
        ),
    ] = None

    resample_interval: Annotated[
        _CountOrZero | None,
        about(
            "Steps after which dead latents begin anew where the reconstruction is worst, again and again; 0: never.",
            unit="steps",
            only=("standard", "gated"),
            default="0",
            group="sparsity",
            advanced=True,
        ),
    ] = None

    # How long and how fast
    total_steps: Annotated[
        Annotated[int, Meta(ge=1, le=100_000_000)], about("Optimiser steps.", unit="steps", shared=True)
    ] = 50_000
    batch_size: Annotated[
        Annotated[int, Meta(ge=8, le=1_048_576)], about("Tokens in one step.", unit="tokens", shared=True)
    ] = 4_096
    learning_rate: Annotated[
        Annotated[float, Meta(ge=1e-6, le=1e-2)] | None,
        about(
            "Adam's step size after the warm-up.",
            default="2e-4 / sqrt(F / 16384), three times that under 10,000 steps",
        ),
    ] = None
    warmup_steps: Annotated[
        _CountOrZero | None,
        about(
            "Steps over which the learning rate rises from 0.",
            unit="steps",
            default="5 % of the run, at most 1,000",
            advanced=True,
        ),
    ] = None
    decay_steps: Annotated[
        _CountOrZero | None,
        about(
            "Last steps over which the learning rate falls to 0.",
            unit="steps",
            default="20 % of the run",
            advanced=True,
        ),
    ] = None
    weight_decay: Annotated[Annotated[float, Meta(ge=0, le=1)], about("Decoupled weight decay.", advanced=True)] = 0.0
    grad_clip_norm: Annotated[
        _NonNegative | None,
        about(
            "The gradient's norm is cut to this; 0 turns it off.",
            unit="loss in FVU",
            default="1 / sqrt(variance of the activations)",
            advanced=True,
        ),
    ] = None
    seed: Annotated[_Seed, about("Seed of the initialisation.", advanced=True)] = 0
    data_seed: Annotated[_Seed, about("Seed of the order of rows and of the shuffle.", advanced=True, shared=True)] = 0

    variants: Annotated[
        Annotated[tuple[dict[str, Any], ...], Meta(max_length=64)] | None,
        about(
            "Configurations to train side by side on the same activations: what each of them has otherwise.",
            default="this configuration only",
            advanced=True,
            shared=True,
        ),
    ] = None

    # Where it runs
    device: Annotated[
        Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)$")],
        about("auto, cpu, cuda or cuda:N; auto takes the GPU with the most free memory.", group="run"),
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        about("Type of the SAE's matrix products; weights stay float32.", group="run", advanced=True),
    ] = "float32"
    model_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        about(
            "Type that the language model runs in; auto is bfloat16 on a GPU and float32 elsewhere.",
            reading="text",
            group="run",
            advanced=True,
        ),
    ] = "auto"

    micro_batch_size: Annotated[
        Annotated[int, Meta(ge=32)] | None,
        about(
            "Tokens of a step that are computed at once; fewer need less memory and more time.",
            unit="tokens",
            default="the whole batch; halved where it does not fit into memory",
            group="run",
            advanced=True,
        ),
    ] = None

    # What is kept
    checkpoint_interval: Annotated[
        _CountOrZero,
        about("Steps between checkpoints; 0 saves only at a pause and at the end.", unit="steps", group="run"),
    ] = 1_000
    checkpoints_kept: Annotated[
        _Count,
        about("How many of the newest checkpoints are kept; the best one stays too.", group="run", advanced=True),
    ] = 3
    eval_interval: Annotated[
        _CountOrZero | None,
        about(
            "Steps between evaluations on held-out text; 0 evaluates only at the end.",
            unit="steps",
            default="a tenth of the run",
            group="run",
            advanced=True,
        ),
    ] = None
    log_interval: Annotated[
        _Count,
        about(
            "Steps between progress lines in the log; metrics are kept for every step.",
            unit="steps",
            group="run",
            advanced=True,
        ),
    ] = 100
    auto_resume: Annotated[
        bool,
        about("Resume by itself when the server starts and finds it interrupted.", group="run", advanced=True),
    ] = False


class Sae(msgspec.Struct, frozen=True, kw_only=True):
    """One of the SAEs that a training trains side by side; `StepTrained.sae` is its index.

    `mean_ratio` is ‖mean‖ / ‖standard deviation‖ of its input. `folder` is the name of the folder of activations that
    it reads where nobody said which layer and hook these are of: `layer` and `hook` then mean nothing.
    """

    layer: int
    hook: HookType
    target_layer: int | None = None
    target_hook: HookType | None = None
    variant: int | None = None
    mean_ratio: float | None = None
    folder: str | None = None


def sae_name(sae: Sae) -> str:
    """What an SAE is called: L6.resid_post, or L6.mlp_in → L6.mlp_out for a transcoder; retina.x and retina.x → t where
    all that is known is the folder of its activations. #1 behind it is a variant."""
    name = f"L{sae.layer}.{sae.hook}" if sae.folder is None else f"{sae.folder}.x"
    if sae.target_hook is not None and sae.folder is not None:
        name += " → t"
    elif sae.target_hook is not None:
        target = sae.layer if sae.target_layer is None else sae.target_layer
        name += f" → L{target}.{sae.target_hook}"
    if sae.variant is not None:
        name += f" #{sae.variant}"
    return name


class TrainingStarted(Event, frozen=True, kw_only=True):
    """A trainer process begins to train: at the first start, and again at every resume.

    `config` is the configuration with every default filled in; `versions` maps a library to its version;
    `data_fingerprint` identifies text and tokeniser; `parameters` counts the SAEs' weights;
    `resumed_from` is the step of the checkpoint that was loaded, None at a first start.
    """

    pid: int
    host: str
    device: str
    device_name: str = ""
    versions: dict[str, str] = {}
    data_fingerprint: str = ""
    saes: tuple[Sae, ...] = ()
    config: TrainingConfig | None = None
    parameters: int = 0
    resumed_from: int | None = None


class StepTrained(Event, frozen=True, kw_only=True, gc=False):
    """One optimiser step of one SAE.

    Losses are in units of FVU (the target's variance is 1); `l0` is the mean number of active latents per token and
    `l0_fraction` the same over all latents; `tokens` counts the training's tokens so far; `tokens_per_second` is of the
    whole training; `device_memory` is in bytes, None on the CPU; `sparsity_coefficient` is None for architectures
    without one. `grad_norm` is taken before clipping.
    """

    columnar: ClassVar[bool] = True

    step: UInt32
    sae: UInt16 = 0
    loss: Float32
    loss_reconstruction: Float32
    loss_sparsity: Float32 = 0.0
    loss_auxiliary: Float32 = 0.0
    l0: Float32
    l0_fraction: Float32
    fvu: Float32
    dead_latents: UInt32 = 0
    learning_rate: Float64
    sparsity_coefficient: Float64 | None = None
    grad_norm: Float32
    tokens: UInt64
    tokens_per_second: Float32
    device_memory: UInt64 | None = None


class MetricsLogged(Event, frozen=True, kw_only=True):
    """Metrics of a trainer that is not ours, by name."""

    step: int
    values: dict[str, float | None]


class CheckpointSaved(Event, frozen=True, kw_only=True):
    """A checkpoint is whole on disk.

    `path` is the folder on `host`, `size` its bytes, `loss` the mean over the SAEs at that step; `reason` says what
    asked for it.
    """

    step: int
    path: str
    size: int
    host: str = ""
    loss: float | None = None
    fvu: float | None = None
    reason: Literal["interval", "request", "pause", "stop", "end"] = "interval"


class CheckpointDeleted(Event, frozen=True, kw_only=True):
    """A checkpoint's files are gone; `reason` says whether they were superseded or somebody deleted them."""

    step: int
    reason: Literal["superseded", "request", "training_deleted"] = "superseded"


class EvaluationMade(Event, frozen=True, kw_only=True):
    """What one SAE is worth on held-out text.

    Fractions are 0-1, cross-entropies (`ce_*`) and divergences in nats per token; `tokens` were evaluated.
    `density_histogram` counts latents by log10 of their firing frequency: 60 bins on [-7, 0], then the latents that
    never fired. `fvu_affine` is what an affine map from source to target leaves unexplained, None for autoencoders:
    a transcoder's latents add something where `fvu` is below it. One that had `diverged` learns no more.
    """

    step: int
    sae: int
    tokens: int
    fvu: float | None
    l0: float | None
    dead_latents: int
    dense_latents: int = 0
    duplicate_latents: int = 0
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_ablated_zero: float | None = None
    ce_ablated_mean: float | None = None
    kl_spliced: float | None = None
    loss_recovered: float | None = None
    shrinkage: float | None = None
    density_histogram: tuple[int, ...] = ()
    verdict: Literal["good", "watch", "bad"] | None = None
    reasons: tuple[str, ...] = ()
    fvu_affine: float | None = None
    diverged: bool = False


class TrainingPaused(Event, frozen=True, kw_only=True):
    """The trainer finished `step`, saved a checkpoint and ended, to be resumed later."""

    step: int


class TrainingResumed(Event, frozen=True, kw_only=True):
    """Training goes on after `step`: what an earlier attempt did beyond it no longer counts."""

    step: int


class TroubleReported(Event, frozen=True, kw_only=True):
    """Something is wrong that the training goes on with, in a sentence; None: all is well again."""

    message: str | None


class TrainingStopped(Event, frozen=True, kw_only=True):
    """The trainer ended at `step` because it was told to, after saving a checkpoint."""

    step: int


class TrainingCompleted(Event, frozen=True, kw_only=True):
    """All steps are trained."""

    step: int
    seconds: float | None = None


class TrainingFailed(Event, frozen=True, kw_only=True):
    """The trainer ended with an error: `error` is one sentence, `traceback` the whole story."""

    error: str
    traceback: str = ""
    step: int | None = None
