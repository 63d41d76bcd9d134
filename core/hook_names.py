"""What hooks are called: by this program, by transformers' module paths, by TransformerLens. No torch.

A hook is named by a layer (from 0) and one of five places: `resid_pre` (a block's input), `attn_out` and `mlp_out`
(what attention and MLP add to the residual stream), `mlp_in` (the MLP's own input, after the norm), `resid_post`
(a block's output).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from events.training import HookType


class Family(NamedTuple):
    """Where a family of models keeps its blocks, and the modules inside a block whose outputs are added to the stream.

    Gemma 2 and 3 norm the outputs of attention and MLP before adding them: there the norm's output is attn_out or
    mlp_out. (`post_attention_layernorm` is another thing in Llama: the norm before the MLP.)
    """

    blocks: str
    attn_out: str
    mlp: str
    mlp_out: str


_LLAMA = Family("model.layers", "self_attn", "mlp", "mlp")
_GPT2 = Family("transformer.h", "attn", "mlp", "mlp")
_GEMMA = Family("model.layers", "post_attention_layernorm", "mlp", "post_feedforward_layernorm")

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "phi3": _LLAMA,
    "phi": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": _GEMMA._replace(blocks="model.language_model.layers"),
    "gpt_neox": Family("gpt_neox.layers", "attention", "mlp", "mlp"),
}

TRANSFORMER_LENS = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    # `ln2.hook_normalized` lies before the norm's weight, so it is another activation.
    "mlp_in": "mlp.hook_in",
}


@dataclass(frozen=True)
class HookPlace:
    """A hook in the model's own terms: the input or output of one of its modules."""

    module: str
    side: Literal["input", "output"]
    hook_name: str
    """TransformerLens' name."""

    @property
    def hf_hook_name(self) -> str:
        """The module's path in the transformers model, and the side."""
        return f"{self.module}.{self.side}"


def place(family: str, layer: int, hook: HookType) -> HookPlace:
    """Where `hook` of `layer` lies in a model of `family` (a transformers `model_type` in FAMILIES)."""
    where = FAMILIES[family]
    block = f"{where.blocks}.{layer}"
    modules: dict[HookType, tuple[str, Literal["input", "output"]]] = {
        "resid_pre": (block, "input"),
        "resid_post": (block, "output"),
        "attn_out": (f"{block}.{where.attn_out}", "output"),
        "mlp_in": (f"{block}.{where.mlp}", "input"),
        "mlp_out": (f"{block}.{where.mlp_out}", "output"),
    }
    module, side = modules[hook]
    return HookPlace(module, side, f"blocks.{layer}.{TRANSFORMER_LENS[hook]}")
