"""How long a person waits for each page, in a real Chromium before a real server.

The training page is that of a training of 100,000 steps of two SAEs. Each page is opened `--rounds` times in a new
browser context (nothing cached), after one round that does not count; the clock runs from the request to the moment
named below. Beside it, as the floor, the page of the same server that only says that there is no such training.

    .venv/bin/python scripts/bench/pages.py --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import serving
from playwright.sync_api import Browser, Page, sync_playwright

from events.client import read_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.log import LogWritten
from events.spool import hold
from events.training import Sae, TrainingConfig, TrainingStarted

STEPS = 100_000

_HISTORY = """() => [...(window.Bokeh?.documents[0]?.all_models ?? [])]
    .some(model => model.name === "steps" && model.data.step.length > 900)"""


def train(data_dir: Path) -> str:
    """A training of `STEPS` steps and 500 log lines in the log; its id."""
    training = new_id()
    folder = data_dir / "elsewhere" / training
    lock = hold(folder)
    config = TrainingConfig(
        model="demo", datasets=("stdlib",), architecture_type="topk", k=16, training_layers=(0, 1), total_steps=STEPS
    )
    created = TrainingCreated(name="a long training", config=config)
    emitter = Emitter(folder, training, address=lambda: read_address(data_dir), created=created)
    saes = tuple(Sae(layer=layer, hook="resid_post") for layer in (0, 1))
    emitter.emit(TrainingStarted(pid=1, host="elsewhere", device="cuda", saes=saes))
    for number, step in enumerate(serving.steps(STEPS)):
        for sae in (0, 1):
            emitter.emit(msgspec.structs.replace(step, step=number + 1, sae=sae))
        if number % 200 == 0:
            emitter.emit(LogWritten(level="INFO", logger="trainer", message=f"Step {number:,}"))
    if not emitter.flush(300):
        raise RuntimeError("The server did not take the training in.")
    emitter.close(5)
    lock.release()
    return training


def waited(browser: Browser, url: str, ready: Callable[[Page], None]) -> float:
    """Milliseconds from the request to the moment that `ready` waits for."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    ready(page)
    took = (time.perf_counter() - begun) * 1e3
    context.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    chromium = serving.chromium()
    with serving.server(ui=True) as (address, data_dir, _), sync_playwright() as playwright:
        training = train(data_dir)
        url = address.url + "/"
        while httpx.get(url).status_code != httpx.codes.OK:
            time.sleep(0.1)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        cases: list[tuple[str, str, Callable[[Page], None]]] = [
            ("a training that is not there: its sentence", f"{url}?training=none", text("There is no training")),
            ("list: its rows", url, text("a long training")),
            ("training: name and status", f"{url}?training={training}", lambda page: shown(page, ".title .status")),
            ("training: the whole history", f"{url}?training={training}", lambda page: history(page)),
            ("training: the log", f"{url}?training={training}", lambda page: shown(page, ".canvas .line")),
            ("new training: the form", f"{url}?page=new", lambda page: shown(page, "[data-field=model] input")),
            ("templates: the page", f"{url}?page=templates", text("No templates yet")),
        ]
        floor = 0.0
        print(f"{'page: until':50} {'median ms':>10} {'worst ms':>10} {'× floor':>8}")
        for name, address_, ready in cases:
            waited(browser, address_, ready)
            took = [waited(browser, address_, ready) for _ in range(rounds)]
            median = statistics.median(took)
            floor = floor or median
            print(f"{name:50} {median:10.0f} {max(took):10.0f} {median / floor:8.2f}", flush=True)
        browser.close()


def text(sentence: str) -> Callable[[Page], None]:
    """Waits until a sentence is seen."""
    return lambda page: page.get_by_text(sentence).first.wait_for()


def shown(page: Page, selector: str) -> None:
    """Waits until an element is seen."""
    page.locator(selector).first.wait_for()


def history(page: Page) -> None:
    """Waits until the charts hold the whole history."""
    page.wait_for_function(_HISTORY)


if __name__ == "__main__":
    main()
