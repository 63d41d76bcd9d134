import math

import pytest
import torch
from tiny_models import CONTEXT

from core.activations.hooks import capture
from core.activations.models import load_model
from core.activations.reading import ActivationReader
from core.activations.statistics import measure, statistics_tokens
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered

PAIRS = [(0, "mlp_out"), (1, "resid_post")]


@pytest.fixture(scope="module")
def lm(llama_folder):
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture(scope="module")
def rows(lm, jsonl_corpus, tmp_path_factory):
    entry = DatasetRegistered(dataset_id="prose", source=str(jsonl_corpus), format="jsonl")
    cache = tmp_path_factory.mktemp("tokens")
    return open_rows(lm, [entry], split="train", context_size=CONTEXT, cache=cache)


@pytest.mark.parametrize(
    ("total", "wanted"), [(1, 32_768), (1_200_000, 60_000), (10_000_000, 500_000), (10**9, 1_000_000)]
)
def test_five_percent_are_measured_within_limits(total, wanted):
    assert statistics_tokens(total) == wanted


def test_the_constants_are_those_of_the_tokens_computed_at_once(lm, rows, monkeypatch):
    monkeypatch.setattr("core.activations.statistics.statistics_tokens", lambda _: 5_000)
    found = measure(ActivationReader(lm, rows, PAIRS), total_tokens=1, sample=700)
    some = rows.rows(0, 5 * 128)
    kept = rows.kept(some)
    for pair in PAIRS:
        x = capture(lm, some, [pair])[pair][kept].double()
        statistics = found[pair]
        x = x[: statistics.tokens]
        assert 5_000 <= statistics.tokens == len(x)
        torch.testing.assert_close(statistics.mean.double(), x.mean(0), atol=1e-5, rtol=1e-5)
        assert statistics.mean_norm == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-5)
        assert statistics.variance == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()), rel=1e-5)
        assert statistics.scale * statistics.mean_norm == pytest.approx(math.sqrt(16))
        sigma = x.var(0, correction=0).sum().sqrt()
        assert statistics.mean_ratio == pytest.approx(float(x.mean(0).norm() / sigma), rel=1e-4)
        assert statistics.sample.shape == (700, 16)
        torch.testing.assert_close(statistics.sample, x[:700].float(), atol=1e-5, rtol=1e-5)
        assert not statistics.sample.is_inference()


def test_activations_that_are_not_finite_are_named(lm, rows, monkeypatch):
    monkeypatch.setattr("core.activations.statistics.statistics_tokens", lambda _: 100)
    weight = lm.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    before = weight[0, 0].item()
    weight[0, 0] = float("nan")
    try:
        with pytest.raises(ValueError, match="at layer 1, resid_post are not finite"):
            measure(ActivationReader(lm, rows, PAIRS), total_tokens=1)
    finally:
        weight[0, 0] = before
