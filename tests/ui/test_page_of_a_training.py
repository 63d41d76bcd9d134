"""A training's page between what it asks and what it is told, without a browser."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import httpx
import msgspec
import pytest
from one_tab import Tab

from events.event import Event, Recorded, event_type
from events.status import Status
from events.training import Sae, StepTrained, TrainingConfig, TrainingResumed
from events.wire import CaughtUp, Subscribed
from ui.answers import Training
from ui.charts import live
from ui.pages import training as training_page
from ui.pages.log import LogSection
from ui.pages.metrics import MetricsSection
from ui.pages.training import TrainingPage

STEPS = 9
CONFIG = TrainingConfig(model="demo", total_steps=100, latent_dim=64, k=4)


def training(status: str = "running") -> Training:
    return Training(
        id="one", name="a run", status=status, config=CONFIG, saes=(Sae(layer=1, hook="resid_post"),), step=STEPS,
        total_steps=100, started_at=int(1_000e6), updated_at=int(1_100e6),
    )  # fmt: skip


class Api:
    """Answers of one training that has trained; `refuses` are the ends of paths that are not answered."""

    def __init__(self) -> None:
        self.refuses: set[str] = set()
        self.asked: list[str] = []
        self.steps = self.position = STEPS

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what = request.url.path.removeprefix("/api/v1/trainings/one")
        self.asked.append(what)
        if what in self.refuses:
            return httpx.Response(500, json={"title": "Failed", "detail": "The disk is full."})
        if what == "":
            return httpx.Response(200, json={**msgspec.to_builtins(training()), "position": self.position})
        rows = [{"step": step, "sae": 0, "loss": 0.5, "timestamp": step} for step in range(1, self.steps + 1)]
        return httpx.Response(200, json={"data": rows if what == "/metrics" else [], "position": self.position})


def came(position: int, event: Event) -> Recorded:
    return Recorded(
        position=position, stream="training-one", version=position, type=event_type(event), occurred_at=position,
        recorded_at=position, data=event,
    )  # fmt: skip


def step_of(step: int) -> StepTrained:
    return StepTrained(
        step=step, loss=0.4, loss_reconstruction=0.4, l0=4, l0_fraction=0.06, fvu=0.4, learning_rate=1e-3, grad_norm=1,
        tokens=step, tokens_per_second=10,
    )  # fmt: skip


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def tab(api: Api, monkeypatch: pytest.MonkeyPatch) -> Tab:
    # One chart is enough to see that there are some.
    monkeypatch.setattr(live, "CHARTS", live.CHARTS[:1])
    tab = Tab(api)
    tab.feed.take(Subscribed(log_id="a", after=STEPS, head=STEPS))
    tab.feed.take(CaughtUp(position=STEPS))
    return tab


def steps(section: MetricsSection) -> list[float]:
    return [] if section._charts is None else list(section._charts.source.data["step"])


def made(tab: Tab, status: str = "running") -> MetricsSection:
    section = MetricsSection(tab.session, "one")
    section.training = training(status)
    # Whatever is wanted again is asked for at once.
    section._refresh._pause = 0.0
    return section


async def opened(tab: Tab, status: str = "running") -> MetricsSection:
    section = made(tab, status)
    section.open()
    await tab.until(lambda: not section._asking)
    return section


async def test_metrics_are_shown_in_every_status(tab: Tab) -> None:
    for status in get_args(Status):
        section = await opened(tab, status)
        assert steps(section) == list(range(1, STEPS + 1)), status
        assert section._grid.objects
        section.close()


async def test_a_history_that_comes_after_the_charts_were_hidden_does_not_show_them(tab: Tab, api: Api) -> None:
    section = made(tab)
    section.open()
    section._act("toggle", {})
    await tab.until(lambda: not section._asking)
    assert api.asked == ["/metrics"]
    assert not section._grid.objects
    section._act("toggle", {})
    await tab.until(lambda: steps(section) == list(range(1, STEPS + 1)))
    section.close()


async def test_a_history_that_fails_after_a_resume_is_asked_for_again_by_itself(tab: Tab, api: Api) -> None:
    section = await opened(tab)
    api.refuses = {"/metrics"}
    tab.feed.take([came(STEPS + 1, TrainingResumed(step=5))])
    section.push()
    await tab.until(lambda: bool(section._failed))
    # What is shown stays, and what comes does not connect to it.
    tab.feed.take([came(STEPS + 2, step_of(6))])
    assert steps(section) == list(range(1, STEPS + 1))
    api.refuses = set()
    api.steps, api.position = 5, STEPS + 1
    section.push()
    await tab.until(lambda: steps(section) == [1, 2, 3, 4, 5, 6])
    assert not section._failed
    section.close()


async def test_saes_get_their_names_where_the_first_steps_come_before_them(tab: Tab) -> None:
    section = made(tab)
    section.training = msgspec.structs.replace(training(), saes=(), started_at=None)
    section.open()
    await tab.until(lambda: steps(section) == list(range(1, STEPS + 1)))
    assert section._charts is not None
    assert section._charts.labels == ["SAE 0"]
    section.show(training())
    await tab.until(lambda: section._charts is not None and section._charts.labels == ["L1.resid_post"])
    assert section._head._shown is not None
    assert [line["label"] for line in section._head._shown["lines"]] == ["L1.resid_post"]
    assert steps(section) == list(range(1, STEPS + 1))
    section.close()


async def test_the_failure_of_a_search_that_was_left_is_not_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("q", ""))
        if len(asked) == 1:
            # While the first is on its way somebody looks for something else.
            log._q = "other"
            log._begin()
            return httpx.Response(500, json={"title": "Failed", "detail": "The disk is full."})
        return httpx.Response(200, json={"data": [], "position": STEPS})

    tab = Tab(answer)
    log = LogSection(tab.session, "one")
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(log.root, "present", shown.append)
    log.open()
    await tab.until(lambda: log._ready)
    assert asked == ["", "other"]
    assert not any(view["failed"] for view in shown)
    log.close()


async def test_the_time_that_has_gone_stands_still_while_the_server_is_away(
    tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=lambda: 1_060.0)
    monkeypatch.setattr(training_page, "time", clock)
    page = TrainingPage(tab.session, "one")
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(page._card, "present", shown.append)
    page.open()
    await tab.until(lambda: "times" in (shown or [{}])[-1])
    assert "1 min elapsed" in shown[-1]["times"]
    tab.feed._lost("The connection to the server is lost.")
    clock.time = lambda: 1_600.0
    page.push()
    assert "1 min elapsed" in shown[-1]["times"]
    tab.feed.take(Subscribed(log_id="a", after=STEPS, head=STEPS))
    page.push()
    assert "10 min elapsed" in shown[-1]["times"]
    page.close()
