"""What is drawn of an answer in SQL: what its types suggest, what somebody has chosen, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ui.answers import SqlAnswer, SqlColumn
from ui.charts.answer import chart
from ui.session import parse, unparse
from ui.state.answer_chart import MOST_LINES, Choice, asked, choice, options, picture


def answer(columns: dict[str, str], *rows: Sequence[Any], cut: str | None = None) -> SqlAnswer:
    found = tuple(SqlColumn(name=name, type=kind) for name, kind in columns.items())
    return SqlAnswer(columns=found, data=tuple(map(list, rows)), rows=len(rows), cut=cut)


STEPS = answer(
    {"training": "VARCHAR", "step": "UINTEGER", "loss": "FLOAT", "fvu": "FLOAT"},
    *(("a", 1, 0.9, 0.5), ("a", 2, 0.8, None), ("b", 1, 0.7, 0.4), ("b", 2, 0.6, 0.3)),
)


def test_types_and_values_say_what_is_drawn_to_begin_with() -> None:
    assert choice(STEPS) == Choice(mark="line", x="step", y=("loss",), series="training")
    named = answer({"name": "VARCHAR", "steps": "BIGINT", "fvu": "DOUBLE"}, ("one", 5, 0.5), ("two", 3, 0.4))
    assert choice(named) == Choice(mark="bars", x="name", y=("steps",))
    scattered = answer({"l0": "DECIMAL(9,2)", "fvu": "DOUBLE"}, (3, 0.2), (1, 0.5), (2, 0.3))
    assert choice(scattered) == Choice(mark="points", x="l0", y=("fvu",))
    timed = answer({"n": "BIGINT", "at": "TIMESTAMP"}, (1, "2026-01-02 03:04:05"), (2, "2026-01-02 03:04:06"))
    assert choice(timed) == Choice(mark="line", x="at", y=("n",))
    one = answer({"n": "HUGEINT"}, (1,), (4,))
    assert choice(one) == Choice(mark="line", x="", y=("n",))
    assert choice(answer({"a": "VARCHAR", "b": "INTEGER[]"}, ("x", [1]))) is None
    assert choice(answer({"n": "BIGINT"})) is None


def test_what_somebody_chose_is_in_the_link_and_is_drawn_where_the_answer_has_it() -> None:
    wanted = Choice(mark="points", x="step", y=("loss", "a,b & 100 %"), series="training")
    link = unparse({"page": "sql", "q": "SELECT 1", **wanted.route()})
    assert asked(parse(link)) == wanted
    assert choice(STEPS, wanted) == Choice(mark="points", x="step", y=("loss",), series="training")
    # A column that is not there any more: the answer decides again.
    assert choice(STEPS, Choice(mark="points", x="gone", y=("loss",))) == choice(STEPS)
    assert asked({"page": "sql"}) is None
    assert asked({"chart": "pie"}) is None


def test_lines_hold_the_numbers_and_everything_else_is_said() -> None:
    drawn = picture(STEPS, Choice(mark="line", x="step", y=("loss", "fvu"), series="training"))
    assert [(line.label, line.x, line.y) for line in drawn.lines] == [
        ("loss · a", [1, 2], [0.9, 0.8]),
        ("loss · b", [1, 2], [0.7, 0.6]),
        ("fvu · a", [1], [0.5]),
        ("fvu · b", [1, 2], [0.4, 0.3]),
    ]
    assert drawn.left_out == "1 value without a number left out."
    rows = [(f"run {index}", index, index * 10**400) for index in range(MOST_LINES + 6)]
    many = answer({"run": "VARCHAR", "n": "BIGINT", "huge": "HUGEINT"}, *rows, cut="Only the first rows are here.")
    drawn = picture(many, Choice(mark="points", x="n", y=("n", "huge"), series="run"))
    assert len(drawn.lines) == MOST_LINES
    assert drawn.left_out == (
        "Only the first 24 lines are drawn. 29 values without a number left out."
        " This is drawn from the first 30 rows; GROUP BY makes fewer of them."
    )
    bars = picture(many, Choice(mark="bars", x="n", y=("n",)))
    assert (bars.along, bars.factors[:2]) == ("name", ["0", "1"])


def test_times_are_where_they_belong_and_values_of_unknown_kinds_are_not_offered() -> None:
    timed = answer(
        {"at": "TIMESTAMP WITH TIME ZONE", "n": "BIGINT", "all": "STRUCT(a INTEGER)", "which": "ENUM('x', 'y')"},
        ("1970-01-01T00:00:01+00:00", 1, {"a": 1}, "x"), ("1970-01-01 00:00:02", 2, None, "y"), (None, 3, None, "x"),
    )  # fmt: skip
    drawn = picture(timed, Choice(x="at", y=("n",)))
    assert (drawn.along, drawn.lines[0].x) == ("time", [1000.0, 2000.0])
    assert options(timed.columns) == {"x": ["", "at", "n", "which"], "y": ["n"], "series": ["n", "which"]}


def test_every_mark_makes_a_figure_whose_tooltips_are_text() -> None:
    strange = answer({"<b>": "VARCHAR", "@x{": "BIGINT"}, ("<i>", 1), ("$", 2))
    for mark in ("line", "points", "bars"):
        found = picture(strange, Choice(mark=mark, x="<b>", y=("@x{",), series="<b>"))
        plot = chart(found)
        assert len(plot.renderers) == 2
        for tool in plot.hover:
            assert "<b>@x" in tool.tooltips
            assert "<i>" not in tool.tooltips
            assert "&lt;b&gt;" in tool.tooltips
            assert "@x{" not in tool.tooltips.replace("<b>@x</b>", "")
