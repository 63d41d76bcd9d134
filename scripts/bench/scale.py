#!/usr/bin/env python
"""A long log behind a real server: its size, its start, its history over HTTP, its replay, its rebuild.

    .venv/bin/python scripts/bench/scale.py [--events 10000000] [--runs 8]

Fills a log with so many steps of 12 metrics, of so many trainings whose steps come in turn, on random values, each with
20 spikes in every metric at drawn steps, and log lines among them. Then a server is started on it, in a process of its
own: the first time it folds all of it, the second time it finds that done. Times are medians of what a client waits
for over loopback. Beside the history stands the plainest full scan of the same rows (`sum` of every metric), beside
the replay MessagePack encoding alone, beside the start a Python that imports the server and opens nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from serving import encode_floor, peak_memory, server_on, steps
from websockets.sync.client import connect

from core.api import Api
from events import tables
from events.batch import COLD, ENVELOPE, FIELDS
from events.client import FOLLOW_PATH, ServerAddress

SPIKES = 20
SPIKE = 1_000.0
METRICS = (
    "loss", "loss_reconstruction", "loss_sparsity", "loss_auxiliary", "l0", "l0_fraction", "fvu", "dead_latents",
    "learning_rate", "grad_norm", "tokens", "tokens_per_second",
)  # fmt: skip
SPIKED = tuple(name for name in METRICS if name not in ("tokens", "dead_latents"))
AT_ONCE = 100_000
LINES_EVERY = 1_000


def training(number: int) -> str:
    return f"0bench{number:08}"


def fill(database: Path, events: int, runs: int) -> None:
    """Write the log's tables, without projections."""
    draw = np.random.default_rng(0)
    each = events // runs
    # Apart from each other, so that no two could hide behind one another's bucket.
    apart = each // 1_000
    spikes = {
        name: draw.choice(1_000, SPIKES, replace=False) * apart + draw.integers(0, apart, SPIKES) for name in SPIKED
    }
    con = duckdb.connect(str(database), config={"threads": 2, "memory_limit": "2GB", "checkpoint_threshold": "1TB"})
    tables.create(con)
    position = 0
    for number in range(runs):
        position += 1
        cold(con, [(position, f"control-{training(number)}", 1, "TrainingCreated", CREATED)])
    versions, done = [0] * runs, 0
    while done < each:
        count = min(AT_ONCE // runs, each - done)
        number = np.tile(np.arange(runs), count)
        step = np.repeat(np.arange(done, done + count), runs)
        size = count * runs
        values: dict[str, Any] = {c.name: draw.normal(1, 0.1, size) for c in FIELDS["StepTrained"]}
        for name, at in spikes.items():
            # A metric of the type float32, as all of them.
            values[name][np.isin(step, at)] = SPIKE
        values |= {"step": step + 1, "sae": np.zeros(size, int), "tokens": (step + 1) * 4_096}
        values |= {"dead_latents": draw.integers(0, 4_096, size), "device_memory": np.full(size, 2**33)}
        values |= {"position": position + 1 + np.arange(size), "version": np.repeat(np.arange(count), runs) + 1}
        values["version"] += np.tile(np.array(versions), count)
        values |= dict.fromkeys(("occurred_at", "recorded_at"), 1_700_000_000_000_000 + step * 10_000)
        values["stream"] = np.array([f"training-{training(n)}" for n in range(runs)])[number]
        columns = (*ENVELOPE, *FIELDS["StepTrained"])
        made = pa.table([pa.array(values[c.name]).cast(c.arrow) for c in columns], [c.name for c in columns])
        con.execute("INSERT INTO step_trained BY NAME SELECT * FROM made")
        assert made.num_rows == size
        position, done = position + size, done + count
        versions = [version + count for version in versions]
        lines: list[tuple[int, str, int, str, bytes]] = []
        for n in range(runs):
            for _ in range(count // LINES_EVERY):
                position, versions[n] = position + 1, versions[n] + 1
                message = f'{{"type":"LogWritten","level":"INFO","logger":"bench","message":"step {done} of {n}"}}'
                lines.append((position, f"training-{training(n)}", versions[n], "LogWritten", message.encode()))
        if lines:
            cold(con, lines)
    con.execute("CHECKPOINT")
    con.close()


CREATED = b'{"type":"TrainingCreated","name":"bench","launcher":"external"}'


def cold(con: duckdb.DuckDBPyConnection, rows: list[tuple[int, str, int, str, bytes]]) -> None:
    full = [(p, stream, version, kind, 1, 1, None, None, data) for p, stream, version, kind, data in rows]
    columns = zip(zip(*full, strict=True), COLD, strict=True)
    made = pa.table([pa.array(values, c.arrow) for values, c in columns], [c.name for c in COLD])
    assert made.num_rows == len(rows)
    con.execute("INSERT INTO log_events SELECT * FROM made")


def median(runs: int, do: Callable[[], Any]) -> float:
    """In ms."""
    times: list[float] = []
    for _ in range(runs):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def scan_floor(database: Path) -> float:
    sums = ", ".join(f"sum({name})" for name in METRICS)
    with duckdb.connect(str(database), config={"threads": 2}) as con:
        query = f"SELECT {sums} FROM step_trained WHERE stream = 'training-{training(0)}'"
        return median(5, lambda: con.execute(query).fetchall())


def history(api: Api, each: int, floor: float) -> None:
    path = f"trainings/{training(0)}/metrics"
    rows = api.get(path, points=2_000)["data"]
    kept = [sum((row[shown(name)] or 0) > SPIKE / 2 for row in rows) for name in SPIKED]
    print(f"  {len(rows):,} rows; of {SPIKES} spikes in each metric there are {min(kept)} to {max(kept)}")
    asked: dict[str, dict[str, Any]] = {
        f"2,000 points of all {len(METRICS)} metrics": {"points": 2_000},
        "2,000 points of one metric": {"points": 2_000, "fields": "loss"},
        "zoom to 100,000 steps": {"points": 2_000, "from_step": each // 2, "to_step": each // 2 + 99_999},
        "the last 20 steps": {"limit": 20, "order": "desc"},
    }
    for name, query in asked.items():
        tell(name, median(7, lambda query=query: api.get(path, **query)), floor)
    tell("the last 50 log lines", median(7, lambda: api.get(f"trainings/{training(0)}/logs", limit=50)), floor)


def tell(name: str, took: float, floor: float) -> None:
    print(f"  {name:36} {took:8.1f} ms   {took / floor:5.2f} × the full scan ({floor:.0f} ms)", flush=True)


def shown(metric: str) -> str:
    return "l0_sparsity" if metric == "l0_fraction" else metric


def replay(address: ServerAddress, count: int, format: str, floor: float) -> None:
    url = f"{address.websocket(FOLLOW_PATH)}?after=0&format={format}"
    with connect(url, **{**address.options(), "max_size": None}) as connection:
        seen, began = 0, time.perf_counter()
        marker = b'"position":' if format == "json" else b"\xa8position"
        while seen < count:
            data = connection.recv(decode=False)
            seen += data.count(marker)
        took = time.perf_counter() - began
    print(f"  {seen:,} events as {format}: {seen / took:,.0f} a second   {took / seen * 1e9 / floor:.1f} × encoding")


def rebuild(api: Api, pid: int) -> None:
    began = time.perf_counter()
    job = api.post("maintenance/rebuild")
    while job["status"] == "running":
        time.sleep(0.2)
        job = api.get(f"maintenance/{job['id']}")
    took = time.perf_counter() - began
    print(f"  {job['status']} after {took:.1f} s; the server's memory was {peak_memory(pid):,} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=8)
    options = parser.parse_args()
    encoding = encode_floor(steps(20_000))
    print(f"msgspec encoding alone: {1e9 / encoding:,.0f} steps/s")
    with tempfile.TemporaryDirectory(prefix="saestudio-scale-") as folder:
        data_dir = Path(folder)
        database = data_dir / "log.duckdb"
        began = time.perf_counter()
        each = options.events // options.runs
        fill(database, options.events, options.runs)
        print(f"{options.events:,} steps of {options.runs} training(s), {time.perf_counter() - began:.0f} s to write")
        floor = scan_floor(database)
        began = time.perf_counter()
        with server_on(data_dir) as (_, pid):
            took = time.perf_counter() - began
            print(f"first start, folding everything: {took:.1f} s; {peak_memory(pid):,} MiB at most")
        print(f"disk: {database.stat().st_size / options.events:.0f} bytes a step, projections included")
        command = [sys.executable, "-c", "import core.server.serve"]
        bare = median(3, lambda: subprocess.run(command, check=True)) / 1e3
        began = time.perf_counter()
        with server_on(data_dir) as (address, pid), Api(address) as api:
            took = time.perf_counter() - began
            print(f"start to the first answer: {took:.2f} s   {took / bare:.1f} × importing it ({bare:.2f} s)")
            print(f"history of a training of {each:,} steps")
            history(api, each, floor)
            print("replay")
            for format in ("msgpack", "json"):
                replay(address, min(1_000_000, options.events), format, encoding)
            print("rebuild")
            rebuild(api, pid)


if __name__ == "__main__":
    main()
