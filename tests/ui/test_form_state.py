"""The form keeps the promises about templates: what is selected was loaded, and what was loaded is told truthfully."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.catalog import DatasetRegistered, ModelRegistered
from events.training import TrainingConfig
from ui.answers import Check, Device, Estimate, FieldProblem, Template
from ui.state.config_fields import BY_NAME, FIELDS, GROUPS, Field, label, number, plain
from ui.state.form import Form, fits, typed, value_of

DEMO = ModelRegistered(
    model_id="demo",
    source="/models/demo",
    title="Demo",
    hidden_dim=128,
    layers=4,
    hooks=("resid_pre", "resid_post", "mlp_out"),
    context_size=128,
)
STDLIB = DatasetRegistered(dataset_id="stdlib", source="/usr/lib/python", format="text")


def template(id: str, name: str = "", **config: Any) -> Template:
    return Template(id=id, version=1, name=name or id, config=msgspec.convert(config, TrainingConfig))


DEMO_TOPK = template("t1", "Demo TopK", model="demo", datasets=["stdlib"], k=16, training_layers=[1, 2])
GPT2 = template("t2", "GPT-2", model="openai-community/gpt2")
ANY = template("t3", "Anything", architecture_type="jumprelu", bandwidth=0.05)


@pytest.fixture
def form() -> Form:
    form = Form()
    form.models, form.datasets = (DEMO,), (STDLIB,)
    form.take_templates([DEMO_TOPK, GPT2, ANY])
    return form


def shown(form: Form) -> dict[str, Any]:
    return form.view()["template"]


def fields(form: Form) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for group in form.view()["groups"] for field in group["fields"]}


def test_the_placeholder_counts_the_templates_that_fit(form: Form) -> None:
    assert shown(form)["placeholder"] == "Select a template… (3 available)"
    form.edit("model", "demo")
    assert shown(form)["placeholder"] == "Select a template… (2 available)"
    form.edit("datasets", ["another"])
    assert shown(form)["placeholder"] == "Select a template… (1 available)"
    assert [name for _, name in shown(form)["others"]] == ["Demo TopK", "GPT-2"]


def test_data_sets_fit_as_sets() -> None:
    config = msgspec.convert({"datasets": ["a", "b"]}, TrainingConfig)
    assert fits(config, "any model", ["b", "a"])
    assert not fits(config, "", ["a"])
    assert fits(config, "", [])


def test_loading_fills_every_field_and_names_the_template(form: Form) -> None:
    assert form.load("t1")
    assert form.config() == plain(DEMO_TOPK.config)
    assert (shown(form)["selected"], shown(form)["hint"]["text"]) == ("t1", "Loaded: Demo TopK")


def test_editing_keeps_the_name_and_names_what_changed(form: Form) -> None:
    form.load("t1")
    form.edit("k", "32")
    assert shown(form)["hint"] == {"text": "Loaded: Demo TopK · 1 field changed", "title": "k", "revert": True}
    form.edit("learning_rate", "0.001")
    assert shown(form)["hint"]["text"] == "Loaded: Demo TopK · 2 fields changed"
    assert shown(form)["hint"]["title"] == "k, Learning rate"
    form.edit("k", "16.0")
    assert shown(form)["hint"]["title"] == "Learning rate"
    form.revert()
    assert shown(form)["hint"] == {"text": "Loaded: Demo TopK", "title": "", "revert": False}
    assert form.config() == plain(DEMO_TOPK.config)


def test_another_template_replaces_form_name_and_hint(form: Form) -> None:
    form.load("t1")
    form.edit("k", "32")
    form.load("t3")
    assert form.config() == plain(ANY.config)
    assert shown(form)["hint"]["text"] == "Loaded: Anything"


def test_clearing_leaves_the_form_as_it_is(form: Form) -> None:
    form.load("t1")
    form.edit("k", "32")
    before = form.config()
    form.unload()
    assert (form.config(), shown(form)["selected"], shown(form)["hint"]["text"]) == (before, "", "")


def test_a_model_or_data_set_that_does_not_fit_lets_go_of_the_template_and_says_why(form: Form) -> None:
    form.load("t1")
    form.edit("k", "32")
    form.edit("model", "openai-community/gpt2")
    assert (shown(form)["selected"], shown(form)["loaded"]) == ("", "")
    assert shown(form)["hint"]["text"] == "Demo TopK no longer applies: it is for demo"
    assert form.config()["k"] == 32
    form.load("t1")
    form.edit("datasets", ["stdlib", "more"])
    assert shown(form)["hint"]["text"] == "Demo TopK no longer applies: it is for stdlib"
    form.load("t3")
    form.edit("model", "whatever")
    assert shown(form)["hint"]["text"] == "Loaded: Anything · 1 field changed"


def test_what_others_do_to_the_loaded_template_is_seen(form: Form) -> None:
    form.load("t1")
    form.take_templates([msgspec.structs.replace(DEMO_TOPK, name="Renamed", version=2), GPT2])
    assert (shown(form)["selected"], shown(form)["hint"]["text"]) == ("t1", "Loaded: Renamed")
    edited = msgspec.structs.replace(DEMO_TOPK.config, k=99)
    form.take_templates([msgspec.structs.replace(DEMO_TOPK, config=edited, version=3)])
    assert shown(form)["hint"]["text"] == "Loaded: Demo TopK · 1 field changed"
    before = form.config()
    form.take_templates([GPT2])
    assert (shown(form)["selected"], shown(form)["hint"]["text"]) == ("", "Demo TopK was deleted")
    assert form.config() == before


def test_a_draft_brings_back_what_was_typed_and_what_was_loaded(form: Form) -> None:
    form.load("t1")
    form.edit("k", "not a number")
    form.name = "mine"
    draft = msgspec.json.decode(msgspec.json.encode(form.draft()))
    again = Form()
    assert again.restore(draft)
    again.take_templates([DEMO_TOPK])
    assert (again.inputs, again.name) == (form.inputs, "mine")
    assert shown(again)["hint"]["text"] == "Loaded: Demo TopK · 1 field changed"
    again = Form()
    again.restore(draft)
    again.take_templates([])
    assert shown(again)["hint"]["text"] == "This template does not exist any more"


@pytest.mark.parametrize("draft", [None, 3, {}, {"inputs": 3}, {"inputs": {"k": 5, "nonsense": "x", "datasets": [1]}}])
def test_a_draft_that_is_none_changes_nothing(draft: Any) -> None:
    form = Form()
    form.restore(draft)
    assert form.config() == plain(TrainingConfig())


def test_only_fields_of_the_architecture_are_shown_and_the_others_come_back_with_it(form: Form) -> None:
    form.load("t1")
    form.edit("architecture_type", "jumprelu")
    assert "k" not in fields(form)
    assert {"bandwidth", "initial_threshold", "sparsity_coeff", "target_l0"} <= set(fields(form))
    assert "k" not in form.config()
    form.edit("bandwidth", "0.2")
    form.edit("architecture_type", "topk")
    assert "bandwidth" not in fields(form)
    assert (form.config()["k"], fields(form)["k"]["value"]) == (16, "16")


def test_a_field_that_does_not_apply_but_is_set_is_shown(form: Form) -> None:
    form.use(msgspec.convert({"architecture_type": "jumprelu", "k": 5}, TrainingConfig))
    assert fields(form)["k"]["value"] == "5"


def test_the_chosen_model_offers_its_layers_hooks_and_width(form: Form) -> None:
    form.edit("model", "demo")
    assert [value for value, _ in fields(form)["training_layers"]["options"]] == ["0", "1", "2", "3"]
    assert [value for value, _ in fields(form)["hook_types"]["options"]] == list(DEMO.hooks)
    assert fields(form)["hidden_dim"]["placeholder"] == "128"
    assert form.to_save()["hidden_dim"] == 128
    form.edit("model", "another")
    assert "hidden_dim" not in form.to_save()
    assert fields(form)["training_layers"]["kind"] == "numbers"


def test_what_is_registered_is_offered_and_anything_else_can_be_typed(form: Form) -> None:
    assert fields(form)["model"]["suggestions"] == [["demo", "Demo"]]
    assert [name for name, _ in fields(form)["datasets"]["suggestions"]] == ["stdlib"]
    form.edit("model", "owner/of-the-hub")
    form.edit("datasets", ["/a/path", "owner/texts"])
    assert (form.config()["model"], form.config()["datasets"]) == ("owner/of-the-hub", ["/a/path", "owner/texts"])


def test_what_a_start_needs_stands_beside_what_the_chosen_device_has_free(form: Form) -> None:
    form.devices = (
        Device(id="cpu", kind="cpu", name="CPU", memory_free=64 * 2**30),
        Device(id="cuda:0", kind="cuda", name="Small", memory_free=2**30),
        Device(id="cuda:1", kind="cuda", name="Large", memory_free=8 * 2**30),
    )
    estimate = Estimate(memory_bytes=2 * 2**30, tokens=4_096_000, parameters=1_000, seconds=None)
    form.take_check(Check(estimate=estimate), form.revision)

    def needs() -> dict[str, tuple[str, float | None]]:
        return {one["label"]: (one["note"], one["share"]) for one in form.view()["needs"]}

    note, share = needs()["Memory"]
    assert (note.endswith("free on Large"), share) == (True, 0.25)
    assert needs()["Time"] == ("known after a first run", None)
    assert "Disk" not in needs()
    form.edit("device", "cuda:0")
    form.take_check(Check(estimate=estimate), form.revision)
    note, share = needs()["Memory"]
    assert (note.endswith("free on Small"), share) == (True, 2.0)


def test_a_default_that_a_narrow_field_would_cut_stands_below_it(form: Form) -> None:
    seen = fields(form)
    assert (seen["total_steps"]["placeholder"], seen["total_steps"]["note"]) == ("50000", "")
    assert (seen["k"]["placeholder"], seen["k"]["note"]) == ("", "default: 50, at most an eighth of the width")
    resolved = msgspec.convert({"model": "demo", "k": 16}, TrainingConfig)
    form.take_check(Check(config=resolved), form.revision)
    assert (fields(form)["k"]["placeholder"], fields(form)["k"]["note"]) == ("16", seen["k"]["note"])


def test_what_is_wrong_stands_at_its_field_and_what_is_missing_only_after_a_try(form: Form) -> None:
    form.edit("learning_rate", "fast")
    problems = (FieldProblem("learning_rate", "learning_rate must be a number."), FieldProblem("model", "Missing."))
    form.take_check(Check(problems=problems), form.revision)
    assert form.problems() == {"learning_rate": "learning_rate must be a number."}
    form.try_to_start()
    assert fields(form)["model"]["problem"] == "Missing."
    form.take_check(Check(), form.revision - 1)
    assert len(form.problems()) == 2


def test_a_problem_or_warning_leads_to_its_field_where_that_is_shown(form: Form) -> None:
    problems = (FieldProblem("config.learning_rate", "Too fast."), FieldProblem("bandwidth", "Not for TopK."))
    warnings = (FieldProblem("warmup_steps", "Long."), FieldProblem("", "It is late."))
    form.edit("learning_rate", "5")
    form.try_to_start()
    form.take_check(Check(problems=problems, warnings=warnings), form.revision)
    seen = form.view()
    assert seen["problems"] == [
        {"field": "learning_rate", "text": "Too fast."},
        {"field": "", "text": "Not for TopK."},
    ]
    assert seen["warnings"] == [{"field": "warmup_steps", "text": "Long."}, {"field": "", "text": "It is late."}]


def test_a_description_tells_the_defaults_that_matter(form: Form) -> None:
    form.edit("model", "demo")
    resolved = msgspec.convert(
        {"model": "demo", "latent_dim": 2048, "learning_rate": 0.00169705, "k": 16, "warmup_steps": 7}, TrainingConfig
    )
    told = form.to_describe(Check(config=resolved))
    assert (told["hidden_dim"], told["latent_dim"], told["learning_rate"], told["k"]) == (128, 2048, 0.0017, 16)
    assert "warmup_steps" not in told
    assert "latent_dim" not in form.to_save()


@pytest.mark.parametrize(
    ("field", "raw", "value"),
    [
        ("total_steps", "50k", 50_000),
        ("total_steps", "1.5M", 1_500_000),
        ("total_steps", "50,000", 50_000),
        ("total_steps", "1e5", 100_000),
        ("total_steps", "2.5", 2.5),
        ("total_steps", "many", "many"),
        ("learning_rate", " 1e-4 ", 1e-4),
        ("learning_rate", "", None),
        ("training_layers", ["1", "x"], [1, "x"]),
        ("datasets", [" a ", ""], ["a"]),
        ("normalize_decoder", "true", True),
        ("normalize_decoder", "", None),
        ("auto_resume", True, True),
    ],
)
def test_what_is_typed_is_read_as_people_write_it(field: str, raw: Any, value: Any) -> None:
    assert value_of(BY_NAME[field], raw) == value


@given(st.one_of(st.floats(1e-12, 1e12), st.integers(0, 2**53)))
def test_a_number_that_is_shown_is_read_back_as_it_was(value: float) -> None:
    assert value_of(BY_NAME["learning_rate"], number(value)) == value


def test_every_field_has_its_place_and_its_help() -> None:
    assert [field.name for field in FIELDS] == list(TrainingConfig.__struct_fields__)
    for field in FIELDS:
        assert field.help
        assert field.group in GROUPS
    assert (label("learning_rate"), label("target_l0"), label("l1_alpha"), label("k")) == (
        "Learning rate",
        "Target L0",
        "L1 alpha",
        "k",
    )
    assert BY_NAME["architecture_type"].options[0] == "standard"


def test_every_configuration_survives_the_form() -> None:
    config = msgspec.convert(
        {
            "model": "m",
            "datasets": ["a", "b"],
            "dataset_weights": [0.25, 1 / 3],
            "training_layers": [0, 14],
            "hook_types": ["mlp_out"],
            "normalize_decoder": False,
            "k": 7,
            "learning_rate": 1.234567e-5,
            "seed": 2**62,
            "auto_resume": True,
            "grad_clip_norm": 0.0,
        },
        TrainingConfig,
    )
    form = Form()
    form.use(config)
    assert msgspec.convert(form.config(), TrainingConfig) == config
    for field in FIELDS:
        assert typed(field, getattr(config, field.name)) == form.inputs[field.name]


def values(field: Field) -> st.SearchStrategy[Any]:
    """What a field of a configuration may hold, as JSON has it."""
    numbers = st.integers(-(2**53), 2**53) if field.whole else st.floats(allow_nan=False, allow_infinity=False)
    match field.kind:
        case "number":
            return numbers
        case "numbers":
            return st.lists(numbers, min_size=1, max_size=4)
        case "switch":
            return st.booleans()
        case "choice" if field.options == ("true", "false"):
            return st.booleans()
        case "choice":
            return st.sampled_from(field.options)
        case "choices":
            return st.lists(st.sampled_from(field.options), min_size=1)
        case "names":
            return st.lists(st.text(min_size=1).filter(lambda text: text == text.strip()), min_size=1, max_size=3)
        case "json":
            return st.lists(st.dictionaries(st.text(), st.integers() | st.text()), min_size=1, max_size=3)
        case "text":
            return st.text(min_size=1).filter(lambda text: text == text.strip())


@settings(max_examples=15)
@given(st.fixed_dictionaries({field.name: st.none() | values(field) for field in FIELDS}))
def test_whatever_a_template_holds_is_what_the_form_says_that_it_holds(held: dict[str, Any]) -> None:
    for field in FIELDS:
        value = held[field.name]
        read = value_of(field, typed(field, value))
        assert read == (bool(value) if field.kind == "switch" else value), field.name


def test_a_folder_of_activations_stands_for_model_and_data_sets_and_nothing_typed_is_lost(form: Form) -> None:
    form.edit("model", "demo")
    form.edit("datasets", ["stdlib"])
    form.edit("model_dtype", "float16")
    assert "activations" not in fields(form)
    assert form.edit("reading", "folder")
    assert not form.edit("reading", "elsewhere")
    shown_now = fields(form)
    assert {"reading", "activations", "shuffle", "training_layers"} <= set(shown_now)
    assert not {"model", "datasets", "dataset_weights", "context_size", "model_dtype"} & set(shown_now)
    assert form.view()["missing"] == ["activations"]
    form.edit("activations", "/kept/vision")
    form.edit("shuffle", False)
    config = form.config()
    assert (config["activations"], config["shuffle"]) == ("/kept/vision", False)
    assert not {"model", "datasets"} & set(config)
    assert config["model_dtype"] == "auto"
    assert form.view()["missing"] == []
    form.edit("reading", "text")
    assert form.config()["model"] == "demo"
    assert (form.config()["datasets"], form.config()["model_dtype"]) == (["stdlib"], "float16")
    assert "activations" not in form.config()
    assert form.config()["shuffle"] is True
    form.edit("reading", "folder")
    assert form.config()["shuffle"] is False
    # Also over a reload.
    again = Form()
    assert again.restore(msgspec.json.decode(msgspec.json.encode(form.draft())))
    again.edit("reading", "text")
    assert (again.config()["model"], again.config()["datasets"]) == ("demo", ["stdlib"])


def test_a_configuration_on_a_folder_is_filled_in_and_kept_by_the_tab(form: Form) -> None:
    config = msgspec.convert({"activations": "/kept/vision", "shuffle": False, "k": 3}, TrainingConfig)
    form.use(config)
    assert fields(form)["reading"]["value"] == "folder"
    again = Form()
    assert again.restore(form.draft())
    assert again.config() == form.config()
    assert fields(again)["activations"]["value"] == "/kept/vision"


def test_templates_fit_the_folder_that_is_chosen(form: Form) -> None:
    kept = template("t4", "Kept", activations="/kept/vision")
    form.take_templates([DEMO_TOPK, GPT2, ANY, kept])
    assert shown(form)["placeholder"] == "Select a template… (4 available)"
    form.load("t4")
    form.edit("activations", "/kept/other")
    assert [name for _, name in shown(form)["fitting"]] == ["Anything"]
    assert shown(form)["hint"]["text"] == "Kept no longer applies: it is for /kept/vision"
    form.load("t1")
    form.edit("reading", "folder")
    form.edit("activations", "/kept/vision")
    assert shown(form)["hint"]["text"] == "Demo TopK no longer applies: it is for what a language model reads"
