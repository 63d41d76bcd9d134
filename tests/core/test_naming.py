"""Suggested names and descriptions follow the rules to the letter."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config_rules import resolve
from core.figures import js_number
from core.naming import MAX_NAME, copy_name, free_name, template_description, template_name
from events.catalog import ModelRegistered
from events.training import Architecture, TrainingConfig


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("microsoft/Phi-4-mini-instruct", "Phi-4-mini"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen3-4B"),
        ("openai-community/gpt2", "gpt2"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("owner/One-Two-Three-Four-13B-Chat-HF", "One-Two-Three-13B"),
        ("owner/One-Two-Three-Four-base", "One-Two-Three"),
        ("owner/Plain-v2-20240115", "Plain"),
        ("/models/local/demo/", "demo"),
        ("", "Model"),
    ],
)
def test_the_models_part_drops_owner_and_endings_and_keeps_the_size(model: str, expected: str) -> None:
    assert template_name({"model": model}) == f"{expected}_Dataset_TopK"


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        (["someone/small-the_pile"], "small-the-pile"),
        (["a/fineweb", "b/c4"], "fineweb+1"),
        (["a/fineweb", "b/c4", "c/pile"], "fineweb+2"),
        (["a/a-data-set-with-a-very-long-name"], "a-data-set-with-a-very"),
        (["a/" + "x" * 40], "x" * 24),
        (["_" + "x" * 40], "-" + "x" * 23),
        ([], "Dataset"),
    ],
)
def test_the_datasets_part_is_cut_between_words(datasets: list[str], expected: str) -> None:
    assert template_name({"datasets": datasets}) == f"Model_{expected}_TopK"


def test_a_folder_of_activations_stands_for_model_and_data_set() -> None:
    config = {"activations": "/data/vision/clip-l12/", "architecture_type": "gated"}
    assert template_name(config) == "clip-l12_Gated"
    assert template_name({**config, "training_layers": [12]}, {"clip-l12_Gated_L12"}) == "clip-l12_Gated_L12 (2)"
    assert "clip" not in template_description(config)


def test_the_whole_name_reads_as_promised() -> None:
    config = {
        "model": "microsoft/Phi-4-mini-instruct",
        "datasets": ["owner/small-the_pile"],
        "architecture_type": "jumprelu",
        "training_layers": [28],
    }
    assert template_name(config) == "Phi-4-mini_small-the-pile_JumpReLU_L28"
    assert template_name({**config, "training_layers": [31, 0, 14]}).endswith("_L0-31")
    assert template_name(config, taken={template_name(config)}).endswith("_L28 (2)")


def test_a_long_name_is_cut_at_its_model_first() -> None:
    config = {"model": "m" * 200, "datasets": ["words"], "training_layers": [3]}
    name = template_name(config)
    assert (len(name), name.endswith("m_words_TopK_L3")) == (MAX_NAME, True)
    second = template_name(config, taken={name})
    assert (len(second), second.endswith("m_words_TopK_L3 (2)")) == (MAX_NAME, True)


def test_every_architecture_has_its_short_name() -> None:
    short = {
        one: template_name({"architecture_type": one}).removeprefix("Model_Dataset_") for one in get_args(Architecture)
    }
    assert short == {
        "standard": "Std", "skip": "Skip", "transcoder": "Trans", "jumprelu": "JumpReLU", "topk": "TopK",
        "batchtopk": "BatchTopK", "gated": "Gated", "matryoshka": "Matryoshka",
    }  # fmt: skip


def test_the_description_names_every_part_in_order() -> None:
    config = {
        "hidden_dim": 3072, "latent_dim": 24576, "l1_alpha": 1e-4, "learning_rate": 2.7e-4, "batch_size": 4096,
        "total_steps": 50_000, "training_layers": [28, 0, 14], "target_l0": 0.05, "top_k_sparsity": 5.0,
    }  # fmt: skip
    assert template_description(config) == (
        "Hidden: 3072 → Latent: 24576 (8x) | L1: 0.0001 | LR: 0.00027 | Batch: 4096 | Steps: 50k"
        " | Layers: 0, 14, 28 | L0: 0.05 | TopK: 5%"
    )


def test_jumprelu_adds_its_own_parts_and_what_differs_from_the_defaults() -> None:
    config = {
        "architecture_type": "jumprelu", "sparsity_coeff": 6e-4, "initial_threshold": 0.02, "bandwidth": 0.1,
        "hook_types": ["mlp_out"], "seed": 3, "dtype": "bfloat16", "warmup_steps": 500, "normalize_decoder": True,
    }  # fmt: skip
    assert template_description(config) == (
        "Batch: 4096 | Steps: 50k | SparsityCoeff: 0.0006 | Thresh: 0.02 | BW: 0.1"
        " | Hooks: mlp_out | DecoderNorm: on | Warmup: 500 | Seed: 3 | Dtype: bfloat16"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1e-4, "0.0001"), (0.00027, "0.00027"), (1e-5, "0.00001"), (1e-6, "0.000001"), (1e-7, "1e-7"), (1.5e-7, "1.5e-7"),
     (50, "50"), (5.0, "5"), (1e21, "1e+21"), (0.0, "0"), (-2.5e-8, "-2.5e-8")],
)  # fmt: skip
def test_numbers_are_printed_as_javascript_prints_them(value: float, expected: str) -> None:
    assert js_number(value) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_dim": 1000, "latent_dim": 1250}, "(1.3x)"),
        ({"k": 50, "latent_dim": 2048}, "TopK: 2.4%"),
        ({"latent_dim": 24576}, "Latent: 24576 |"),
        ({"total_steps": 1500}, "Steps: 1.5k"),
        ({"total_steps": 1_000_000}, "Steps: 1000k"),
        ({"total_steps": 999}, "Steps: 999"),
        ({"total_steps": 1_250}, "Steps: 1.3k"),
        ({"total_steps": 10**400}, "Steps: 1000"),
        ({"total_steps": 1e30}, "Steps: 1000"),
    ],
)
def test_a_parts_number_is_rounded_half_up(config: dict[str, Any], expected: str) -> None:
    assert expected in template_description(config)


_ANY = st.none() | st.text(max_size=200) | st.integers() | st.floats() | st.booleans() | st.lists(st.text(max_size=90))


@given(st.dictionaries(st.sampled_from(TrainingConfig.__struct_fields__), _ANY), st.integers(0, 3))
def test_any_configuration_gets_a_name_that_is_free_short_and_without_holes(
    config: dict[str, Any], collisions: int
) -> None:
    taken: set[str] = set()
    for _ in range(collisions + 1):
        name = template_name(config, taken)
        assert name not in taken
        assert 0 < len(name) <= MAX_NAME
        taken.add(name)
    template_description(config)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_reads_back_as_itself(value: float) -> None:
    assert float(js_number(value)) == value


@pytest.mark.parametrize("architecture", ["standard", "skip", "transcoder", "jumprelu", "topk", "gated", "matryoshka"])
def test_what_the_architecture_takes_by_itself_is_not_told(architecture: str) -> None:
    model = ModelRegistered(model_id="m", source="m", hidden_dim=64, layers=4, hooks=(), context_size=0)
    config = msgspec.convert({"model": "m", "datasets": ["d", "e"], "architecture_type": architecture}, TrainingConfig)
    resolved = msgspec.structs.replace(resolve(config, model), context_size=None)
    description = template_description(msgspec.to_builtins(resolved))
    labels = [part.partition(": ")[0] for part in description.split(" | ")]
    assert set(labels) <= {"Hidden", "LR", "Batch", "Steps", "Layers", "L0", "TopK", "Thresh", "BW"}, description
    changed = msgspec.structs.replace(resolved, auxk_coefficient=0.5, warmup_steps=7, hook_types=("attn_out",))
    told = template_description(msgspec.to_builtins(changed))
    assert told == f"{description} | Hooks: attn_out | AuxkCoefficient: 0.5 | Warmup: 7"


def test_what_is_set_twice_or_out_of_range_is_told_and_what_cannot_be_read_is_left_out() -> None:
    assert template_description({"k": 7, "top_k_sparsity": 5}).endswith(" | TopK: 5% | k: 7")
    assert template_description({"target_l0": 3}).endswith("L0: 3")
    unreadable = {"k": True, "seed": {"a": 1}, "hook_types": [None], "training_layers": [True], "model": ["x"]}
    assert template_description(unreadable) == template_description({}) == "Batch: 4096 | Steps: 50k"
    assert template_name(unreadable) == template_name({}) == "Model_Dataset_TopK"


@given(st.text(min_size=1, max_size=300), st.integers(0, 12))
def test_a_free_name_and_a_copys_name_are_new_and_fit(name: str, collisions: int) -> None:
    taken = {name[:255].rstrip()}
    for _ in range(collisions):
        for made in (free_name(name, taken, 255), copy_name(name, taken, 255)):
            assert made not in taken
            assert len(made) <= 255
            taken.add(made)


TEXTS = ("target_hook_type", "activation", "normalize_activations", "device", "dtype", "model_dtype")


def test_every_field_that_differs_from_its_default_is_in_the_description() -> None:
    base = msgspec.to_builtins(TrainingConfig())
    described = template_description(base)
    changed = {"model": "m", "datasets": ["d"], "activations": "a", "architecture_type": "gated"}
    for field in TrainingConfig.__struct_fields__:
        if field in changed or field in ("hook_types",):
            continue
        value: Any = [7] if field in ("training_layers", "dataset_weights") else 7
        if field in TEXTS:
            value = "unusual"
        if field == "normalize_decoder":
            value = False
        if isinstance(base[field], bool):
            value = not base[field]
        if field == "variants":
            value = [{"k": 7, "architecture_type": "gated"}]
        assert template_description({**base, field: value}) != described, field
