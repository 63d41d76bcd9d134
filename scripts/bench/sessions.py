#!/usr/bin/env python
"""What an open page of a training costs the dashboard, and whether many stay live.

    .venv/bin/python scripts/bench/sessions.py [--sessions 20] [--rate 10] [--seconds 30]

One training emits steps at `--rate`. Sessions are clients that open its page and its socket as a browser does and read
what comes; the last of them is a real Chromium. Printed are the updates that a session gets a second, and the processor
time that the dashboard takes for each, beside its floor: taking the same steps from the log with no page open.

    .venv/bin/python scripts/bench/sessions.py --leave 10 --rate 60

One Chromium stays on the page for so many minutes: the memory of page and dashboard at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import serving
from playwright.sync_api import Page, sync_playwright
from soak import EVERY, child, dashboard, rss
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from events.ids import new_id

_READY = {
    "kind": "MessageSent",
    "msg_type": "bokeh_event",
    "msg_data": {"type": "event", "name": "document_ready", "values": {"type": "map", "entries": []}},
}
_STREAMED = b'"ColumnsStreamed"'


class Client:
    """A session without a browser: counts the times that steps are added to its charts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.updates = 0
        self.bytes = 0

    async def run(self) -> None:
        async with httpx.AsyncClient() as web:
            page = html.unescape((await web.get(self._url, headers={"Accept": "text/html"})).text)
        found = re.search(r'"token":\s*"([^"]+)"', page)
        if found is None:
            raise SystemExit("The page has no token in it.")
        at = urlsplit(self._url)
        protocols = [Subprotocol("bokeh"), Subprotocol(found[1])]
        async with connect(f"ws://{at.netloc}/ws", subprotocols=protocols, max_size=None, compression=None) as socket:
            # An answer is its header, metadata and content, each a message.
            await socket.recv()
            for part in ('{"msgid":"1","msgtype":"PULL-DOC-REQ"}', "{}", "{}"):
                await socket.send(part)
            patch = msgspec.json.encode({"events": [_READY]}).decode()
            for part in ('{"msgid":"2","msgtype":"PATCH-DOC"}', "{}", patch):
                await socket.send(part)
            async for message in socket:
                data = message.encode() if isinstance(message, str) else message
                self.bytes += len(data)
                self.updates += _STREAMED in data


async def measured(url: str, count: int, seconds: float, pid: int) -> tuple[list[float], float, float]:
    """Updates a second of each of `count` clients, bytes a second of one, and the dashboard's share of a core."""
    clients = [Client(url) for _ in range(count)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    deadline = time.monotonic() + 60 + 5 * count
    while not all(client.updates > 2 for client in clients):
        for task in tasks:
            if task.done():
                task.result()
        if time.monotonic() > deadline:
            raise SystemExit(f"Not every session became live: {[client.updates for client in clients]}.")
        await asyncio.sleep(0.1)
    before, read, cpu = [client.updates for client in clients], sum(c.bytes for c in clients), serving.cpu_seconds(pid)
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    share = (serving.cpu_seconds(pid) - cpu) / took
    rates = [(client.updates - then) / took for client, then in zip(clients, before, strict=True)]
    read = sum(client.bytes for client in clients) - read
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rates, read / took / max(1, count), share


@contextlib.contextmanager
def chromium(url: str) -> Iterator[Page]:
    """A page of a real browser that shows the charts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=serving.chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(url)
        page.wait_for_function(
            "() => [...(window.Bokeh?.documents[0]?.all_models ?? [])]"
            ".some(model => model.name === 'steps' && model.data.step.length > 20)"
        )
        yield page
        browser.close()


def idle(pid: int, seconds: float) -> float:
    """The dashboard's share of a core while nobody looks."""
    cpu, began = serving.cpu_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    return (serving.cpu_seconds(pid) - cpu) / (time.perf_counter() - began)


def many(url: str, options: argparse.Namespace, pid: int) -> None:
    floor = idle(pid, options.seconds)
    print(f"no page open: the dashboard takes {floor:.1%} of a core to follow {options.rate:g} steps/s")
    with chromium(url) as page:
        for count in sorted({1, options.sessions - 1}):
            drawn = "() => [...Bokeh.documents[0].all_models].find(one => one.name === 'steps').data.step.length"
            first, began = page.evaluate(drawn), time.perf_counter()
            # Playwright's own loop runs in this thread.
            command = [sys.executable, __file__, "--clients", url, str(count), str(options.seconds), str(pid)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rates, read, share = msgspec.json.decode(said, type=tuple[list[float], float, float])
            shown = (page.evaluate(drawn) - first) / (time.perf_counter() - began)
            print(
                f"{count + 1} sessions: {min(rates):.1f} to {max(rates):.1f} updates/s (median"
                f" {statistics.median(rates):.1f}), {read / 1_024:.1f} KiB/s each; Chromium drew {shown:.1f} steps/s;"
                f" {share:.0%} of a core, {(share - floor) / (count + 1):.2%} a session"
            )


def left_open(url: str, options: argparse.Namespace, pid: int) -> None:
    with chromium(url) as page:
        heap = page.context.new_cdp_session(page)
        samples: dict[str, list[float]] = {"dashboard": [], "page's heap": []}
        times: list[float] = []
        began = time.monotonic()
        while (now := time.monotonic() - began) < options.leave * 60:
            heap.send("HeapProfiler.collectGarbage")
            samples["page's heap"].append(heap.send("Runtime.getHeapUsage")["usedSize"] / 2**20)
            samples["dashboard"].append(rss(pid))
            times.append(now)
            time.sleep(EVERY)
    for name, values in samples.items():
        third = max(1, len(values) // 3)
        first, last = np.median(values[:third]), np.median(values[-third:])
        growth = np.polyfit(times, values, 1)[0] * 60
        print(
            f"a page left open for {options.leave:g} minutes at {options.rate:g} steps/s, {name}: {first:.1f} →"
            f" {last:.1f} MiB ({last / first - 1:+.0%}, {growth:+.2f} a minute)"
        )


def main() -> None:
    if sys.argv[1:2] == ["--clients"]:
        figures = asyncio.run(measured(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
        print(msgspec.json.encode(figures).decode())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--leave", type=float, default=0.0, help="minutes that one page is left open")
    options = parser.parse_args()
    training = new_id()
    with (
        serving.server(ui=True) as (address, data_dir, pid),
        child("produce", address.url, data_dir / "trainings", training, options.rate),
    ):
        while httpx.get(f"{address.url}/").status_code != httpx.codes.OK:
            time.sleep(0.1)
        url = f"{address.url}/?training={training}"
        (left_open if options.leave else many)(url, options, dashboard(pid))


if __name__ == "__main__":
    main()
