"""What sets the coefficient of a sparsity penalty, step by step: a number, or the L0 that is wanted.

Of a batch's L0 an exponential mean l is kept, and e = clip(ln(l / L0*), -1, 1) says how far it is from the wanted L0*.
Everything that is remembered lies on the device and in the checkpoint; nothing is read from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Control(ABC):
    """Gives the coefficient of every step."""

    wanted_l0: float | None = None

    @abstractmethod
    def coefficient(self, l0: Tensor, valid: Tensor, step: int) -> Tensor:
        """The coefficient of step `step` (from 1), whose batch has `l0` active latents per token: a float64 scalar.

        Where `valid` is false, the batch says nothing and nothing is learnt from it.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors()` gave."""


class Fixed(Control):
    """One `coefficient`, reached linearly over the first `warmup` steps (Anthropic, Circuits Updates April 2024)."""

    def __init__(self, coefficient: float, warmup: int) -> None:
        self._coefficient = coefficient
        self._warmup = warmup

    def coefficient(self, l0: Tensor, valid: Tensor, step: int) -> Tensor:
        share = min(1.0, step / self._warmup) if self._warmup > 0 else 1.0
        return torch.full_like(l0, self._coefficient * share, dtype=torch.float64)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        pass  # it is a function of the step


class _Steered(Control):
    """Keeps the exponential mean of L0, of which each step leaves a share `memory`; it starts at what is wanted."""

    def __init__(self, wanted_l0: float, memory: float, device: torch.device) -> None:
        self.wanted_l0 = wanted_l0
        self._memory = memory
        self._l0 = torch.full((), wanted_l0, dtype=torch.float64, device=device)

    def _error(self, l0: Tensor, valid: Tensor) -> Tensor:
        mean = self._memory * self._l0 + (1 - self._memory) * l0.to(torch.float64)
        self._l0 = torch.where(valid, mean, self._l0)
        return (self._l0 / self.wanted_l0).log().clamp(-1.0, 1.0)

    def tensors(self) -> dict[str, Tensor]:
        return {"l0": self._l0}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self._l0 = tensors["l0"].to(self._l0.device)


class LogPI(_Steered):
    """Proportional and integral, in the logarithm of the coefficient: I += r e, coefficient = exp(I + 0.3 e).

    For penalties on the latents' size. It holds `start` until after step `begin`, the last of the learning rate's
    warm-up. Without the proportional term L0 swings: it answers steeply and late. `r` is 0.003 times `haste`, and four
    times that after step `late`, from which on the learning rate falls: L0 drifts off then, and a slow integral ends
    5 % beside what is wanted. That fast from the beginning it would overshoot, and latents die that find no way back.
    """

    INTEGRAL = 0.003
    LATE = 4.0
    PROPORTIONAL = 0.3

    def __init__(
        self, wanted_l0: float, *, start: float, begin: int, late: int, device: torch.device, haste: float = 1.0
    ) -> None:
        super().__init__(wanted_l0, 0.9, device)
        self._begin = begin
        self._late = late
        self._rate = self.INTEGRAL * haste
        self._integral = torch.full((), start, dtype=torch.float64, device=device).log()

    def coefficient(self, l0: Tensor, valid: Tensor, step: int) -> Tensor:
        error = self._error(l0, valid)
        if step <= self._begin:
            return self._integral.exp()
        rate = self._rate * (self.LATE if step > self._late else 1.0)
        self._integral = torch.where(valid, self._integral + rate * error, self._integral)
        return (self._integral + self.PROPORTIONAL * error).exp()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"integral": self._integral}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        super().restore(tensors)
        self._integral = tensors["integral"].to(self._integral.device)


class SignedP(_Steered):
    """Proportional and signed: coefficient = 5 e / L0*, below zero where the code is too sparse.

    For penalties that reach thresholds only: a threshold adds up its own gradient, so that an integral would overshoot
    and stick. L0 settles a few percent from the wanted one.
    """

    GAIN = 5.0

    def __init__(self, wanted_l0: float, device: torch.device) -> None:
        super().__init__(wanted_l0, 0.5, device)
        self._gain = self.GAIN / wanted_l0

    def coefficient(self, l0: Tensor, valid: Tensor, step: int) -> Tensor:
        return self._gain * self._error(l0, valid)
