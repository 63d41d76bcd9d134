"""Reading, and replacing, a language model's activations at the hooks of its layers.

A hook is named by a layer (from 0) and one of five places: `resid_pre` (a block's input), `attn_out` and `mlp_out`
(what attention and MLP add to the residual stream), `mlp_in` (the MLP's own input, after the norm), `resid_post`
(a block's output). In every family resid_pre + attn_out + mlp_out = resid_post, and resid_post of a layer is
resid_pre of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from events.training import HookType

if TYPE_CHECKING:
    from .models import LanguageModel

Pair = tuple[int, HookType]
HOOK_TYPES: tuple[HookType, ...] = get_args(HookType)


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

_TRANSFORMER_LENS = {
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
    return HookPlace(module, side, f"blocks.{layer}.{_TRANSFORMER_LENS[hook]}")


class _Enough(Exception):
    """Everything that was asked for has been read; the rest of the forward pass is not needed."""


def _first(value: Any) -> Tensor:
    # Attention returns a tuple, and so do whole blocks before transformers 5.
    return value[0] if isinstance(value, tuple) else value


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


@torch.inference_mode()
def capture(lm: LanguageModel, tokens: Tensor, pairs: Iterable[Pair]) -> dict[Pair, Tensor]:
    """The activations at all of `pairs` from one forward pass, which ends as soon as the last of them is known.

    `tokens` are int64 ids (R, C) on the model's device, without padding; the results are (R, C, n) in the model's
    type and on its device. Raises KeyError for a hook that does not exist, IndexError for a layer that does not.
    """
    wanted = tuple(dict.fromkeys(pairs))
    found: dict[Pair, Tensor] = {}

    def keep(pair: Pair, activations: Tensor) -> None:
        found[pair] = activations
        if len(found) == len(wanted):
            raise _Enough

    with ExitStack() as stack:
        for pair in wanted:
            module, side = _module(lm, pair)
            if side == "input":

                def before(_: nn.Module, args: Any, kwargs: Any, pair: Pair = pair) -> None:
                    keep(pair, _input(args, kwargs))

                handle = module.register_forward_pre_hook(before, with_kwargs=True)
            else:

                def after(_: nn.Module, __: Any, output: Any, pair: Pair = pair) -> None:
                    keep(pair, _first(output))

                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        with suppress(_Enough):
            lm.model(input_ids=tokens, use_cache=False)
    return {pair: found[pair] for pair in wanted}


@contextmanager
def replaced(lm: LanguageModel, pair: Pair, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, forward passes go on with `function(activations)` in place of the activations at `pair`.

    `function` takes and returns (R, C, n) in the model's type. Splicing a reconstruction in, and ablation, are this.
    """
    module, side = _module(lm, pair)
    if side == "input":

        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            value = function(_input(args, kwargs))
            return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            value = function(_first(output))
            return (value, *output[1:]) if isinstance(output, tuple) else value

        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _module(lm: LanguageModel, pair: Pair) -> tuple[nn.Module, str]:
    layer, hook = pair
    if not 0 <= layer < lm.facts.layers:
        raise IndexError(f"{lm.facts.title} has layers 0 to {lm.facts.layers - 1}; layer {layer} does not exist.")
    where = place(lm.facts.family, layer, hook)
    return lm.model.get_submodule(where.module), where.side
