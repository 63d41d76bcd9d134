import json
import shutil

import pytest
import torch
from tiny_models import make_model, make_tokenizer

from core.activations import hub
from core.activations.models import ModelError, load_model, read_facts
from core.hook_names import FAMILIES


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture
def copy(gpt2_folder, tmp_path):
    return shutil.copytree(gpt2_folder, tmp_path / "model")


def test_a_local_folder_is_loaded_frozen_and_without_a_network_call(llama_folder, no_network):
    lm = load_model(str(llama_folder), device="cpu")
    assert lm.dtype == torch.float32
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert lm.logits(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 300)


def test_the_facts_are_the_models_own_and_the_same_without_its_weights(llama_folder, no_network):
    lm = load_model(str(llama_folder), device="cpu")
    assert read_facts(str(llama_folder)) == lm.facts
    facts = lm.facts
    assert (facts.family, facts.hidden_dim, facts.layers, facts.context_size) == ("llama", 16, 3, 32)
    assert facts.parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert (facts.bos_id, facts.eos_id) == (0, 1)
    assert facts.title == "tiny-llama"
    assert facts.revision is None


def test_the_type_that_is_asked_for_is_the_type_that_runs(gpt2_folder):
    assert load_model(str(gpt2_folder), dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_a_model_that_brings_code_is_refused_and_the_code_is_not_run(copy, tmp_path):
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).write_text('run')\nclass Evil: pass\n"
    (copy / "evil.py").write_text(code)
    edit(copy / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    for attempt in (read_facts, lambda source: load_model(source, device="cpu")):
        with pytest.raises(ModelError, match=r"brings code of its own \(auto_map"):
            attempt(str(copy))
    assert not canary.exists()


def test_a_tokenizers_own_code_is_not_run_either(copy, tmp_path):
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).write_text('run')\nclass Evil: pass\n"
    (copy / "evil.py").write_text(code)
    edit(
        copy / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )
    load_model(str(copy), device="cpu")
    assert not canary.exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("value", ["somebody/kernels", {"text_config": "somebody/kernels"}])
def test_attention_code_from_elsewhere_is_refused(copy, key, value):
    edit(copy / "config.json", **{key: value})
    with pytest.raises(ModelError, match="asks for attention code from 'somebody/kernels'"):
        load_model(str(copy), device="cpu")


def test_pickled_weights_are_refused(copy):
    weights = {"transformer.wte.weight": torch.zeros(2, 2)}
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="has no safetensors weights"):
        read_facts(str(copy))
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(copy), device="cpu")


def test_weights_with_holes_are_refused_instead_of_filled_with_noise(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: 1 tensors are missing, transformer\.h\.1\.mlp\.c_fc"):
        load_model(str(copy), device="cpu")


def test_an_unsupported_family_is_refused_with_the_supported_ones(copy):
    edit(copy / "config.json", model_type="bert")
    with pytest.raises(ModelError, match="family 'bert', which is not supported; supported are gemma,") as caught:
        load_model(str(copy), device="cpu")
    assert all(family in str(caught.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/no/such/folder", "There is no file or folder '/no/such/folder'."),
        ("./nothing", "There is no file or folder './nothing'."),
        ("a/b/c/d", "neither an existing path nor a hub id"),
        ("what is this", "neither an existing path nor a hub id"),
    ],
)
def test_a_source_that_is_nothing_is_said_to_be_nothing(source, sentence, no_network):
    with pytest.raises(ModelError, match=sentence.replace(".", r"\.")):
        load_model(source, device="cpu")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"is no model folder: it has no config\.json"):
        load_model(str(tmp_path), device="cpu")


def test_a_missing_tokenizer_is_said(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_model(str(copy), device="cpu")


def test_broken_json_is_one_sentence(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_model(str(copy), device="cpu")
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_said_at_once(monkeypatch):
    monkeypatch.setattr(hub, "offline", lambda: True)
    monkeypatch.setattr("core.activations.models.offline", lambda: True)
    with pytest.raises(ModelError, match="the hub cannot be reached from this machine"):
        load_model("nobody-at-all/no-such-model", device="cpu")


def test_a_tokenizer_without_bos_eos_and_pad_works(tmp_path):
    folder = make_model(tmp_path / "bare", "gpt2", bos=False, eos=False)
    lm = load_model(str(folder), device="cpu")
    assert (lm.facts.bos_id, lm.facts.eos_id) == (None, None)
    assert lm.tokenizer("tree")["input_ids"] == make_tokenizer(bos=False, eos=False)("tree")["input_ids"]
