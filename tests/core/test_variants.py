"""Variants of a configuration: what each of them is, and what may differ."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_config_rules import MODEL, TEXT

from core.config_rules import Checked, check, resolve
from core.variants import configurations
from events.training import TrainingConfig


def checked(**fields: Any) -> Checked:
    return check({"model": "tiny", "datasets": ["text"], **fields}, [MODEL], [TEXT])


def resolved(**fields: Any) -> TrainingConfig:
    found = checked(**fields)
    assert found.config is not None, found.problems
    return found.config


def test_each_variant_is_the_configuration_that_it_would_be_alone() -> None:
    variants: list[dict[str, Any]] = [
        {"k": 8},
        {"seed": 3, "learning_rate": 1e-3},
        {"architecture_type": "jumprelu", "target_l0": 0.01, "initial_threshold": 0.1},
        {"architecture_type": "jumprelu", "sparsity_coeff": 0.5},
        {"architecture_type": "standard"},
        {"architecture_type": "standard", "l1_alpha": 0.01},
        {"latent_dim": 512, "top_k_sparsity": 5},
        {},
    ]
    base = {"total_steps": 4_000, "warmup_steps": 7}
    together = configurations(resolved(**base, variants=variants))
    alone = [resolved(**base, **variant) for variant in variants]
    assert list(together) == alone


def test_a_coefficient_of_its_own_keeps_a_variant_from_the_others_target() -> None:
    variants: list[dict[str, Any]] = [{}, {"l1_alpha": 0.01}]
    config = resolved(architecture_type="standard", variants=variants)
    assert [one.target_l0 for one in configurations(config)] == [16 / 2048, None]
    assert resolve(config, MODEL) == config


def test_what_is_stored_says_what_was_run_and_resolves_to_itself() -> None:
    config = resolved(k=32, variants=[{"architecture_type": "standard"}, {"k": 8}])
    assert config.variants is not None
    # What the base has and the variant's architecture has no use for is left out; its defaults are told.
    assert "k" not in config.variants[0]
    assert config.variants[0]["target_l0"] == 16 / 2048
    assert config.variants[1] == {"k": 8}
    assert resolve(config, MODEL) == config
    again = msgspec.json.decode(msgspec.json.encode(config), type=TrainingConfig)
    assert again == config
    assert configurations(again) == configurations(config)
    assert checked(**msgspec.to_builtins(config)).config == config


def test_a_configuration_without_variants_is_the_only_one() -> None:
    config = resolved()
    assert configurations(config) == (config,)


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([], "variants is empty"),
        ([{"k": 8}, {"kk": 8}], "Variant 1: kk is not a field of a configuration."),
        ([{"k": None}], "Variant 0: k is null; leave it out."),
        ([{"model": "other"}], "Variant 0: model is the same for all variants; set it in the configuration itself."),
        ([{"batch_size": 8}], "Variant 0: batch_size is the same for all variants"),
        ([{"data_seed": 8}], "Variant 0: data_seed is the same for all variants"),
        ([{"total_steps": 8}], "Variant 0: total_steps is the same for all variants"),
        ([{"variants": []}], "Variant 0: variants is the same for all variants"),
        ([{"k": "many"}], "Variant 0: k must be a whole number"),
        ([{"k": 10_000}], "Variant 0: k is 10,000; at most a quarter of the 2,048 latents"),
        ([{"l1_alpha": 0.1}], "Variant 0: l1_alpha does not apply to topk"),
        ([{"architecture_type": "skip"}], "Variant 0: skip reads other hooks than topk; train it by itself."),
        ([{"warmup_steps": 60_000}], "Variant 0: warmup_steps is 60,000, more than the 50,000 steps"),
    ],
)
def test_what_is_wrong_with_a_variant_is_said_with_its_number(variants: list[Any], words: str) -> None:
    found = checked(variants=variants)
    assert found.config is None
    assert [problem.field for problem in found.problems] == ["variants"]
    assert words in found.problems[0].message


def test_what_is_wrong_with_all_of_them_is_said_once_at_its_field() -> None:
    found = checked(k=10_000, variants=[{"seed": 1}, {"seed": 2}])
    assert [problem.field for problem in found.problems] == ["k"]


def test_a_warning_of_one_variant_is_said_with_its_number() -> None:
    found = checked(variants=[{"k": 8}, {"k": 100}], checkpoint_interval=0)
    assert [warning.field for warning in found.warnings] == ["checkpoint_interval", "variants"]
    assert found.warnings[1].message.startswith("Variant 1: 100 active latents for 128 dimensions are dense")


def test_memory_and_time_grow_with_the_variants_but_for_the_model() -> None:
    one, two = checked(), checked(variants=[{}, {"seed": 1}])
    assert one.estimate is not None
    assert two.estimate is not None
    assert two.estimate.parameters == 2 * one.estimate.parameters
    assert two.estimate.memory["buffer"] == one.estimate.memory["buffer"]
    assert two.estimate.memory["language_model"] == one.estimate.memory["language_model"]
