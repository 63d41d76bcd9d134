"""Nothing that can be set is ignored: each field that an architecture has a use for changes its steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import pytest
from synthetic import PAIRS, Synthetic, config, students
from torch import Tensor

from core.config_fields import applies
from core.training.student import Pair, rate
from events.training import TrainingConfig

STEERED: dict[str, Any] = {"k": None, "target_l0": 0.1, "auxk_coefficient": None, "normalize_decoder": None}
# Begun so that latents die within a few steps.
HARD: dict[str, Any] = {**STEERED, "l1_alpha": 3.0}
JUMPRELU: dict[str, Any] = {**STEERED, "auxk_coefficient": 1 / 8, "initial_threshold": 0.5, "bandwidth": 0.1}
KINDS: dict[str, dict[str, Any]] = {
    "topk": {},
    "batchtopk": {},
    "matryoshka": {},
    "standard": HARD,
    "gated": HARD,
    "jumprelu": JUMPRELU,
    "transcoder": {**JUMPRELU, "activation": "jumprelu"},
    "skip": {"activation": "batchtopk", "normalize_decoder": None},
}
VALUES: dict[str, tuple[Any, Any]] = {
    "latent_dim": (96, 64),
    "skip_rank": (None, 5),
    "normalize_activations": ("expected_average_only_in", "none"),
    "normalize_decoder": (True, False),
    "k": (4, 6),
    "target_l0": (0.1, 0.2),
    "l1_alpha": (0.01, 0.5),
    "sparsity_coeff": (0.01, 0.5),
    "initial_threshold": (0.5, 0.2),
    "bandwidth": (0.1, 0.4),
    "dead_token_threshold": (50, 10_000),
    "auxk_coefficient": (1 / 8, 1 / 2),
    "share_latents_after": (None, 0.8),
    "resample_interval": (None, 18),
    "total_steps": (40, 400),
    "learning_rate": (3e-3, 1e-3),
    "warmup_steps": (4, 10),
    "decay_steps": (8, 25),
    "weight_decay": (0.0, 0.5),
    "grad_clip_norm": (None, 0.01),
    "seed": (0, 1),
    "dtype": ("float32", "bfloat16"),
}
WITHOUT_A_TARGET = ("l1_alpha", "sparsity_coeff")
ELSEWHERE = {
    "model", "datasets", "dataset_weights", "activations", "shuffle", "cache", "training_layers", "hook_types",
    "target_hook_type", "target_layer_offset", "context_size", "architecture_type", "activation", "hidden_dim",
    "top_k_sparsity", "batch_size", "data_seed", "variants", "device", "model_dtype", "micro_batch_size",
    "checkpoint_interval", "checkpoints_kept", "eval_interval", "log_interval", "auto_resume",
}  # fmt: skip
"""Fields that decide what an SAE is given, or what happens between its steps, and not how it learns."""


def test_every_field_is_looked_at_or_has_its_effect_elsewhere() -> None:
    fields = {field.name for field in msgspec.structs.fields(TrainingConfig)}
    assert fields == VALUES.keys() | ELSEWHERE
    assert VALUES.keys().isdisjoint(ELSEWHERE)


def _config(kind: str, field: str, value: Any) -> TrainingConfig:
    fields = {"architecture_type": kind, "dead_token_threshold": 50, **KINDS[kind], field: value}
    return config(**({**fields, "target_l0": None} if field in WITHOUT_A_TARGET else fields))


@lru_cache
def _batches() -> list[dict[Pair, Tensor]]:
    source = Synthetic()
    return [source.next_batch() for _ in range(35)]


@lru_cache
def _figures(chosen: TrainingConfig) -> list[list[float]]:
    """What is told of some steps."""
    transcoder = chosen.architecture_type in ("transcoder", "skip")
    (student,) = students(chosen, Synthetic(PAIRS if transcoder else PAIRS[:1]))
    return [student.step(batch, step, rate(chosen, step)).tolist() for step, batch in enumerate(_batches(), start=1)]


@pytest.mark.slow
@pytest.mark.parametrize("field", VALUES)
def test_no_field_is_ignored(field: str) -> None:
    concerned = [kind for kind, fields in KINDS.items() if applies(field, {"architecture_type": kind, **fields})]
    assert concerned
    one, other = VALUES[field]
    ignored = [
        kind for kind in concerned if _figures(_config(kind, field, one)) == _figures(_config(kind, field, other))
    ]
    assert ignored == []
