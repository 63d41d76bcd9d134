"""Charts of several runs: what is sent to whom, and that names are never anything but text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.document.events import ColumnsStreamedEvent, DocumentChangedEvent
from bokeh.io.doc import patch_curdoc
from bokeh.models import HoverTool

from ui.charts.analysis import Densities, Frontier
from ui.charts.compare import CompareCharts
from ui.state.comparison import METRICS, Line, Point
from ui.steps import AXES
from ui.theme import line_style

LINES = [
    Line(key=f"run{slot}", id=str(slot), label=f"<img src=x>@{{loss}} {slot}", colour=line_style(slot)[0], dash="solid")
    for slot in range(3)
]


def data(rows: int) -> dict[str, dict[str, Any]]:
    return {line.key: {name: np.arange(1.0, rows + 1) for name in (*AXES, *METRICS)} for line in LINES}


def test_a_chart_that_is_not_updated_gets_nothing_and_one_that_is_gets_what_it_lacks() -> None:
    charts = CompareCharts(LINES, data(5), axis="step", log=False)
    document = Document()
    for figure in charts.figures.values():
        document.add_root(figure)
    events: list[DocumentChangedEvent] = []
    document.on_change(events.append)
    charts.update("loss", data(8))
    streamed = [event for event in events if isinstance(event, ColumnsStreamedEvent)]
    assert len(events) == len(streamed) == len(LINES)
    assert {event.model.name for event in streamed} == {f"loss-{line.key}" for line in LINES}
    assert all(event.data["step"] == [6.0, 7.0, 8.0] for event in streamed)
    charts.update("loss", data(8))
    assert len(events) == len(LINES)
    charts.update("fvu", data(9))
    assert events[-1].data["step"] == [6.0, 7.0, 8.0, 9.0]  # type: ignore[attr-defined]


def test_what_never_changes_is_drawn_in_a_range_around_it_and_every_zoom_can_be_left() -> None:
    held = data(5)
    for columns in held.values():
        columns["sparsity_coefficient"] = np.full(5, 6e-4)
    charts = CompareCharts(LINES, held, axis="step", log=False)
    values = charts.figures["sparsity_coefficient"].y_range
    assert values.default_span == pytest.approx(0.1 * 6e-4, rel=1e-3)
    before = values.default_span
    charts.fit(held)
    assert values.default_span == pytest.approx(before, rel=1e-3)
    assert values.default_span != before
    along = charts.figures["loss"].x_range
    for _ in range(3):
        span = along.default_span
        charts.fit(held)
        assert along.default_span == span
        charts.fit(held, whole=True)
        assert along.default_span != span


def test_a_line_with_another_history_is_drawn_from_its_beginning() -> None:
    charts = CompareCharts(LINES, data(5), axis="step", log=False)
    charts.update("loss", data(7), anew={"run1"})
    sources = [renderer.data_source for renderer in charts.figures["loss"].renderers]
    assert [len(source.data["step"]) for source in sources] == [7, 7, 7]
    charts.update("loss", data(3))
    assert [len(source.data["step"]) for source in sources] == [3, 3, 3]


def test_a_run_has_its_colour_in_every_view_and_the_selected_ones_stand_out_everywhere() -> None:
    charts = CompareCharts(LINES, data(5), axis="tokens", log=True)
    for figure in charts.figures.values():
        assert [line.glyph.line_color for line in figure.renderers] == [line.colour for line in LINES]
    points = [
        Point(line=line, label=line.label, l0=8.0 * 4**n, fvu=0.1, evaluated=True) for n, line in enumerate(LINES)
    ]
    chosen: list[list[str]] = []
    frontier = Frontier(points, chosen.append)
    assert list(frontier.source.data["colour"]) == [line.colour for line in LINES]
    densities = Densities(LINES, {line.key: [1, 2, 3] for line in LINES[1:]})
    assert [line.glyph.line_color for line in densities.figure.renderers] == [line.colour for line in LINES[1:]]
    for view in (charts, frontier, densities):
        view.emphasise(["run1"])
    assert [line.glyph.line_alpha == 1.0 for line in charts.figures["loss"].renderers] == [False, True, False]
    assert [line.glyph.line_alpha == 1.0 for line in densities.figure.renderers] == [True, False]
    assert frontier.source.selected.indices == [1]
    frontier.source.selected.indices = [0, 2]
    assert chosen[-1] == ["run0", "run2"]


def test_only_what_a_person_selects_in_the_frontier_counts_as_chosen() -> None:
    points = [Point(line=line, label=line.label, l0=8.0, fvu=0.1, evaluated=True) for line in LINES[:2]]
    chosen: list[list[str]] = []
    frontier = Frontier(points, chosen.append)
    document = Document()
    document.add_root(frontier.figure)
    frontier.emphasise(["run1"])
    document.hold("collect")
    # This one has no point: the selection is empty, and that is not what somebody wants to be chosen.
    frontier.emphasise(["run2"])
    document.unhold()
    assert not chosen
    frontier.source.selected.indices = [0]
    assert chosen == [["run0"]]
    frontier.emphasise(["run0"])
    frontier.source.selected.indices = []
    assert chosen == [["run0"], []]


def test_a_frontier_moves_its_points_without_being_drawn_anew() -> None:
    points = [Point(line=LINES[0], label="a", l0=16, fvu=0.5, evaluated=False)]
    frontier = Frontier(points, lambda keys: None)
    frontier.update([Point(line=LINES[0], label="a", l0=16, fvu=0.25, evaluated=False)])
    assert list(frontier.source.data["fvu"]) == [0.25]
    assert "hollow" in frontier.figure.title.text


def test_names_are_text_in_what_is_read_on_hovering() -> None:
    charts = CompareCharts(LINES, data(5), axis="step", log=False)
    read = [tool.tooltips for tool in charts.figures["loss"].tools if isinstance(tool, HoverTool)]
    assert len(read) == len(LINES)
    for tooltip in read:
        assert isinstance(tooltip, str)
        assert "<img" not in tooltip
        assert "@{loss}" not in tooltip
        assert tooltip.count("@loss") == 1


def test_holoviews_leaves_the_documents_theme_alone() -> None:
    document = Document()
    theme = document.theme
    with patch_curdoc(document):
        Densities(LINES, {"run0": [1, 2]})
    assert document.theme is theme
