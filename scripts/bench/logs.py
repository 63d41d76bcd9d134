#!/usr/bin/env python
"""Whether the page stays fluent while a log grows fast, and how soon a search finds a line of its beginning.

One training writes log lines at `--rate` for `--seconds` while a real Chromium shows its page. Printed are the frames a
second and the longest pause between two, beside the same page before the first line as the floor; how far the newest
line in sight is behind the newest written; and how long a search takes that finds a line of the first second.

    .venv/bin/python scripts/bench/logs.py [--rate 100] [--seconds 70]
"""

from __future__ import annotations

import argparse
import threading
import time
from itertools import pairwise
from pathlib import Path

import httpx
import serving
from playwright.sync_api import Page, sync_playwright

from events.client import ServerAddress
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.log import LogWritten
from events.spool import hold
from events.training import Sae, TrainingConfig, TrainingStarted

_FRAMES = """() => {
    window.frames_seen = []
    const frame = (now) => { window.frames_seen.push(now); requestAnimationFrame(frame) }
    requestAnimationFrame(frame)
}"""
_TAKEN = "() => window.frames_seen.splice(0)"


class Writer:
    """A training that writes lines from a thread of its own until it is told to end."""

    def __init__(self, address: ServerAddress, folder: Path, training: str, rate: float) -> None:
        self.written = 0
        self._rate = rate
        self._lock = hold(folder)
        config = TrainingConfig(model="demo", datasets=("stdlib",), architecture_type="topk", k=16, total_steps=1_000)
        created = TrainingCreated(name="talks", config=config)
        self._emitter = Emitter(folder, training, address=lambda: address, created=created)
        self._emitter.emit(
            TrainingStarted(pid=1, host="elsewhere", device="cpu", saes=(Sae(layer=0, hook="resid_post"),))
        )
        self._emitter.flush(60)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._emitter.flush(60)
        self._emitter.close(5)
        self._lock.release()

    def _write(self) -> None:
        began = time.perf_counter()
        while not self._over.is_set():
            line = f"line {self.written:07} of a log that somebody reads while it grows"
            self._emitter.emit(LogWritten(level="INFO", logger="trainer", message=line))
            self.written += 1
            time.sleep(max(0.0, began + self.written / self._rate - time.perf_counter()))


def fluency(frames: list[float]) -> str:
    pauses = [after - before for before, after in pairwise(frames)]
    return f"{1e3 * len(pauses) / sum(pauses):.0f} frames/s, longest pause {max(pauses):.0f} ms"


def newest(page: Page) -> int:
    """The number of the newest line in sight."""
    return int(page.locator(".canvas .line").last.inner_text().rpartition("line ")[2][:7])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=70.0)
    options = parser.parse_args()
    training = new_id()
    with serving.server(ui=True) as (address, data_dir, _), sync_playwright() as playwright:
        writer = Writer(address, data_dir / "elsewhere" / training, training, options.rate)
        browser = playwright.chromium.launch(executable_path=serving.chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            while httpx.get(f"{address.url}/").status_code != httpx.codes.OK:
                time.sleep(0.1)
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(f"{address.url}/?training={training}")
            page.get_by_text("Nothing has been logged yet.").wait_for()
            page.evaluate(_FRAMES)
            page.wait_for_timeout(5_000)
            print(f"before the first line: {fluency(page.evaluate(_TAKEN))}")
            writer.start()
            page.locator(".canvas .line").first.wait_for()
            page.evaluate(_TAKEN)
            behind: list[float] = []
            began = time.monotonic()
            while time.monotonic() - began < options.seconds:
                page.wait_for_timeout(1_000)
                behind.append((writer.written - newest(page)) / options.rate)
            print(f"at {options.rate:g} lines/s, {writer.written:,} of them: {fluency(page.evaluate(_TAKEN))};")
            print(f"the newest line in sight is at most {max(behind):.2f} s old")
            clock = time.perf_counter()
            page.get_by_role("searchbox", name="Search the log").fill("line 0000042")
            page.locator(".canvas").get_by_text("line 0000042").wait_for()
            print(f"a line of the beginning is found {(time.perf_counter() - clock) * 1e3:.0f} ms after it was typed")
        finally:
            browser.close()
            writer.end()


if __name__ == "__main__":
    main()
