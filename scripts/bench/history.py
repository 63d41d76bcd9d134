"""How long a page waits for its history: the queries of `projections` on a log of many steps.

    .venv/bin/python scripts/bench/history.py [--steps 1000000] [--saes 1] [--lines 200000]

Times are medians of a few runs. Machines differ and are busy, so each is also given as a multiple of the plainest
full scan of the same columns (`sum` of every metric), which no way of reading them can beat by much.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from events import tables
from events.batch import ENVELOPE, FIELDS, Batch
from events.control import TrainingCreated
from events.event import Recorded
from events.training import TrainingConfig
from projections import logs, metrics, trainings
from projections.evaluations import Evaluations
from projections.logs import Line, Logs
from projections.metrics import METRICS, STEPS, Metrics
from projections.trainings import Trainings

ID = "0bench00000000"
AT_ONCE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--saes", type=int, default=1)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        con = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "2GB"})
        con.execute(f"ATTACH '{Path(folder) / 'log.duckdb'}' AS log")
        con.execute("USE log")
        began = time.perf_counter()
        fill(con, options.steps, options.saes, options.lines)
        print(f"{options.steps:,} steps of {options.saes} SAE(s), {options.lines:,} log lines:", end=" ")
        print(f"{time.perf_counter() - began:.1f} s to fill and fold\n")
        measure(con, options.steps, options.runs)
        con.execute(f"INSERT INTO preempted VALUES ('training-{ID}', {options.steps // 2}, {options.steps * 6 // 10})")
        print("\nafter a resume from the middle")
        measure(con, options.steps, options.runs)
        con.close()


def fill(con: DuckDBPyConnection, steps: int, saes: int, lines: int) -> None:
    """A log in which one training has made so many steps, and its projections."""
    tables.create(con)
    folds = (Metrics(), Trainings(), Evaluations(), Logs())
    for each in folds:
        each.create(con)
    created = TrainingCreated(name="bench", config=TrainingConfig(model="demo", total_steps=steps))
    envelope = {"position": 1, "version": 1, "occurred_at": 1, "recorded_at": 1}
    cold = [Recorded(stream=f"control-{ID}", type="TrainingCreated", data=created, **envelope)]
    Trainings().fold(con, Batch(1, 1, cold, [b""], {}))
    columns = FIELDS["StepTrained"]
    random = np.random.default_rng(0)
    rows = steps * saes
    for start in range(0, rows, AT_ONCE):
        index = np.arange(start, min(rows, start + AT_ONCE))
        values: dict[str, Any] = {c.name: random.normal(1, 0.1, len(index)) for c in columns}
        values |= {"step": index // saes + 1, "sae": index % saes, "tokens": index // saes * 4_096}
        values |= {"dead_latents": random.integers(0, 4_096, len(index)), "device_memory": index * 0 + 2**33}
        values |= dict.fromkeys(("position", "version"), index + 2)
        values |= dict.fromkeys(("occurred_at", "recorded_at"), 1700000000000000 + index * 10000)
        values["stream"] = [f"training-{ID}"] * len(index)
        chosen = (*ENVELOPE, *columns)
        table = pa.table([pa.array(values[c.name]).cast(c.arrow) for c in chosen], [c.name for c in chosen])
        batch = Batch(start + 2, start + 1 + len(index), [], [], {"StepTrained": table})
        tables.insert(con, batch)
        for each in folds:
            each.fold(con, batch)
    for start in range(0, lines, AT_ONCE):
        made = [
            Line(ID, n + 1, n + 2, n, 20, "INFO", "core.training.loop", f"step {n}  loss {random.random():.6f}")
            for n in range(start, min(lines, start + AT_ONCE))
        ]
        Logs().tables[0].insert(con, made, lambda position, reason: print(position, reason))
    con.execute("CHECKPOINT log")


def measure(con: DuckDBPyConnection, steps: int, runs: int) -> None:
    """Prints each query's time, its rows, and the multiple of the plain scan's time."""
    sums = ", ".join(f"sum({column})" for column in METRICS.values())

    def history(**query: Any) -> Callable[[], int]:
        return lambda: metrics.history(con, ID, **query).num_rows

    queries: dict[str, Callable[[], int]] = {
        f"full scan: sum of {len(METRICS)} metrics": lambda: (
            con.sql(f"SELECT {sums} FROM {STEPS} WHERE stream = 'training-{ID}'").to_arrow_table().num_rows
        ),
        f"history, 1,000 points of {len(METRICS)} metrics": history(points=1_000),
        f"history, 2,000 points of {len(METRICS)} metrics": history(points=2_000),
        "history, 1,000 points of 1 metric": history(points=1_000, fields=["loss"]),
        "zoom to a tenth, 1,000 points": history(points=1_000, from_step=steps * 2 // 10, to_step=steps * 3 // 10),
        "first 1,000 steps": history(),
        "last 20 steps": history(limit=20, order="desc"),
        "last 50 log lines": lambda: len(logs.lines(con, ID)),
        "search of the whole log, 1 hit": lambda: len(logs.lines(con, ID, q="STEP 777 ")),
        "search of the whole log, many hits": lambda: len(logs.lines(con, ID, q="loss")),
        "one training": lambda: int(trainings.get(con, ID) is not None),
        "list of trainings": lambda: len(trainings.list_(con)[0]),
    }
    plain = None
    for name, query in queries.items():
        times: list[float] = []
        rows = 0
        for _ in range(runs):
            began = time.perf_counter()
            rows = query()
            times.append(time.perf_counter() - began)
        median = statistics.median(times)
        plain = plain or median
        print(f"  {name:44} {1e3 * median:8.1f} ms  {median / plain:6.2f} × scan  {rows:>7,} rows")


if __name__ == "__main__":
    main()
