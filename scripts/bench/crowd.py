"""How fluent the page stays with 500 trainings in the list, one of them of a million steps, in a real Chromium.

The trainings are events in a log on which a real server is started. Every figure is the median of `--rounds`, after one
that does not count; beside it, in the same run, the aim and two floors: the page that only says that there is no such
training (what the browser needs to load any page), and for what the page asks of the API the time of that answer alone.

    .venv/bin/python scripts/bench/crowd.py --rounds 5
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import serving
from playwright.sync_api import Browser, Page, sync_playwright

from events.control import TrainingCreated, TrainingNoted, TrainingTagged
from events.event import Event
from events.ids import new_id
from events.store import EventStore
from events.streams import Append
from events.training import (
    EvaluationMade,
    Sae,
    TrainingCompleted,
    TrainingConfig,
    TrainingFailed,
    TrainingStarted,
    TrainingStopped,
)

LONG = "a long training"
AT_ONCE = 4_000
SAES = (Sae(layer=1, hook="resid_post"),)

_VIEW = """const view = name => [...(window.Bokeh?.documents[0]?.all_models ?? [])].filter(model => model.name === name)
    .map(model => Bokeh.index.find_one_by_id(model.id)).find(view => view?.el.isConnected)
const steps = () => Array.from(view("chart-loss")?.model.renderers[0].data_source.data.step ?? [])"""
CHARTED = f"() => {{ {_VIEW}; return steps().length > 900 }}"
WHOLE = f"() => {{ {_VIEW}; const s = steps(); return s.length > 900 && s[0] <= 2 && s.at(-1) > 990000 }}"
NEAR = f"() => {{ {_VIEW}; const s = steps(); return s.length > 300 && s.at(-1) - s[0] < 200000 }}"
FRAME = f"""() => {{ {_VIEW}
    const chart = view("chart-loss")
    chart.el.scrollIntoView({{block: "center"}})
    const {{x, y}} = chart.el.getBoundingClientRect()
    const {{left, width, top, height}} = chart.frame.bbox
    return [x + left, width, y + top + height / 2]
}}"""


def endings() -> Iterator[Event]:
    """How the trainings ended, one after the other."""
    while True:
        yield from (TrainingCompleted(step=40), TrainingCompleted(step=40), TrainingStopped(step=30))
        yield TrainingFailed(error="CUDA out of memory.")


def fill(database: Path, trainings: int, steps: int) -> str:
    """A log with so many trainings, the newest of them of so many steps; its id."""
    draw = random.Random(0)
    ending = endings()
    made = serving.steps(100_000)
    newest = ""
    with EventStore.open(database) as store:
        for number in range(trainings):
            last = number == trainings - 1
            newest, total = new_id(), steps if last else 40
            config = TrainingConfig(
                model=draw.choice(("openai-community/gpt2", "EleutherAI/pythia-70m", "demo")),
                datasets=("stdlib",),
                architecture_type=draw.choice(("topk", "batchtopk", "jumprelu")),
                training_layers=(1,),
                latent_dim=2_048,
                total_steps=total,
                batch_size=4_096,
            )
            name = LONG if last else f"{draw.choice(('wide', 'deep', 'small', 'odd'))}-{number:03}"
            control = [TrainingCreated(name=name, config=config, launcher="external")]
            control.append(TrainingTagged(tags=(draw.choice(("sweep", "baseline", "paper, draft")),)))
            if number % 3 == 0:
                control.append(TrainingNoted(note="Repeats the *sweep* with **more** latents; see `k`."))
            store.append(Append(f"control-{newest}", control, actor="user:ada")).result()
            epoch = store.claim(f"training-{newest}").result().epoch
            version = 0
            batch: list[Event] = [TrainingStarted(pid=1, host="elsewhere", device="cuda", saes=SAES)]
            for step in range(1, total + 1):
                batch.append(msgspec.structs.replace(made[step % len(made)], step=step, tokens=step * 4_096))
                if len(batch) == AT_ONCE:
                    version = append(store, newest, batch, version, epoch)
                    batch = []
            batch += [evaluation(total, draw), TrainingCompleted(step=total) if last else next(ending)]
            append(store, newest, batch, version, epoch)
    return newest


def append(store: EventStore, training: str, batch: list[Event], version: int, epoch: int) -> int:
    """Append as a trainer does; the stream's version after it."""
    placed = Append(f"training-{training}", batch, expected=version, epoch=epoch, actor=f"trainer:{training}")
    return store.append(placed).result()[0].version


def evaluation(step: int, draw: random.Random) -> EvaluationMade:
    verdict = draw.choice(("good", "watch", "bad"))
    return EvaluationMade(
        step=step,
        sae=0,
        tokens=16_384,
        fvu=draw.uniform(0.05, 0.5),
        l0=32.0,
        dead_latents=draw.randrange(400),
        density_histogram=tuple(draw.randrange(90) for _ in range(61)),
        verdict=verdict,
        reasons=() if verdict == "good" else ("12 % of the latents are dead",),
    )


class Tab:
    """A browser context with nothing cached, and a stopwatch."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 1000})
        self.page = self.context.new_page()
        self.url = url

    def timed(self, do: Callable[[Page], object], ready: Callable[[Page], object]) -> float:
        """Milliseconds from `do` until `ready`."""
        began = time.perf_counter()
        do(self.page)
        ready(self.page)
        return (time.perf_counter() - began) * 1e3


def rows(page: Page) -> None:
    """Waits until the list's first rows are seen."""
    page.locator(".c-name a").nth(20).wait_for()


def charts(page: Page) -> None:
    """Waits until the charts hold the whole history."""
    page.wait_for_function(CHARTED)


def settled(page: Page) -> None:
    page.wait_for_function("() => window.Bokeh?.documents.length && Bokeh.documents.every(d => d.is_idle)")


def round_(browser: Browser, url: str, training: str, trainings: int) -> dict[str, float]:
    """One person's way through the studio, from a browser that has seen nothing yet."""
    took: dict[str, float] = {}
    tab = Tab(browser, url)
    took["floor"] = tab.timed(
        lambda page: page.goto(f"{url}?training=none", wait_until="commit"),
        lambda page: page.get_by_text("There is no training").first.wait_for(),
    )
    tab.context.close()
    tab = Tab(browser, url)
    took["cold"] = tab.timed(lambda page: page.goto(url, wait_until="commit"), rows)
    settled(tab.page)
    took["training"] = tab.timed(lambda page: page.get_by_role("link", name=LONG, exact=True).click(), charts)
    settled(tab.page)
    x, width, y = tab.page.evaluate(FRAME)
    mouse = tab.page.mouse
    mouse.move(x + 0.5 * width, y)
    mouse.down()
    mouse.move(x + 0.55 * width, y)
    mouse.move(x + 0.6 * width, y)
    took["zoom"] = tab.timed(lambda page: mouse.up(), lambda page: page.wait_for_function(NEAR))
    settled(tab.page)
    took["whole"] = tab.timed(
        lambda page: page.get_by_role("button", name="Show all").click(), lambda page: page.wait_for_function(WHOLE)
    )
    settled(tab.page)
    took["back"] = tab.timed(lambda page: page.get_by_role("link", name="← Trainings").click(), rows)
    settled(tab.page)
    took["search"] = (
        tab.timed(
            lambda page: page.get_by_role("searchbox", name="Search trainings").fill("wide-001"),
            lambda page: page.wait_for_function(_rows_are(1)),
        )
        if trainings > 1
        else 0.0
    )
    tab.page.get_by_role("searchbox", name="Search trainings").fill("")
    rows(tab.page)

    def to_the_end(page: Page) -> None:
        while not page.evaluate(_rows_are(trainings)):
            page.evaluate(_SCROLL)

    took["all"] = tab.timed(lambda page: None, to_the_end)
    tab.context.close()
    return took


_SCROLL = """() => new Promise(done => {
    const box = Bokeh.index.roots.map(root => root.shadow_el?.querySelector(".main-content")).find(Boolean)
    box.scrollTop = box.scrollHeight
    requestAnimationFrame(() => requestAnimationFrame(done))
})"""


def _rows_are(number: int) -> str:
    """JavaScript: whether the list shows so many rows."""
    return f"""() => {{
        const models = [...(window.Bokeh?.documents[0]?.all_models ?? [])]
        const lists = models.filter(one => one.class_name === "TrainingList")
        const list = lists.map(one => Bokeh.index.find_one_by_id(one.id)).find(one => one?.el.isConnected)
        return list?.shadow_el.querySelectorAll(".c-name a").length === {number}
    }}"""


AIMS = {
    "cold": ("list, cold: its rows", 3_000, "floor"),
    "back": ("list, inside the app: its rows", 1_000, "list"),
    "training": ("training of 1 M steps, after the click: charts", 2_500, "history"),
    "zoom": ("zoom to a tenth of it", 300, "near"),
    "whole": ("and back to the whole", None, "history"),
    "search": ("search: one row left (250 ms of typing included)", None, "list"),
    "all": ("all rows by scrolling", None, "list"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1_000_000)
    options = parser.parse_args()
    chromium = serving.chromium()
    with tempfile.TemporaryDirectory(prefix="saestudio-bench-") as folder:
        data_dir = Path(folder)
        began = time.perf_counter()
        training = fill(data_dir / "log.duckdb", options.trainings, options.steps)
        took = time.perf_counter() - began
        print(f"{options.trainings} trainings, one of {options.steps:,} steps: {took:.0f} s to append")
        with serving.server_on(data_dir, ui=True) as (address, _), sync_playwright() as playwright:
            url = address.url + "/"
            while httpx.get(url).status_code != httpx.codes.OK:
                time.sleep(0.1)
            api = f"{url}api/v1/trainings"
            path = f"{api}/{training}/metrics?points=1000"
            floors = {
                "list": asked(f"{api}?limit=50", options.rounds),
                "history": asked(path, options.rounds),
                "near": asked(f"{path}&from_step=500000&to_step=600000", options.rounds),
            }
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            round_(browser, url, training, options.trainings)
            found = [round_(browser, url, training, options.trainings) for _ in range(options.rounds)]
            browser.close()
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    floors["floor"] = medians["floor"]
    print(f"{'what: until':52} {'median ms':>10} {'worst ms':>10} {'aim ms':>8} {'floor ms':>9}")
    for name, (label, aim, floor) in AIMS.items():
        worst = max(one[name] for one in found)
        print(f"{label:52} {medians[name]:10.0f} {worst:10.0f} {aim or '':>8} {floors[floor]:9.0f}")


def asked(url: str, rounds: int) -> float:
    """Milliseconds until the API has answered, the median."""
    times: list[float] = []
    with httpx.Client(trust_env=False) as client:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            client.get(url).raise_for_status()
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
