"""What a configuration must satisfy, and what it means with its defaults."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config_rules import Checked, check, default_learning_rate, resolve
from core.estimate import estimate
from events.catalog import DatasetRegistered, ModelRegistered
from events.training import HookType, TrainingConfig

MODEL = ModelRegistered(
    model_id="tiny",
    source="/models/tiny",
    hidden_dim=128,
    layers=4,
    hooks=("resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"),
    context_size=256,
    parameters=1_000_000,
)
TEXT = DatasetRegistered(dataset_id="text", source="/data/text", format="text")
MORE = DatasetRegistered(dataset_id="more", source="/data/more", format="text")


def checked(**fields: Any) -> Checked:
    raw = {"model": "tiny", "datasets": ["text"], **fields}
    return check(raw, [MODEL], [TEXT, MORE], devices=["cpu"])


def problems(**fields: Any) -> dict[str, str]:
    return {problem.field: problem.message for problem in checked(**fields).problems}


def warnings(**fields: Any) -> dict[str, str]:
    found = checked(**fields)
    assert found.config is not None, found.problems
    return {warning.field: warning.message for warning in found.warnings}


def test_a_model_a_data_set_and_an_architecture_are_enough() -> None:
    found = checked(architecture_type="topk")
    assert found.problems == ()
    config = found.config
    assert config is not None
    assert (config.hidden_dim, config.latent_dim, config.k) == (128, 2048, 16)
    assert (config.training_layers, config.hook_types) == ((2,), ("resid_post",))
    assert (config.total_steps, config.batch_size, config.context_size) == (50_000, 4_096, 256)
    assert (config.warmup_steps, config.decay_steps, config.eval_interval) == (1_000, 10_000, 5_000)
    assert config.learning_rate == pytest.approx(2e-4 / (2048 / 2**14) ** 0.5)
    assert config.dead_token_threshold == 614_400
    assert config.normalize_decoder is True
    assert config.auxk_coefficient == 1 / 8
    assert config.dataset_weights == (1.0,)
    assert found.estimate is not None
    assert found.estimate.tokens == 204_800_000


def test_a_resolved_configuration_is_valid_and_resolves_to_itself() -> None:
    for fields in ({}, {"top_k_sparsity": 5.0}, {"training_layers": [0, 3], "hook_types": ["mlp_out"]}):
        config = checked(**fields).config
        assert config is not None
        again = checked(**msgspec.to_builtins(config))
        assert again.problems == ()
        assert again.config == config


def test_every_problem_is_found_at_once_each_at_its_field() -> None:
    found = problems(
        learning_rat=1, batch_size="x", device="tpu", l1_alpha=1, learning_rate=float("nan"), training_layers=[9, 9],
        hook_types=["nowhere"], dataset_weights=[1, -1], context_size=4_096, k=2_000, seed=-1, checkpoint_interval=True,
    )  # fmt: skip
    assert found == {
        "learning_rat": "learning_rat is not a field of a configuration; did you mean learning_rate?",
        "batch_size": "batch_size must be a whole number from 8 to 1,048,576, not 'x'.",
        "device": "device must be text (auto, cpu, cuda or cuda:N; auto takes the GPU with the most free memory), not"
        " 'tpu'.",
        "learning_rate": "learning_rate must be a number from 0.000001 to 0.01 (or nothing, for the default), not nan.",
        "hook_types": "hook_types must be a list, each item one of attn_out, mlp_in, mlp_out, resid_post, resid_pre (or"
        " nothing, for the default), not ['nowhere'].",
        "dataset_weights": "dataset_weights must be a list, each item a number above 0 (or nothing, for the default),"
        " not [1, -1].",
        "seed": "seed must be a whole number from 0 to 9,223,372,036,854,775,807, not -1.",
        "checkpoint_interval": "checkpoint_interval must be a whole number of at least 0, not True.",
        "l1_alpha": "l1_alpha does not apply to topk; it is for standard, gated, jumprelu, transcoder, skip.",
        "training_layers": "training_layers names layer 9; tiny has layers 0 to 3.",
        "context_size": "context_size is 4,096; tiny reads at most 256 tokens.",
        "k": "k is 2,000; at most a quarter of the 2,048 latents (512) may be active.",
    }


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"model": ""}, "model", "model is missing"),
        ({"datasets": []}, "datasets", "datasets is missing"),
        ({"datasets": ["text", "text"]}, "datasets", "names 'text' twice"),
        ({"datasets": ["text", "more"], "dataset_weights": [1]}, "dataset_weights", "1 numbers for 2 data sets"),
        ({"training_layers": []}, "training_layers", "is empty"),
        ({"training_layers": [1, 1]}, "training_layers", "the same one twice"),
        ({"hook_types": []}, "hook_types", "is empty"),
        ({"hidden_dim": 64}, "hidden_dim", "have 128 dimensions"),
        ({"k": 4, "top_k_sparsity": 1.0}, "k", "the same thing twice"),
        ({"k": 4, "top_k_sparsity": 1.0}, "top_k_sparsity", "the same thing twice"),
        ({"k": 33, "latent_dim": 128}, "k", "at most a quarter of the 128 latents (32)"),
        ({"top_k_sparsity": 26}, "top_k_sparsity", "above 0, at most 25"),
        ({"total_steps": 10, "warmup_steps": 11}, "warmup_steps", "more than the 10 steps"),
        ({"total_steps": 10, "warmup_steps": 6, "decay_steps": 6}, "decay_steps", "12 together"),
        ({"device": "cuda:3"}, "device", "it has cpu"),
        ({"target_l0": 0.01}, "target_l0", "does not apply to topk"),
        ({"architecture_type": "nonsense"}, "architecture_type", "one of"),
        ({"dtype": "float16"}, "dtype", "float32"),
    ],
)
def test_a_rule_that_is_broken_is_said_at_the_field(fields: dict[str, Any], field: str, words: str) -> None:
    found = problems(**fields)
    assert words in found[field]
    assert checked(**fields).config is None


def test_what_the_catalogue_does_not_hold_is_no_problem_yet_but_named() -> None:
    found = checked(model="owner/other", datasets=["text", "unknown"], total_steps=0)
    assert [(one.field, one.message) for one in found.unregistered] == [
        ("model", "owner/other"),
        ("datasets", "unknown"),
    ]
    assert [problem.field for problem in found.problems] == ["total_steps"]
    assert found.config is None
    assert checked(model="/models/tiny", datasets=["/data/text"]).config is not None


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"architecture_type": "standard", "k": 4}, "k", "does not apply to standard"),
        ({"architecture_type": "standard", "auxk_coefficient": 0.1}, "auxk_coefficient", "does not apply to standard"),
        ({"architecture_type": "gated", "auxk_coefficient": 0.1}, "auxk_coefficient", "does not apply to gated"),
        ({"architecture_type": "jumprelu", "target_l0": 0.0001}, "target_l0", "less than one of 2,048 latents"),
        ({"architecture_type": "jumprelu", "activation": "relu"}, "activation", "does not apply to jumprelu"),
        ({"architecture_type": "transcoder", "l1_alpha": 1}, "l1_alpha", "with activation batchtopk"),
        ({"architecture_type": "transcoder", "activation": "relu", "k": 4}, "k", "with activation relu"),
        ({"architecture_type": "skip", "hook_types": ["mlp_out"]}, "target_hook_type", "different from the source"),
        ({"architecture_type": "skip", "skip_rank": 129}, "skip_rank", "more than the width 128"),
        ({"architecture_type": "topk", "skip_rank": 2}, "skip_rank", "it is for skip"),
        ({"architecture_type": "skip", "normalize_decoder": False}, "normalize_decoder", "does not apply to skip"),
        (
            {"architecture_type": "transcoder", "activation": "relu", "target_l0": 0.01, "l1_alpha": 0},
            "l1_alpha",
            "cannot steer",
        ),
        (
            {"architecture_type": "transcoder", "normalize_activations": "layer_norm"},
            "normalize_activations",
            "token by token",
        ),
        (
            {"architecture_type": "transcoder", "training_layers": [3], "target_layer_offset": 1},
            "target_layer_offset",
            "beyond tiny's last layer 3",
        ),
    ],
)
def test_rules_of_the_other_architectures(fields: dict[str, Any], field: str, words: str) -> None:
    assert words in problems(**fields)[field]


def test_defaults_of_the_other_architectures() -> None:
    for fields in (
        {"architecture_type": "batchtopk"},
        {"architecture_type": "matryoshka"},
        {"architecture_type": "skip"},
    ):
        shared = checked(**fields).config
        assert shared is not None
        assert shared.share_latents_after == 0.8
    topk = checked().config
    assert topk is not None
    assert topk.share_latents_after is None
    standard = checked(architecture_type="standard").config
    assert standard is not None
    assert standard.target_l0 == 16 / 2048
    assert (standard.normalize_decoder, standard.k, standard.auxk_coefficient) == (False, None, None)
    fixed = checked(architecture_type="standard", l1_alpha=0.1).config
    assert fixed is not None
    assert fixed.target_l0 is None
    jumprelu = checked(architecture_type="jumprelu").config
    assert jumprelu is not None
    assert (jumprelu.initial_threshold, jumprelu.bandwidth) == (0.02, 0.1)
    transcoder = checked(architecture_type="transcoder").config
    assert transcoder is not None
    assert (transcoder.hook_types, transcoder.target_hook_type) == (("mlp_in",), "mlp_out")
    assert (transcoder.activation, transcoder.k, transcoder.normalize_decoder) == ("batchtopk", 16, None)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"weight_decay": 0.1}, "weight_decay", "shrinks the decoder"),
        ({"auxk_coefficient": 0}, "auxk_coefficient", "may die"),
        ({"total_steps": 10}, "total_steps", "are few"),
        ({"total_steps": 10, "batch_size": 8}, "dead_token_threshold", "no latent can count as dead"),
        ({"checkpoint_interval": 0}, "checkpoint_interval", "from the beginning"),
        ({"k": 100}, "k", "are dense"),
        ({"latent_dim": 64, "k": 4}, "latent_dim", "fewer than the 128 dimensions"),
        ({"learning_rate": 0.01}, "learning_rate", "likely to die"),
        ({"hook_types": ["resid_pre", "resid_post"], "training_layers": [1, 2]}, "hook_types", "same activations"),
    ],
)
def test_what_is_known_to_disappoint_is_warned_of_in_words(fields: dict[str, Any], field: str, words: str) -> None:
    assert words in warnings(**fields)[field]
    assert warnings() == {}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"architecture_type": "standard", "l1_alpha": 0.1}, "l1_alpha", "falls steeply"),
        ({"architecture_type": "standard", "l1_alpha": 0}, "l1_alpha", "penalises nothing"),
        ({"architecture_type": "standard", "normalize_decoder": True}, "normalize_decoder", "free decoder rows"),
        ({"architecture_type": "standard", "total_steps": 1_000}, "total_steps", "on its way at the end"),
        ({"architecture_type": "jumprelu", "sparsity_coeff": 2}, "sparsity_coeff", "rather than how far"),
        ({"architecture_type": "jumprelu", "l1_alpha": 0}, "l1_alpha", "penalises nothing"),
        ({"architecture_type": "jumprelu", "l1_alpha": 1, "target_l0": 0.01}, "l1_alpha", "not used"),
        ({"architecture_type": "jumprelu", "bandwidth": 0.001}, "bandwidth", "may never fall"),
        ({"architecture_type": "jumprelu", "initial_threshold": 2}, "initial_threshold", "will be dead"),
    ],
)
def test_what_is_known_of_penalties_is_warned_of_in_words(fields: dict[str, Any], field: str, words: str) -> None:
    assert words in warnings(**fields)[field]
    assert warnings(architecture_type=fields["architecture_type"]) == {}


def test_a_target_that_cannot_be_steered_to_is_refused() -> None:
    wide = problems(architecture_type="standard", latent_dim=32)
    assert "at most a quarter" in wide["target_l0"]
    stuck = problems(architecture_type="standard", target_l0=0.01, l1_alpha=0)
    assert "cannot steer" in stuck["l1_alpha"]


def test_a_coefficient_beside_a_target_is_said_to_be_unused() -> None:
    both = {"architecture_type": "jumprelu", "target_l0": 0.01, "sparsity_coeff": 1}
    assert "not used" in warnings(**both)["sparsity_coeff"]
    assert "not used" in warnings(architecture_type="jumprelu", l1_alpha=1, sparsity_coeff=1)["l1_alpha"]


def test_top_k_sparsity_is_a_share_of_the_latents() -> None:
    config = checked(top_k_sparsity=5.0).config
    assert config is not None
    assert (config.k, config.top_k_sparsity) == (102, None)
    least = checked(top_k_sparsity=0.01, latent_dim=256).config
    assert least is not None
    assert least.k == 1


def test_the_default_rate_falls_with_the_width_and_is_threefold_in_short_runs() -> None:
    assert default_learning_rate(2**14, 10_000) == pytest.approx(2e-4)
    assert default_learning_rate(2**14, 9_999) == pytest.approx(6e-4)
    assert default_learning_rate(2**16, 10_000) == pytest.approx(1e-4)
    assert default_learning_rate(2**62, 10_000) == 1e-6


def test_memory_and_time_grow_with_what_is_trained() -> None:
    one = checked(training_layers=[1]).estimate
    two = checked(training_layers=[1, 2]).estimate
    assert one is not None
    assert two is not None
    assert one.parameters == 2 * 128 * 2048 + 2048 + 128
    assert two.parameters == 2 * one.parameters
    assert one.memory["weights"] == one.memory["gradients"] == one.memory["optimizer"] // 2 == 4 * one.parameters
    assert one.memory["buffer"] == 2**19 * 128 * 4
    assert two.memory_bytes > one.memory_bytes
    assert sum(one.memory.values()) == one.memory_bytes
    assert one.seconds is None
    config = checked().config
    assert config is not None
    slow = estimate(config, MODEL, flops_per_second=1e9).seconds
    fast = estimate(config, MODEL, flops_per_second=2e9).seconds
    assert slow is not None
    assert fast is not None
    assert slow == pytest.approx(2 * fast)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*TrainingConfig.__struct_fields__, "nonsense"]), _json, max_size=8))
def test_no_configuration_however_wrong_makes_the_check_fail(raw: dict[str, Any]) -> None:
    found = check({"model": "tiny", "datasets": ["text"], **raw}, [MODEL], [TEXT], devices=["cpu"])
    assert (found.config is None) == bool(found.problems or found.unregistered)
    assert all(problem.message.endswith((".", "?")) for problem in found.problems)


@given(
    latents=st.integers(8, 100_000),
    steps=st.integers(1, 1_000_000),
    layers=st.sets(st.integers(0, 3), min_size=1),
    hooks=st.sets(st.sampled_from(get_args(HookType)), min_size=1),
)
def test_what_is_accepted_is_complete(latents: int, steps: int, layers: set[int], hooks: set[HookType]) -> None:
    config = checked(latent_dim=latents, total_steps=steps, training_layers=list(layers), hook_types=list(hooks)).config
    if config is None:
        assert latents // 4 < 16
        return
    assert resolve(config, MODEL) == config
    needed = ("k", "latent_dim", "hidden_dim", "learning_rate", "warmup_steps", "decay_steps", "context_size",
              "training_layers", "hook_types", "dead_token_threshold", "auxk_coefficient", "eval_interval")  # fmt: skip
    assert all(getattr(config, field) is not None for field in needed)
    assert 1 <= config.k <= latents / 4


def test_a_cache_needs_disk_and_is_for_what_a_model_reads() -> None:
    plain, kept = checked(total_steps=1_000).estimate, checked(total_steps=1_000, cache=True).estimate
    assert plain is not None
    assert kept is not None
    assert (plain.disk_bytes, kept.disk_bytes) == (0, 1_000 * 4_096 * 128 * 4)
    two = checked(total_steps=1_000, cache=True, training_layers=[1, 2], model_dtype="bfloat16").estimate
    assert two is not None
    assert two.disk_bytes == 2 * 1_000 * 4_096 * 128 * 2
