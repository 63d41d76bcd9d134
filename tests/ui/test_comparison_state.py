"""Which runs are compared, in which colours, and what is said of them side by side."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from events.training import Sae, TrainingConfig
from ui.answers import Evaluation, MetricRow, Training
from ui.state import comparison
from ui.state.compare_asked import Asked
from ui.state.compare_columns import LineColumns
from ui.state.comparison import MEAN, Line, Point, Result
from ui.steps import AXES, Steps
from ui.theme import line_style

CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=100, batch_size=64, latent_dim=200, k=16)
SAES = (Sae(layer=1, hook="resid_post"), Sae(layer=2, hook="resid_post"))


def run(id: str, saes: tuple[Sae, ...] = SAES, **config: Any) -> Training:
    changed = msgspec.structs.replace(CONFIG, **config)
    return Training(id=id, name=f"run {id}", status="running", saes=saes, config=changed, step=50, total_steps=100)


def result(line: Line, training: Training, *made: Evaluation, **last: float) -> Result:
    return Result(line=line, run=training, last=last, evaluations=made)


def rows(results: list[Result]) -> dict[str, list[dict[str, Any]]]:
    return {row["name"]: row["cells"] for row in comparison.figures(results, now=0)}


def test_the_address_says_all_that_is_chosen_and_nothing_that_cannot_be() -> None:
    asked = Asked.of({"ids": "a,,b", "axis": "tokens", "log": "1", "sae": "L1.resid_post", "fields": "all"})
    assert asked == Asked(slots=("a", "", "b"), axis="tokens", log=True, sae="L1.resid_post", every_field=True)
    assert Asked.of(asked.route()) == asked
    chosen = Asked.of({"ids": "a,b", "smooth": "100", "sel": "run1,sae0"})
    assert chosen == Asked(slots=("a", "b"), smoothing=100, selected=("run1", "sae0"))
    assert Asked.of(chosen.route()) == chosen
    assert chosen.without("run1").selected == ("sae0",)
    wrong = Asked.of({"ids": "a,a, b ,,", "axis": "loss", "log": "yes", "smooth": "7"})
    assert wrong == Asked(slots=("a", "", "b"))
    assert len(Asked.of({"ids": ",".join(map(str, range(30)))}).slots) == comparison.MOST


def test_a_run_keeps_its_colour_when_another_one_is_taken_away_or_added() -> None:
    asked = Asked.of({"ids": "a,b,c"})

    def colours(asked: Asked) -> dict[str, str]:
        return {line.id: line.colour for line in comparison.lines({slot: run(id) for slot, id in asked.ids.items()})}

    before = colours(asked)
    without = asked.without("run1")
    assert colours(without) == {"a": before["a"], "c": before["c"]}
    assert colours(without.with_run("d")) == {"a": before["a"], "c": before["c"], "d": before["b"]}
    assert asked.without("run2").slots == ("a", "b")
    assert asked.with_run("a") == asked


def test_the_variants_of_one_run_are_compared_with_the_configurations_of_their_own() -> None:
    variants = ({"k": 8}, {"architecture_type": "standard", "l1_alpha": 0.1, "latent_dim": 400}, {"k": 8, "seed": 3})
    saes = tuple(Sae(layer=1, hook="resid_post", variant=number) for number in range(3))
    one = run("a", saes, variants=variants)
    lines = comparison.lines({0: one})
    assert [line.label for line in lines] == ["L1.resid_post #0", "L1.resid_post #1", "L1.resid_post #2"]
    configs = [comparison.config_of(line, one) for line in lines]
    assert [(each.k, each.l1_alpha, each.latent_dim, each.seed) for each in configs if each] == [
        (8, None, 200, 0),
        (None, 0.1, 400, 0),
        (8, None, 200, 3),
    ]
    differ = {row["name"]: [cell["text"] for cell in row["cells"]] for row in comparison.differences(configs)}
    assert set(differ) == {"k", "architecture_type", "l1_alpha", "latent_dim", "seed"}
    assert comparison.has_variants(one) and not comparison.has_variants(run("b"))
    # Without variants, and where a line stands for several SAEs, there is one configuration.
    assert comparison.config_of(comparison.lines({0: one, 1: run("b")})[0], one) is one.config


def test_what_does_not_apply_is_not_said_to_have_a_default_and_nothing_set_is_no_difference() -> None:
    steered = msgspec.structs.replace(CONFIG, architecture_type="jumprelu", k=None, variants=())
    cells = {row["name"]: [cell["text"] for cell in row["cells"]] for row in comparison.differences([CONFIG, steered])}
    assert cells == {"architecture_type": ["topk", "jumprelu"], "k": ["16", "–"]}


def test_smoothing_draws_averages_and_leaves_what_is_known() -> None:
    columns = {name: np.arange(1.0, 7.0) for name in (*AXES, *comparison.METRICS)}
    columns["loss"] = np.array([1.0, 5.0] * 3)
    smooth, plain = LineColumns(10), LineColumns()
    for held in (smooth, plain):
        held.put("run0", {name: values[:4] for name, values in columns.items()})
        held.add("run0", {name: values[4:] for name, values in columns.items()})
        assert held.last("run0")["loss"] == 5.0
    whole = LineColumns(10)
    whole.put("run0", columns)
    assert np.ptp(smooth.drawn["run0"]["loss"][2:]) < 2
    assert list(smooth.drawn["run0"]["step"]) == list(columns["step"])
    # Step by step or all at once: the same line.
    np.testing.assert_allclose(smooth.drawn["run0"]["loss"], whole.drawn["run0"]["loss"])
    np.testing.assert_array_equal(plain.drawn["run0"]["loss"], columns["loss"])


def test_ten_runs_have_ten_styles_and_an_eleventh_is_not_taken() -> None:
    asked = Asked()
    for number in range(11):
        asked = asked.with_run(f"r{number}")
    found = comparison.lines({slot: run(id) for slot, id in asked.ids.items()})
    assert len({(line.colour, line.dash) for line in found}) == len(found) == 10


def test_the_saes_of_one_run_are_compared_in_the_colours_of_its_own_page() -> None:
    found = comparison.lines({0: run("a")})
    assert [(line.label, line.sae, (line.colour, line.dash)) for line in found] == [
        ("L1.resid_post", 0, line_style(0)),
        ("L2.resid_post", 1, line_style(1)),
    ]
    assert comparison.choices_of_sae({0: run("a")}) == []


def test_of_several_runs_the_mean_or_one_sae_is_shown_and_who_lacks_it_shows_nothing() -> None:
    runs = {0: run("a"), 1: run("b", SAES[1:])}
    assert comparison.choices_of_sae(runs) == ["L2.resid_post", "L1.resid_post"]
    assert [line.sae for line in comparison.lines(runs, MEAN)] == [None, None]
    assert [line.sae for line in comparison.lines(runs, "L2.resid_post")] == [1, 0]
    assert [line.sae for line in comparison.lines(runs, "L1.resid_post")] == [0, -1]


def test_saes_of_a_run_stand_beside_other_runs_as_lines_of_their_own() -> None:
    runs = {"a": run("a"), "b": run("b")}

    def lines(asked: Asked) -> list[tuple[str, int | None, str]]:
        known = {slot: runs[id] for slot, id in asked.ids.items()}
        found = comparison.lines(known, asked.sae, asked.own)
        return [(line.label, line.sae, line.colour) for line in found]

    colours = [line_style(index)[0] for index in range(4)]
    asked = Asked.of({"ids": "a~1,b"})
    assert (asked.route()["ids"], asked.ids, asked.own) == ("a~1,b", {0: "a", 1: "b"}, {0: 1})
    assert lines(asked) == [("run a · L2.resid_post", 1, colours[0]), ("run b", None, colours[1])]
    each = asked.showing("run0", None).each("run0", 2)
    assert each.slots == ("a~0", "b", "a~1")
    assert lines(each) == [
        ("run a · L1.resid_post", 0, colours[0]),
        ("run b", None, colours[1]),
        ("run a · L2.resid_post", 1, colours[2]),
    ]
    # What is shown of all is shown of those that show nothing of their own.
    assert [sae for _, sae, _ in lines(msgspec.structs.replace(each, sae="L2.resid_post"))] == [0, 1, 1]
    assert each.without("run0").slots == ("", "b", "a~1")
    assert each.showing("run0", 1) == each and each.with_run("a") == each
    assert lines(Asked.of({"ids": "a~7"})) == [("run a · SAE 7", -1, colours[0])]
    assert Asked.of({"ids": "a~x,b~,a~01,~3,a~²"}).slots == ("a", "b", "a~1")
    full = Asked(slots=("a", *(f"r{number}" for number in range(9))))
    assert full.each("run0", 2).slots[0] == "a~0" and len(full.each("run0", 2).ids) == comparison.MOST

    def choices(slot: int, asked: Asked) -> list[tuple[str, bool, bool]]:
        taken = {sae for other, sae in asked.own.items() if asked.ids[other] == asked.ids[slot]}
        room = comparison.MOST - len(asked.ids)
        found = comparison.choices_of_line(runs[asked.ids[slot]], slot, sae=MEAN, own=asked.own, taken=taken, room=room)
        return [(one["label"], one["disabled"], one["chosen"]) for one in found]

    assert choices(1, each) == [
        ("mean of 2 SAEs", False, True),
        ("L1.resid_post", False, False),
        ("L2.resid_post", False, False),
        ("each on its own", False, False),
    ]
    # What cannot be chosen says why.
    assert choices(0, each)[1:] == [
        ("L1.resid_post", False, True),
        ("L2.resid_post (has a line already)", True, False),
        ("each on its own (they are)", True, False),
    ]
    many = Asked(slots=("a", *("b" if number == 1 else f"r{number}" for number in range(1, 10))))
    assert choices(0, many)[-1] == ("each on its own (needs 11 lines, at most 10)", True, False)
    # The last one takes the place of the mean.
    assert choices(0, Asked(slots=("a", "a~0")))[-1] == ("each on its own", False, False)
    # Points of an SAE's own line do not say twice which one it is.
    [own] = comparison.lines({0: runs["a"]}, MEAN, {0: 1})
    points = comparison.points([result(own, runs["a"])], {own.key: {0: (4.0, 0.5), 1: (8.0, 0.25)}})
    assert [(point.label, point.l0) for point in points] == [("run a · L2.resid_post", 8.0)]


def test_columns_are_the_mean_of_what_a_line_shows_and_dead_latents_a_share() -> None:
    history = [
        MetricRow(step=step, sae=sae, loss=float(sae), fvu=0.5, l0=2.0, dead_latents=10 + 20 * sae)
        for step in (1, 2)
        for sae in (0, 1)
    ]
    _, columns = Steps.of(history, saes=2)
    runs = {0: run("a"), 1: run("b")}
    mean, _ = comparison.lines(runs)
    second, _ = comparison.lines(runs, "L2.resid_post")
    assert comparison.columns(mean, columns, 2, 200)["loss"].tolist() == [0.5, 0.5]
    assert comparison.columns(mean, columns, 2, 200)["dead"].tolist() == [10.0, 10.0]
    assert comparison.columns(second, columns, 2, 200)["loss"].tolist() == [1.0, 1.0]
    nothing = Line(key="x", id="x", label="x", colour="", dash="", sae=-1)
    assert all(math.isnan(value) for value in comparison.columns(nothing, columns, 2, 200)["loss"])
    assert math.isnan(comparison.columns(mean, columns, 2, None)["dead"][0])


def test_only_fields_that_differ_are_listed_unless_every_one_is_wanted() -> None:
    configs = [run("a").config, run("b", k=32, learning_rate=0.001).config]
    listed = {row["name"]: [cell["text"] for cell in row["cells"]] for row in comparison.differences(configs)}
    assert listed["k"] == ["16", "32"]
    assert listed["learning_rate"][1] == "0.001"
    assert set(listed) == {"k", "learning_rate"}
    every = comparison.differences(configs, every=True)
    assert {row["name"] for row in every if row["differs"]} == set(listed)
    assert "model" in {row["name"] for row in every}
    assert comparison.differences([None, configs[0]]) == []


def test_the_best_of_a_figure_is_marked_where_one_is_better_than_another() -> None:
    first, second = comparison.lines({0: run("a"), 1: run("b")})
    made = Evaluation(step=50, loss_recovered=0.97, fvu=0.2, verdict="watch", reasons=("L0 is off.",))
    table = rows(
        [
            result(first, run("a"), made, fvu=0.3, l0=16.0, loss=0.5),
            result(second, run("b"), fvu=0.2, l0=32.0, loss=math.nan),
        ]
    )
    assert [(cell["text"], cell["best"]) for cell in table["fvu"]] == [("0.300", False), ("0.200", True)]
    # More active latents are neither better nor worse.
    assert not any(cell["best"] for cell in table["l0"])
    assert [cell["text"] for cell in table["loss"]] == ["0.500", "–"]
    assert table["verdict"][0] == {"text": "watch", "tone": "warn", "title": "L0 is off."}
    assert table["verdict"][1]["text"] == "–"
    assert table["loss_recovered"][0]["text"] == "97.0 %"
    assert "tokens" not in table


def test_a_point_is_what_was_evaluated_or_else_what_the_newest_step_says() -> None:
    first, second = comparison.lines({0: run("a"), 1: run("b")})
    results = [
        result(first, run("a"), Evaluation(step=50, sae=0, l0=16.0, fvu=0.2)),
        result(second, run("b")),
    ]
    steps = {first.key: {0: (99.0, 0.9), 1: (18.0, 0.25)}, second.key: {0: (32.0, 0.1), 1: (math.nan, 0.1)}}
    found = comparison.points(results, steps)
    assert [(one.label, one.l0, one.evaluated) for one in found] == [
        ("run a · L1.resid_post", 16.0, True),
        ("run a · L2.resid_post", 18.0, False),
        ("run b · L1.resid_post", 32.0, False),
    ]


@pytest.mark.parametrize(
    ("places", "best"),
    [
        ([(16, 0.2), (32, 0.1), (64, 0.15)], [(16, 0.2), (32, 0.1)]),
        ([(16, 0.2), (16, 0.1)], [(16, 0.1)]),
        ([(10, 0.5)], [(10, 0.5)]),
        ([], []),
    ],
)
def test_the_frontier_is_what_nothing_beats_in_both(places: Any, best: Any) -> None:
    line = comparison.lines({0: run("a"), 1: run("b")})[0]
    found = [Point(line=line, label="", l0=l0, fvu=fvu, evaluated=True) for l0, fvu in places]
    assert [(one.l0, one.fvu) for one in comparison.frontier(found)] == best
