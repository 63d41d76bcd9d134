"""Reading, and replacing, a language model's activations at the hooks of its layers.

Hooks are named as in `core.hook_names`. In every family resid_pre + attn_out + mlp_out = resid_post, and resid_post of
a layer is resid_pre of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from core.hook_names import place
from events.training import HookType

if TYPE_CHECKING:
    from .models import LanguageModel

Pair = tuple[int, HookType]
HOOK_TYPES: tuple[HookType, ...] = get_args(HookType)


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
