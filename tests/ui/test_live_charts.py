"""Which charts a training has, what a browser may choose, and that a tick costs one message."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.document.events import ColumnsStreamedEvent, DocumentChangedEvent
from bokeh.models import HoverTool, LogScale, Span

from events.training import TrainingConfig
from ui.answers import MetricRow, Training
from ui.charts.live import Choices, LiveCharts, charts_of, expected_charts
from ui.steps import Columns, Steps


def columns_of(*steps: int, saes: int = 2, **values: float) -> Columns:
    always: dict[str, float] = dict.fromkeys(("loss", "l0", "fvu", "learning_rate", "grad_norm"), 0.5)
    rows = [
        MetricRow(step=step, sae=sae, timestamp=step * 1_000_000, tokens=step, **{**always, **values})
        for step in steps
        for sae in range(saes)
    ]
    return Steps.of(rows, saes=saes)[1]


def titles(columns: Columns) -> list[str]:
    return [chart.title for chart in charts_of(columns, 2)]


def test_a_chart_is_drawn_where_it_has_something_to_show() -> None:
    plain = titles(columns_of(1, 2, dead_latents=0))
    assert plain == ["Loss", "L0", "FVU", "Dead latents", "Learning rate", "Gradient norm", "Tokens/s"]
    assert "Device memory, bytes" in titles(columns_of(1, device_memory=2e9))
    assert "Sparsity coefficient" in titles(columns_of(1, sparsity_coefficient=1e-4))
    parts = [title for title in titles(columns_of(1, loss_reconstruction=0.4, loss_auxiliary=0.1)) if "," in title]
    assert parts == ["Loss, reconstruction", "Loss, auxiliary"]
    assert not any("," in title for title in titles(columns_of(1, loss_reconstruction=0.5, loss_auxiliary=0)))


@pytest.mark.parametrize(
    ("said", "choices"),
    [
        ({"axis": "time", "log": True, "smoothing": 100}, Choices(axis="time", log=True, smoothing=100)),
        ({"axis": "constructor", "log": "yes", "smoothing": 17}, Choices()),
        ({"axis": ["step"], "log": None, "smoothing": "100", "other": 1}, Choices()),
        ({}, Choices()),
    ],
)
def test_a_browser_can_choose_what_there_is_and_nothing_else(said: dict[str, Any], choices: Choices) -> None:
    assert Choices.of(said) == choices


def test_a_log_scale_is_taken_where_a_value_can_be_shown_on_it() -> None:
    columns = columns_of(1, 2, dead_latents=0, tokens_per_second=math.nan)
    charts = LiveCharts(["a", "b"], columns, Choices(log=True))
    scales = {
        chart.metric: isinstance(plot.y_scale, LogScale)
        for chart, plot in zip(charts.charts, charts.figures, strict=True)
    }
    assert scales["loss"]
    assert scales["l0"]
    assert not scales["dead_latents"]
    assert not scales["tokens_per_second"]
    charts.choose(Choices(), columns)
    assert not any(isinstance(plot.y_scale, LogScale) for plot in charts.figures)


@pytest.mark.parametrize("choices", [Choices(), Choices(axis="time", log=True, smoothing=100)])
def test_new_steps_travel_in_one_message_whatever_was_chosen(choices: Choices) -> None:
    charts = LiveCharts(["a", "b"], columns_of(1, 2), choices)
    document = Document()
    for plot in charts.figures:
        document.add_root(plot)
    sent: list[DocumentChangedEvent] = []
    document.on_change(lambda event: sent.append(event))
    charts.stream(columns_of(3))
    assert [type(event) for event in sent] == [ColumnsStreamedEvent]
    data: Any = charts.source.data
    assert {len(data[name]) for name in data} == {3}


def test_every_chart_is_read_at_the_pointer_and_l0_has_its_target() -> None:
    charts = LiveCharts(["L1.<b>", "b"], columns_of(1, 2), Choices(), target_l0=16.0)
    for chart, plot in zip(charts.charts, charts.figures, strict=True):
        (hover,) = plot.select(type=HoverTool)
        assert hover.mode == "vline"
        for column in chart.columns(2):
            assert f"@{{{column}}}{{{chart.values}}}" in hover.tooltips
        assert ("L1.&lt;b&gt;" in hover.tooltips) == chart.per_sae
        targets = [line.location for line in plot.select(type=Span)]
        assert targets == ([16.0] if chart.metric == "l0" else [])
    first = charts.figures[0].select(type=HoverTool)[0]
    charts.show_line(0, visible=False)
    assert [line.glyph.y for line in first.renderers] == ["loss_1"]


@pytest.mark.parametrize("saes", [1, 2])
def test_what_never_changes_is_drawn_in_a_range_around_it(saes: int) -> None:
    columns = columns_of(1, 2, 3, saes=saes, sparsity_coefficient=6e-4)
    charts = LiveCharts([str(sae) for sae in range(saes)], columns, Choices())
    (plot,) = [plot for plot in charts.figures if plot.name == "chart-sparsity_coefficient"]
    spans = [plot.y_range.default_span]
    charts.replace(columns)
    spans.append(plot.y_range.default_span)
    # Bokeh puts it half above the value and half below. Another length makes it fit the range anew.
    assert spans == pytest.approx([0.1 * 6e-4] * 2, rel=1e-3)
    assert spans[0] != spans[1]
    charts.choose(Choices(log=True), columns)
    assert plot.y_range.default_span == pytest.approx(2, rel=1e-3)


def test_every_way_back_from_a_zoom_fits_the_axis_anew() -> None:
    columns = columns_of(1, 2)
    charts = LiveCharts(["a", "b"], columns, Choices())
    along = charts.figures[0].x_range
    for _ in range(3):
        before = along.default_span
        charts.replace(columns)
        assert along.default_span == before
        charts.replace(columns, whole=True)
        assert along.default_span != before


def test_nothing_that_the_browser_makes_of_the_charts_comes_back() -> None:
    charts = LiveCharts(["a", "b"], columns_of(1, 2), Choices())
    charts.choose(Choices(axis="tokens", log=True, smoothing=10), columns_of(1, 2))
    models = [model for plot in charts.figures for model in plot.references()]
    assert len(models) > 100
    assert not any(model.syncable for model in models)


def test_a_smoothed_line_leaves_the_measured_one_as_it_is() -> None:
    rows = [MetricRow(step=step, loss=float(step % 2), tokens=step) for step in range(1, 101)]
    columns = Steps.of(rows)[1]
    charts = LiveCharts(["a"], columns, Choices(smoothing=30))
    assert list(charts.source.data["loss_0"]) == columns["loss_0"]
    smooth = list(charts.source.data["loss_0~"])
    assert smooth[-1] == pytest.approx(0.5, abs=0.02)
    assert max(smooth[50:]) < 0.6


def test_the_place_kept_free_is_that_of_the_charts_that_will_come() -> None:
    config = TrainingConfig(model="demo", architecture_type="topk")
    topk = Training(id="a", name="a", status="running", config=config, device="cpu")
    assert expected_charts(topk) == len(charts_of(columns_of(1), 2))
    config = TrainingConfig(model="demo", architecture_type="jumprelu")
    jumprelu = Training(id="a", name="a", status="running", config=config, device="cuda:0")
    coming = columns_of(1, loss_sparsity=0.1, sparsity_coefficient=0.1, device_memory=1)
    assert expected_charts(jumprelu) == len(charts_of(coming, 2))
