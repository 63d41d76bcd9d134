import pytest
import torch
from tiny_models import FAMILY_SETTINGS, make_model

from core.activations.hooks import HOOK_TYPES, capture, replaced
from core.activations.models import load_model
from core.hook_names import place


@pytest.fixture(scope="module", params=sorted(FAMILY_SETTINGS))
def lm(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("family") / request.param, request.param)
    return load_model(str(folder), dtype="float32", device="cpu")


def ids(lm, rows=2, length=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, lm.facts.vocab_size, (rows, length), generator=generator)


def everything(lm):
    return [(layer, hook) for layer in range(lm.facts.layers) for hook in HOOK_TYPES]


def test_what_attention_and_mlp_add_to_the_stream_is_what_the_block_returns(lm):
    found = capture(lm, ids(lm), everything(lm))
    for layer in range(lm.facts.layers):
        added = found[layer, "resid_pre"] + found[layer, "attn_out"] + found[layer, "mlp_out"]
        assert found[layer, "attn_out"].abs().max() > 1e-3
        assert found[layer, "mlp_out"].abs().max() > 1e-3
        torch.testing.assert_close(added, found[layer, "resid_post"], atol=1e-4, rtol=1e-4)
        if layer:
            assert torch.equal(found[layer, "resid_pre"], found[layer - 1, "resid_post"])


def test_mlp_in_is_what_the_mlp_turns_into_its_output(lm):
    found = capture(lm, ids(lm), everything(lm))
    where = place(lm.facts.family, 1, "mlp_in")
    output = lm.model.get_submodule(where.module)(found[1, "mlp_in"])
    if "post_feedforward_layernorm" in place(lm.facts.family, 1, "mlp_out").module:
        output = lm.model.get_submodule(place(lm.facts.family, 1, "mlp_out").module)(output)
    torch.testing.assert_close(output, found[1, "mlp_out"], atol=1e-5, rtol=1e-5)


def test_one_pass_gives_every_pair_its_own_activations_and_stops_after_the_highest(lm):
    reached = []
    handle = lm.model.get_submodule(place(lm.facts.family, 2, "resid_pre").module).register_forward_pre_hook(
        lambda *_: reached.append("layer 2")
    )
    try:
        some = capture(lm, ids(lm), [(1, "resid_post"), (0, "mlp_in")])
        assert reached == []
        full = capture(lm, ids(lm), everything(lm))
        assert reached == ["layer 2"]
    finally:
        handle.remove()
    assert list(some) == [(1, "resid_post"), (0, "mlp_in")]
    for pair, activations in some.items():
        assert activations.shape == (2, 16, lm.facts.hidden_dim)
        assert torch.equal(activations, full[pair])


def test_no_hook_stays_behind(lm):
    capture(lm, ids(lm), [(0, "resid_pre"), (1, "mlp_out")])
    with replaced(lm, (1, "mlp_in"), torch.zeros_like):
        pass
    for module in lm.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_putting_an_activation_back_unchanged_changes_no_logit_and_zeroing_it_does(lm):
    tokens = ids(lm)
    clean = lm.logits(tokens)
    for hook in HOOK_TYPES:
        with replaced(lm, (1, hook), torch.clone):
            assert torch.equal(lm.logits(tokens), clean), hook
        with replaced(lm, (1, hook), torch.zeros_like):
            assert not torch.allclose(lm.logits(tokens), clean, atol=1e-4), hook
    assert torch.equal(lm.logits(tokens), clean)


def test_a_layer_that_does_not_exist_is_named(lm):
    with pytest.raises(IndexError, match="layers 0 to 2; layer 7"):
        capture(lm, ids(lm), [(7, "resid_post")])


@pytest.mark.parametrize(
    ("family", "hook", "transformer_lens", "hugging_face"),
    [
        ("gpt2", "resid_post", "blocks.5.hook_resid_post", "transformer.h.5.output"),
        ("gpt2", "resid_pre", "blocks.5.hook_resid_pre", "transformer.h.5.input"),
        ("llama", "mlp_in", "blocks.5.mlp.hook_in", "model.layers.5.mlp.input"),
        ("gemma2", "attn_out", "blocks.5.hook_attn_out", "model.layers.5.post_attention_layernorm.output"),
        ("gemma2", "mlp_out", "blocks.5.hook_mlp_out", "model.layers.5.post_feedforward_layernorm.output"),
        ("gpt_neox", "attn_out", "blocks.5.hook_attn_out", "gpt_neox.layers.5.attention.output"),
    ],
)
def test_a_hook_has_its_name_in_both_worlds(family, hook, transformer_lens, hugging_face):
    where = place(family, 5, hook)
    assert (where.hook_name, where.hf_hook_name) == (transformer_lens, hugging_face)
