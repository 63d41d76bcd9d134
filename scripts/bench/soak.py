#!/usr/bin/env python
"""Whether memory stays flat: steps at a steady rate, a page open on the training, and followers that read everything.

    .venv/bin/python scripts/bench/soak.py [--minutes 15] [--rate 1000] [--followers 20]

Server, dashboard and emitter are processes of their own; so are the followers together, and Chromium. Once every ten
seconds the memory of each is looked at (RSS; the heap of the page after a collection). After the warm-up (a fifth of
the time) the median of the first third is printed, that of the last, the lowest and the highest value, and the straight
line through them as growth an hour: memory that rises and falls with every checkpoint makes two single values say
anything.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import serving
from playwright.sync_api import sync_playwright

from events.client import Follower, ServerAddress
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.spool import hold
from events.training import Sae, TrainingConfig, TrainingStarted

EVERY = 10.0
PRINT_EVERY = 6


def produce(url: str, folder: Path, training: str, rate: float) -> None:
    """Emits steps at `rate` until standard input ends."""
    config = TrainingConfig(model="demo", datasets=("stdlib",), architecture_type="topk", k=16, total_steps=10_000_000)
    created = TrainingCreated(name="soak", config=config)
    lock = hold(folder / training)
    emitter = Emitter(folder / training, training, address=lambda: ServerAddress(url), created=created)
    emitter.emit(TrainingStarted(pid=0, host="here", device="cpu", saes=(Sae(layer=0, hook="resid_post"),)))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    events, number, began = serving.steps(1_000), 0, time.perf_counter()
    print("ready", flush=True)
    while not over.is_set():
        number += 1
        emitter.emit(msgspec.structs.replace(events[number % 1_000], step=number))
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
    emitter.flush(60)
    emitter.close(5)
    lock.release()
    print(number, flush=True)


def follow(url: str, count: int) -> None:
    """Reads the log with `count` followers until standard input ends; prints how many events each has seen."""
    followers = [Follower(url) for _ in range(count)]
    seen = [0] * count

    def read(index: int) -> None:
        for message in followers[index].sync_messages():
            seen[index] += len(message) if isinstance(message, list) else 0

    threads = [threading.Thread(target=read, args=[index], daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    print(min(seen), max(seen), flush=True)


@contextlib.contextmanager
def child(*arguments: object):  # type: ignore[no-untyped-def]
    """A process of this file, once it says that it is ready."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def rss(pid: int) -> float:
    """MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


def dashboard(server: int) -> int:
    """The process id of the server's dashboard."""
    found = subprocess.run(
        ["pgrep", "-P", str(server), "-f", "--", "-m ui --socket"], capture_output=True, text=True, check=True
    )
    return int(found.stdout.split()[0])


def main() -> None:
    if sys.argv[1:2] == ["produce"]:
        produce(sys.argv[2], Path(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
        return
    if sys.argv[1:2] == ["follow"]:
        follow(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rate", type=float, default=1_000)
    parser.add_argument("--followers", type=int, default=20)
    options = parser.parse_args()
    chromium = serving.chromium()
    training = new_id()
    with (
        serving.server(ui=True) as (address, data_dir, pid),
        sync_playwright() as playwright,
        child("produce", address.url, data_dir / "trainings", training, options.rate) as producer,
        child("follow", address.url, options.followers) as followers,
    ):
        while httpx.get(f"{address.url}/").status_code != httpx.codes.OK:
            time.sleep(0.1)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{address.url}/?training={training}")
        page.get_by_text("soak").first.wait_for()
        heap = page.context.new_cdp_session(page)
        samples: dict[str, list[float]] = {"server": [], "dashboard": [], "emitter": [], "page's heap": []}
        times: list[float] = []
        ui, began = dashboard(pid), time.monotonic()
        while (now := time.monotonic() - began) < options.minutes * 60:
            times.append(now)
            for name, process in (("server", pid), ("dashboard", ui), ("emitter", producer.pid)):
                samples[name].append(rss(process))
            heap.send("HeapProfiler.collectGarbage")
            samples["page's heap"].append(heap.send("Runtime.getHeapUsage")["usedSize"] / 2**20)
            if len(times) % PRINT_EVERY == 1:
                figures = ", ".join(f"{name} {values[-1]:.0f}" for name, values in samples.items())
                print(f"  {now / 60:4.0f} min: {figures} MiB", flush=True)
            time.sleep(EVERY)
        emitted = int(producer.communicate("", timeout=120)[0].split()[-1])
        low, high = followers.communicate("", timeout=120)[0].split()[-2:]
        browser.close()
    print(f"{options.minutes:g} minutes at {options.rate:g} steps/s: {emitted:,} emitted;", end=" ")
    print(f"{options.followers} followers have seen {int(low):,} to {int(high):,} events")
    warm = len(times) // 5
    for name, values in samples.items():
        warmed, growth = values[warm:], np.polyfit(times[warm:], values[warm:], 1)[0] * 3_600
        third = max(1, len(warmed) // 3)
        first, last = np.median(warmed[:third]), np.median(warmed[-third:])
        print(
            f"  {name:12} {first:7.1f} MiB after the warm-up, {last:7.1f} at the end ({last / first - 1:+.0%}),"
            f" {min(warmed):.0f} to {max(warmed):.0f} all the time; {growth:+.1f} MiB an hour"
        )


if __name__ == "__main__":
    main()
