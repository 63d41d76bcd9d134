"""Activations are scaled by numbers fixed beforehand, or token by token, and always back again."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from core.sae.normalisation import Mode, Normalisation, normalisation


def _raw(factor: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return factor * (torch.randn(4096, 24, generator=generator) * torch.linspace(0.5, 3, 24) + 2)


def _of(mode: Mode, raw: Tensor) -> tuple[Normalisation, Tensor]:
    mean = raw.mean(dim=0)
    return normalisation(
        mode,
        mean=mean,
        mean_norm=float(raw.norm(dim=1).mean()),
        variance=float((raw - mean).square().sum(dim=1).mean()),
        sample=raw,
    )


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_mode_leads_back_to_raw_units(mode: Mode) -> None:
    raw = _raw()
    x, scale = _of(mode, raw)[0].apply(raw)
    torch.testing.assert_close(scale.invert(x), raw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_variance_and_mean_are_those_of_what_comes_out(mode: Mode) -> None:
    raw = _raw()
    scale, centre = _of(mode, raw)
    x, _ = scale.apply(raw)
    torch.testing.assert_close(centre, x.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert float((x - x.mean(dim=0)).square().sum(dim=1).mean()) == pytest.approx(scale.variance, rel=1e-4)
    assert float(x.mean(dim=0).norm()) / scale.variance**0.5 == pytest.approx(scale.mean_ratio, rel=1e-4)


def test_the_default_brings_the_mean_norm_to_the_square_root_of_the_width() -> None:
    raw = _raw(37.0)
    x, _ = _of("expected_average_only_in", raw)[0].apply(raw)
    assert float(x.norm(dim=1).mean()) == pytest.approx(24**0.5, rel=1e-5)


def test_layer_norm_uses_the_unbiased_deviation() -> None:
    raw = _raw()[:8]
    x, _ = Normalisation("layer_norm", 1.0, 1.0, 0.0).apply(raw)
    torch.testing.assert_close(x.std(dim=1, correction=1), torch.ones(8), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.mean(dim=1), torch.zeros(8), rtol=0, atol=1e-5)


def test_a_token_of_zeros_stays_finite_in_every_mode() -> None:
    raw = torch.zeros(1, 24)
    for mode in get_args(Mode):
        x, scale = _of(mode, _raw())[0].apply(raw)
        assert torch.isfinite(x).all()
        assert torch.isfinite(scale.invert(x)).all()


def test_constant_activations_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        normalisation("none", mean=torch.ones(3), mean_norm=1.7, variance=0.0, sample=torch.ones(4, 3))
