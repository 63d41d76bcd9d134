"""Runs in one file: that it holds what it should, asks for nothing, and that nothing in it is markup."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import httpx
import msgspec
import pytest

from events.training import Sae, TrainingConfig
from ui import report
from ui.answers import Evaluation, History, LogLine, MetricRow, Training
from ui.downloads import outcome
from ui.export import EXITS, LIMIT, ExportRefused, exported
from ui.gateway import Gateway
from ui.report import Exported
from ui.state.compare_asked import Asked
from ui.theme import line_style

EVIL = "</script><img src=x onerror=alert(1)><!--<script>"
CONFIG = TrainingConfig(
    model=EVIL, datasets=("stdlib",), total_steps=400, batch_size=64, latent_dim=200, k=16, training_layers=(1,)
)


def rows(steps: int, saes: int = 1, spike: float | None = None) -> list[MetricRow]:
    return [
        MetricRow(
            step=step, sae=sae, timestamp=step, tokens=step * 64, loss=spike if spike and step == 7 else 0.5, fvu=0.25,
            l0=16.0, dead_latents=2, learning_rate=1e-4, grad_norm=0.1, tokens_per_second=100.0,
        )
        for step in range(1, steps + 1)
        for sae in range(saes)
    ]  # fmt: skip


def run(number: int = 0, *, steps: int = 50, saes: int = 1, spike: float | None = None) -> Exported:
    training = Training(
        id=f"r{number}", name=f"{EVIL} {number}", status="completed", step=steps, total_steps=400,
        started_at=1, ended_at=2, config=msgspec.structs.replace(CONFIG, k=16 + number),
        saes=(Sae(layer=1, hook="resid_post"),) * saes,
    )  # fmt: skip
    made = Evaluation(
        step=steps, fvu=0.2, l0=16.0, loss_recovered=0.97, verdict="watch", reasons=(EVIL,),
        density_histogram=(0,) * 30 + (9,) * 30 + (3,),
    )  # fmt: skip
    line = LogLine(version=1, timestamp=1, level="ERROR", logger=EVIL, message=EVIL + "\u2028 end of the log")
    return Exported(
        training=training, history=History(data=rows(steps, saes, spike), position=9), evaluations=[made], lines=[line],
        position=1_234,
    )  # fmt: skip


class Page(HTMLParser):
    """What a browser finds in a file: elements with their attributes, and the texts of its blocks of JSON."""

    def __init__(self, file: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.json: dict[str, Any] = {}
        self._block = ""
        self.feed(file.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._block = dict(attrs).get("id") or "" if dict(attrs).get("type") == "application/json" else ""

    def handle_data(self, data: str) -> None:
        if self._block and data.strip():
            self.json[self._block] = json.loads(data)
            self._block = ""

    def part(self, component: str) -> list[Any]:
        return [part for part in self.json["shown"]["shown"] if part["component"] == component]


def test_a_run_is_whole_in_its_file_and_its_spikes_are_in_the_charts() -> None:
    page = Page(report.render([run(spike=123.5)], now=0))
    (card,) = page.part("card")
    assert card["view"]["name"] == f"{EVIL} 0"
    assert card["view"]["verdict"]["label"] == "watch"
    assert (card["view"]["actions"], card["view"]["links"]) == ([], [])
    assert page.part("evaluation")[0]["view"]["saes"][0]["reasons"] == [EVIL]
    fields = [field for group in page.part("section")[0]["view"]["groups"] for field in group["fields"]]
    assert {"name": "model", "value": EVIL}.items() <= next(one for one in fields if one["name"] == "model").items()
    assert page.part("log")[0]["view"]["lines"][0][3].endswith("end of the log")
    assert "1,234" in page.json["shown"]["about"]
    figures = page.part("figures")[0]["figures"]
    assert len(figures) == len(set(figures)) == 7
    assert set(figures) == set(page.json["charts"]["items"][0]["roots"].values())
    # Columns are packed doubles.
    columns = [gzip.decompress(base64.b64decode(one)) for one in re.findall(r'"(H4sI[^"]+)"', json.dumps(page.json))]
    assert any(struct.pack("<d", 123.5) in column for column in columns)


def test_several_runs_are_compared_with_their_differences_and_every_log() -> None:
    page = Page(report.render([run(number) for number in range(3)], now=0))
    figures, fields = (part["view"] for part in page.part("table"))
    assert [head["label"] for head in figures["heads"]] == [f"{EVIL} {number}" for number in range(3)]
    assert [row["name"] for row in fields["rows"]] == ["k"]
    assert len(page.part("log")) == 3
    assert [line["colour"] for line in page.part("legend")[0]["view"]["lines"]] == [
        head["colour"] for head in figures["heads"]
    ]


def test_saes_of_a_run_are_lines_of_their_own_in_the_colours_of_the_page() -> None:
    asked = Asked.of({"ids": "r0~0,,r1,r0~1"})
    page = Page(report.render([run(0, saes=2), run(1)], asked, now=0))
    [legend] = page.part("legend")
    assert legend["view"]["title"] == "2 runs compared"
    assert [(line["label"], line["colour"]) for line in legend["view"]["lines"]] == [
        (f"{EVIL} 0 · L1.resid_post", line_style(0)[0]),
        (f"{EVIL} 1", line_style(2)[0]),
        (f"{EVIL} 0 · L1.resid_post", line_style(3)[0]),
    ]
    assert len(page.part("log")) == 2


def test_an_sae_alone_is_not_its_whole_run() -> None:
    both = run(0, saes=2)
    variants = ({"k": 8}, {"k": 32})
    saes = tuple(Sae(layer=1, hook="resid_post", variant=number) for number in range(2))
    config = msgspec.structs.replace(CONFIG, variants=variants)
    training = msgspec.structs.replace(both.training, name="wide", saes=saes, config=config)
    page = Page(report.render([replace(both, training=training)], Asked.of({"ids": "r0~1"}), now=0))
    assert [part["component"] for part in page.json["shown"]["shown"]][-2:] == ["section", "log"]
    [legend] = page.part("legend")
    label = "wide · L1.resid_post #1"
    assert [line["label"] for line in legend["view"]["lines"]] == [label]
    assert (page.json["shown"]["title"], legend["view"]["title"]) == (label, label)
    [figures] = page.part("table")
    cells = {row["name"]: [cell["text"] for cell in row["cells"]] for row in figures["view"]["rows"]}
    # Nobody has evaluated this one.
    assert (len(cells["fvu"]), "evaluated_fvu" in cells) == (1, False)
    fields = [field for group in page.part("section")[0]["view"]["groups"] for field in group["fields"]]
    assert next(one["value"] for one in fields if one["name"] == "k") == "32"


@pytest.mark.parametrize("number", [1, 3])
def test_nothing_from_elsewhere_is_markup_and_nothing_is_asked_for(number: int) -> None:
    file = report.render([run(each) for each in range(number)], now=0)
    page = Page(file)
    names = [tag for tag, _ in page.tags]
    assert "img" not in names
    assert not {"link", "iframe", "object", "base"} & set(names)
    assert all("src" not in attributes and "href" not in attributes for _, attributes in page.tags)
    # The scripts are Bokeh and its log level, the components' and the file's own, besides the two blocks of JSON.
    assert names.count("script") == 2 + 4
    assert file.count(b"</script>") == names.count("script")
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert EVIL.encode() not in file.split(b"<title>")[1]


def test_a_run_without_steps_evaluations_or_lines_is_still_a_file() -> None:
    training = Training(id="r", name="young", status="queued")
    page = Page(report.render([Exported(training=training, history=History(data=[], position=1))], now=0))
    assert page.json["charts"] is None
    assert [part["component"] for part in page.json["shown"]["shown"]] == ["card", "log"]
    two = [Exported(training=training, history=History(data=[], position=1)), run(1)]
    assert Page(report.render(two, now=0)).part("table")


class Api:
    """An API that knows the runs r0, r1, …, of as many SAEs, and what it was asked for."""

    def __init__(self, saes: int) -> None:
        self.saes = saes
        self.points: list[int] = []

    def gateway(self) -> Gateway:
        return Gateway("http://api", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if "nowhere" in path:
            return httpx.Response(404, json={"title": "Not found"})
        known = run(saes=self.saes)
        if path.endswith("/metrics"):
            self.points.append(int(query["points"]))
            noise = random.Random(7)
            noisy = [
                msgspec.structs.replace(row, loss=noise.random(), fvu=noise.random(), grad_norm=noise.random())
                for row in rows(int(query["points"]), self.saes)
            ]
            body: Any = {"data": msgspec.to_builtins(noisy), "position": 9}
        elif path.endswith("/evaluations"):
            body = {"data": msgspec.to_builtins(known.evaluations), "position": 9}
        elif path.endswith("/logs"):
            body = {"data": msgspec.to_builtins(known.lines), "position": 9}
        else:
            body = {**msgspec.to_builtins(known.training), "position": 9}
        return httpx.Response(200, json=body)


@pytest.mark.slow
async def test_a_file_that_would_be_too_large_has_fewer_points_and_never_more_than_three_megabytes() -> None:
    api = Api(saes=4)
    whole = await exported(api.gateway(), ["r0"])
    assert len(whole) <= LIMIT == 3_000_000
    assert api.points == [1000]
    smaller = await exported(api.gateway(), ["r0"], limit=len(whole) - 1)
    assert len(smaller) < len(whole)
    assert api.points == [1000, 1000, 500]
    with pytest.raises(ExportRefused, match="at most 100,000 are allowed"):
        await exported(Api(saes=1).gateway(), ["r0"], limit=100_000)


async def test_what_cannot_be_exported_is_refused_with_a_sentence() -> None:
    gateway = Api(saes=1).gateway()
    with pytest.raises(ExportRefused, match="There is no training 'nowhere'"):
        await exported(gateway, ["nowhere"])
    with pytest.raises(ExportRefused, match="At most 10 trainings go into one file, not 11"):
        await exported(gateway, [f"r{number}" for number in range(11)])
    with pytest.raises(ExportRefused, match="There is no SAE 7 in training 'r0': its SAEs are 0 to 0"):
        await exported(gateway, ["r0~7"])
    with pytest.raises(ExportRefused, match="No training was named") as refused:
        await exported(gateway, [])
    assert refused.value.status == 400


def test_each_end_of_the_program_that_draws_has_its_status_and_a_sentence() -> None:
    noise = "a warning\n"
    assert outcome(0, b"<html>", noise) == (200, b"<html>", "")
    for status, code in EXITS.items():
        assert outcome(code, b"", f"{noise}There is no training 'x'.\n") == (status, b"", "There is no training 'x'.")
    fault = "The file could not be made because of a fault of the dashboard's; its log says more."
    for code in (1, 2, -9, EXITS[404]):
        said = "" if code == EXITS[404] else "Traceback (most recent call last)\nKeyError: 'secret'"
        assert outcome(code, b"half", said) == (500, b"", fault)
