"""Adam with clipping by group, decoupled decay and a guard against non-finite gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from core.training.optim import BETAS, EPSILON, Adam


def _parameters() -> dict[str, Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        "W": Parameter(torch.randn(5, 3, generator=generator)),
        "b": Parameter(torch.randn(5, generator=generator)),
        "theta": Parameter(torch.randn(5, generator=generator)),
    }


def _step(
    optimiser: Adam, parameters: dict[str, Parameter], factor: float = 1.0, rate: float = 0.01
) -> tuple[float, float]:
    loss = factor * sum(((index + 1) * parameter.square()).sum() for index, parameter in enumerate(parameters.values()))
    assert isinstance(loss, Tensor)
    loss.backward()
    update = optimiser.step(rate, loss.detach())
    return float(update.grad_norm), float(update.skipped)


def test_a_step_is_that_of_plain_adam_where_nothing_is_clipped() -> None:
    ours, theirs = _parameters(), _parameters()
    optimiser = Adam(ours.items())
    reference = torch.optim.Adam(theirs.values(), lr=0.01, betas=BETAS, eps=EPSILON)
    for _ in range(5):
        _step(optimiser, ours)
        reference.zero_grad()
        sum(((index + 1) * p.square()).sum() for index, p in enumerate(theirs.values())).backward()  # type: ignore[union-attr]
        reference.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name])


def test_the_norm_is_told_before_clipping_and_leaves_out_what_is_not_clipped() -> None:
    parameters = _parameters()
    gradient = [2 * parameters["W"].detach(), 4 * parameters["b"].detach()]
    expected = float(torch.cat([one.flatten() for one in gradient]).norm())
    norm, _ = _step(Adam(parameters.items(), clip=0.1, unclipped=["theta"]), parameters)
    assert norm == pytest.approx(expected, rel=1e-5)


def test_clipping_scales_the_moments_and_spares_theta() -> None:
    parameters = _parameters()
    whole = {name: (index + 1) * 2 * p.detach().clone() for index, (name, p) in enumerate(parameters.items())}
    optimiser = Adam(parameters.items(), clip=0.1, unclipped=["theta"])
    norm, _ = _step(optimiser, parameters)
    moments = optimiser.tensors()
    torch.testing.assert_close(moments["W.exp_avg"], 0.1 * whole["W"] * 0.1 / norm)
    torch.testing.assert_close(moments["b.exp_avg"], 0.1 * whole["b"] * 0.1 / norm)
    torch.testing.assert_close(moments["theta.exp_avg"], 0.1 * whole["theta"])


def test_decay_is_decoupled_and_for_matrices_only() -> None:
    parameters = _parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimiser = Adam(parameters.items(), weight_decay=0.5)
    sum(parameter.sum() * 0 for parameter in parameters.values()).backward()  # type: ignore[union-attr]
    optimiser.step(0.1, torch.tensor(0.0))
    torch.testing.assert_close(parameters["W"].detach(), before["W"] * (1 - 0.1 * 0.5))
    assert torch.equal(parameters["b"], before["b"])
    assert torch.equal(parameters["theta"], before["theta"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(bad: float) -> None:
    parameters = _parameters()
    optimiser = Adam(parameters.items(), clip=0.1, unclipped=["theta"], weight_decay=0.1)
    _step(optimiser, parameters)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    moments = {name: tensor.clone() for name, tensor in optimiser.tensors().items()}
    _, skipped = _step(optimiser, parameters, factor=bad)
    assert skipped == 1.0
    assert all(torch.equal(parameters[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(optimiser.tensors()[name], tensor) for name, tensor in moments.items())
    _, skipped = _step(optimiser, parameters)
    assert skipped == 0.0
    assert not torch.equal(parameters["W"], before["W"])


def test_a_non_finite_threshold_gradient_alone_skips_the_step_too() -> None:
    parameters = _parameters()
    optimiser = Adam(parameters.items(), unclipped=["theta"])
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    assert parameters["theta"].grad is not None
    parameters["theta"].grad[2] = float("nan")
    before = parameters["W"].detach().clone()
    assert float(optimiser.step(0.1, torch.tensor(1.0)).skipped) == 1.0
    assert torch.equal(parameters["W"], before)


def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened() -> None:
    straight, resumed = _parameters(), _parameters()
    first = Adam(straight.items(), unclipped=["theta"])
    for _ in range(3):
        _step(first, straight)
    with torch.no_grad():
        for name, parameter in resumed.items():
            parameter.copy_(straight[name])
    second = Adam(resumed.items(), unclipped=["theta"])
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for _ in range(3):
        _step(first, straight)
        _step(second, resumed)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_moments_that_do_not_fit_are_refused_by_name() -> None:
    parameters = _parameters()
    optimiser = Adam(parameters.items())
    _step(optimiser, parameters)
    tensors = optimiser.tensors()
    with pytest.raises(ValueError, match=r"W\.exp_avg_sq"):
        optimiser.restore({name: tensor for name, tensor in tensors.items() if name != "W.exp_avg_sq"})
    with pytest.raises(ValueError, match="moments of W"):
        optimiser.restore({**tensors, "W.exp_avg": torch.zeros(2, 2)})
