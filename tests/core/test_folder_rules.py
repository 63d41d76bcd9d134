"""What a training on a folder of activations must satisfy, and what it means with its defaults."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.activations.sources import StoredActivations
from core.config_rules import Checked, check

FOLDER = StoredActivations(
    source="/kept/vision", width=64, dtype="bfloat16", rows=100_000, files=10, size=12_800_000
)  # fmt: skip


def checked(folder: StoredActivations = FOLDER, **fields: Any) -> Checked:
    return check({"activations": "/kept/vision", **fields}, [], [], folders=[folder])


def problems(**fields: Any) -> dict[str, str]:
    return {problem.field: problem.message for problem in checked(**fields).problems}


def test_a_folder_is_enough() -> None:
    found = checked()
    assert found.problems == ()
    config = found.config
    assert config is not None
    assert (config.activations, config.model, config.datasets, config.shuffle) == ("/kept/vision", "", (), True)
    assert (config.hidden_dim, config.latent_dim, config.k) == (64, 1_024, 8)
    # Nobody said what the activations are of.
    assert (config.training_layers, config.hook_types, config.context_size) == (None, None, None)
    again = checked(**msgspec.to_builtins(config))
    assert (again.problems, again.config) == ((), config)


def test_a_folder_that_was_not_looked_at_is_no_problem_yet() -> None:
    found = check({"activations": "/kept/vision", "k": 3}, [], [])
    assert (found.config, found.problems) == (None, ())
    assert [(one.field, one.message) for one in found.unregistered] == [("activations", "/kept/vision")]


def test_the_estimate_has_no_language_model_and_a_buffer_that_is_bounded() -> None:
    estimate = checked(total_steps=1_000, latent_dim=256).estimate
    assert estimate is not None
    assert (estimate.tokens, estimate.parameters) == (4_096_000, 2 * 64 * 256 + 256 + 64)
    assert estimate.memory["language_model"] == 0
    assert estimate.memory["buffer"] == 2**19 * 64 * 2
    in_order = checked(shuffle=False).estimate
    assert in_order is not None
    assert in_order.memory["buffer"] == 0
    wide = checked(msgspec.structs.replace(FOLDER, width=16_384, dtype="float32")).estimate
    assert wide is not None
    assert wide.memory["buffer"] == 2 << 30


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"model": "tiny"}, "model", "model does not apply to a folder of activations; leave it out, or leave activ"),
        ({"datasets": ["text"]}, "datasets", "datasets does not apply to a folder"),
        ({"context_size": 128}, "context_size", "does not apply to a folder"),
        ({"cache": True}, "cache", "does not apply to a folder"),
        ({"model_dtype": "float16"}, "model_dtype", "does not apply to a folder"),
        ({"training_layers": [1, 2]}, "training_layers", "names 2 layers; the activations of one folder are of one"),
        ({"hook_types": ["resid_pre", "mlp_out"]}, "hook_types", "names 2 hooks"),
        ({"hidden_dim": 32}, "hidden_dim", "hidden_dim is 32; the activations in vision have 64 dimensions"),
        ({"batch_size": 95_008}, "batch_size", "vision has 95,000 rows to train on, and 5,000 that are held out"),
    ],
)
def test_what_does_not_go_with_a_folder_is_refused_by_name(fields: dict[str, Any], field: str, words: str) -> None:
    assert words in problems(**fields)[field]


@pytest.mark.parametrize("kind", ["transcoder", "skip"])
def test_a_transcoder_needs_what_it_is_to_give(kind: str) -> None:
    words = f"A {kind} predicts 't' from 'x'; the files in vision hold no 't' of shape (rows, m)."
    assert problems(architecture_type=kind) == {"activations": words}
    both = msgspec.structs.replace(FOLDER, target_width=32)
    found = checked(both, architecture_type=kind, latent_dim=256)
    assert found.problems == ()
    assert found.config is not None
    assert (found.config.target_hook_type, found.config.target_layer_offset) == ("mlp_out", None)
    again = checked(both, **msgspec.to_builtins(found.config))
    assert (again.problems, again.config) == ((), found.config)
    assert found.estimate is not None
    skip = 64 * 32 if kind == "skip" else 0
    assert found.estimate.parameters == (64 + 32) * 256 + 256 + 32 + skip
    assert found.estimate.memory["buffer"] == 2**19 * (64 + 32) * 2
    narrow = checked(both, architecture_type="skip", skip_rank=40)
    assert [one.message for one in narrow.problems] == ["skip_rank is 40, more than the width 32 of what is in vision."]


def test_what_is_for_folders_is_refused_without_one() -> None:
    found = check({"model": "x", "datasets": ["y"], "shuffle": False}, [], [])
    assert [(one.field, one.message) for one in found.problems] == [
        ("shuffle", "shuffle applies to a folder of activations only; name one in activations, or leave it out.")
    ]
    # The defaults, written out, are not for anything.
    found = check({"model": "x", "datasets": ["y"], "shuffle": True, "activations": None}, [], [])
    assert [one.field for one in found.unregistered] == ["model", "datasets"]


def test_what_is_likely_to_disappoint_is_said() -> None:
    with_target = msgspec.structs.replace(FOLDER, target_width=32)
    warnings = {one.field: one.message for one in checked(with_target, total_steps=5_000).warnings}
    assert warnings["total_steps"] == "The run reads each of the 95,000 rows about 216 times: it may learn them."
    assert warnings["activations"] == "The files in vision hold 't' too, which a topk does not use."
    assert "total_steps" not in {one.field for one in checked(total_steps=200 + 300, batch_size=1_024).warnings}
