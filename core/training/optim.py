"""Adam on float32 weights, with clipping and a guard against non-finite gradients that never wait for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

BETAS = (0.9, 0.999)
EPSILON = 6.25e-10
"""In units of FVU the gradients of rare latents are tiny; a larger epsilon would swallow them
(openai/sparse_autoencoder)."""


class Update(NamedTuple):
    """What a step did, as scalars on the device: the gradient's norm before clipping, and 1 where it was skipped."""

    grad_norm: Tensor
    skipped: Tensor


class Adam:
    """Adam (betas 0.9, 0.999) with decoupled weight decay on the matrices.

    The global norm of the gradient is cut to `clip` (0 turns it off); parameters named in `unclipped` neither count in
    it nor are cut. `rates` says by how much the learning rate of some is larger than that of the others. A step with a
    non-finite gradient changes nothing, moments included.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        *,
        weight_decay: float = 0.0,
        clip: float = 0.0,
        unclipped: Iterable[str] = (),
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self._named = dict(parameters)
        self.rates = dict(rates or {})
        self._clip = clip
        apart = set(unclipped)
        self._clipped = [parameter for name, parameter in self._named.items() if name not in apart]
        self._apart = [parameter for name, parameter in self._named.items() if name in apart]
        # `grad_scale` and `found_inf`, by which a step is scaled or skipped on the device, belong to an optimiser as a
        # whole: what is not clipped needs one of its own.
        factors = {self._named[name]: factor for name, factor in self.rates.items()}
        self._optimisers = [
            _fused(parameters, weight_decay, factors) for parameters in (self._clipped, self._apart) if parameters
        ]

    @torch.no_grad()
    def step(self, learning_rate: float, loss: Tensor) -> Update:
        """Update from the gradients that `loss` left, and drop them."""
        norm = get_total_norm([gradient for gradient in (p.grad for p in self._clipped) if gradient is not None])
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        for gradient in (p.grad for p in self._apart):
            if gradient is not None:
                finite = finite & torch.isfinite(gradient.sum())
        skipped = (~finite).to(torch.float32)
        # Gradients are divided by the scale inside the fused kernel: clipping costs no pass over them.
        scale = (norm / self._clip).clamp_min(1.0).to(torch.float32) if self._clip > 0 else None
        for optimiser, gradient_scale in zip(self._optimisers, (scale, None), strict=False):
            optimiser.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
            optimiser.grad_scale = gradient_scale  # pyright: ignore[reportAttributeAccessIssue]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * group["rate"]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return Update(norm, skipped)

    def drop_gradients(self) -> None:
        """Forget the gradients that there are."""
        for parameter in self._named.values():
            parameter.grad = None

    def forget(self, names: Iterable[str], rows: Tensor) -> None:
        """Set the moments of these rows of the parameters called `names` to 0."""
        for name in names:
            for optimiser in self._optimisers:
                state = optimiser.state.get(self._named[name])
                if state:
                    state["exp_avg"][rows] = 0
                    state["exp_avg_sq"][rows] = 0

    def tensors(self) -> dict[str, Tensor]:
        """Steps and moments by name, for a checkpoint; empty before the first step."""
        states = {parameter: state for each in self._optimisers for parameter, state in each.state.items()}
        return {
            f"{name}.{key}": tensor
            for name, parameter in self._named.items()
            for key, tensor in states.get(parameter, {}).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors()` gave. Raises ValueError where something is missing, unknown or misshapen."""
        expected = {f"{name}.{key}" for name in self._named for key in ("step", "exp_avg", "exp_avg_sq")}
        if set(tensors) != expected:
            raise ValueError(
                f"The checkpoint's optimiser does not fit: missing {sorted(expected - set(tensors))}, unknown"
                f" {sorted(set(tensors) - expected)}."
            )
        for optimiser in self._optimisers:
            held = {parameter for group in optimiser.param_groups for parameter in group["params"]}
            for name, parameter in self._named.items():
                if parameter not in held:
                    continue
                state = {key: tensors[f"{name}.{key}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
                if any(moment.shape != parameter.shape for moment in state.values()):
                    raise ValueError(f"The checkpoint's moments of {name} have another shape than the parameter.")
                optimiser.state[parameter] = {"step": tensors[f"{name}.step"].to(parameter.device), **state}


def _fused(parameters: list[Parameter], weight_decay: float, rates: Mapping[Parameter, float]) -> torch.optim.AdamW:
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for parameter in parameters:
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((decay, rates.get(parameter, 1.0)), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "rate": rate} for (decay, rate), members in groups.items()],
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )
