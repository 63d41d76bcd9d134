"""Controllers bring L0 to the wanted one and forget nothing over a checkpoint."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.sae.control import Control, Fixed, LogPI, SignedP

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)


def _l0(value: float) -> Tensor:
    return torch.tensor(value)


def _settled(start: float, slope: float, unit: float = 1.0, steps: int = 4000) -> float:
    """L0 after `steps` of a code that answers late: L0 goes to 10 · (unit · lam)^slope, 2 % a step."""
    control, log_l0 = LogPI(10.0, start=start / unit, begin=50, late=steps, device=CPU), math.log(40)
    for step in range(1, steps + 1):
        lam = unit * float(control.coefficient(_l0(math.exp(log_l0)), YES, step))
        log_l0 += (math.log(10) + slope * math.log(lam) - log_l0) / 50
    return math.exp(log_l0)


@pytest.mark.parametrize("slope", [-1.0, -3.0, -5.0])
@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_a_start_ten_times_off_either_way_ends_at_the_wanted_l0(start: float, slope: float) -> None:
    assert _settled(start, slope) == pytest.approx(10.0, rel=0.03)


def test_the_unit_of_the_coefficient_does_not_matter() -> None:
    assert _settled(1.0, -2.0, unit=1000.0, steps=300) == pytest.approx(_settled(1.0, -2.0, steps=300), rel=1e-9)


def test_the_coefficient_follows_its_formula_after_the_warm_up_of_the_learning_rate() -> None:
    control = LogPI(10.0, start=0.5, begin=2, late=4, device=CPU, haste=2.0)
    mean, integral = 10.0, math.log(0.5)
    for step, l0 in enumerate([20.0, 30.0, 12.0, 900.0, 0.0], start=1):
        found = float(control.coefficient(_l0(l0), YES, step))
        mean = 0.9 * mean + 0.1 * l0
        error = max(-1.0, min(1.0, math.log(mean / 10)))
        if step <= 2:
            assert found == pytest.approx(0.5)
            continue
        integral += (0.006 if step <= 4 else 0.024) * error
        assert found == pytest.approx(math.exp(integral + 0.3 * error), rel=1e-6)


def test_the_signed_coefficient_lowers_thresholds_where_the_code_is_too_sparse() -> None:
    control = SignedP(10.0, CPU)
    assert float(control.coefficient(_l0(10.0), YES, 1)) == pytest.approx(0.0, abs=1e-12)
    assert float(control.coefficient(_l0(30.0), YES, 2)) == pytest.approx(0.5 * math.log(2.0), rel=1e-6)
    assert float(control.coefficient(_l0(1e9), YES, 3)) == pytest.approx(0.5)
    for step in range(4, 200):
        last = float(control.coefficient(_l0(0.0), YES, step))
    assert last == pytest.approx(-0.5)


def test_a_fixed_coefficient_rises_linearly_and_stays() -> None:
    control = Fixed(0.8, 4)
    assert [float(control.coefficient(_l0(3.0), YES, step)) for step in (1, 2, 4, 5, 99)] == pytest.approx(
        [0.2, 0.4, 0.8, 0.8, 0.8]
    )
    assert float(Fixed(0.8, 0).coefficient(_l0(3.0), YES, 1)) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", ["log-pi", "signed"])
def test_a_bad_batch_teaches_nothing_and_a_checkpoint_forgets_nothing(kind: str) -> None:
    def new() -> Control:
        return LogPI(10.0, start=0.5, begin=0, late=10, device=CPU) if kind == "log-pi" else SignedP(10.0, CPU)

    control, other = new(), new()
    for step in range(1, 6):
        control.coefficient(_l0(25.0), YES, step)
    before = {name: float(tensor) for name, tensor in control.tensors().items()}
    control.coefficient(_l0(math.nan), NO, 6)
    control.coefficient(_l0(0.0), NO, 7)
    assert {name: float(tensor) for name, tensor in control.tensors().items()} == before
    other.restore({name: tensor.clone() for name, tensor in control.tensors().items()})
    assert float(other.coefficient(_l0(7.0), YES, 8)) == float(control.coefficient(_l0(7.0), YES, 8))
    assert float(new().coefficient(_l0(7.0), YES, 8)) != float(other.coefficient(_l0(7.0), YES, 8))
