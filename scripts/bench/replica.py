#!/usr/bin/env python
"""How fast a replica fills from a server's log, how far it lags behind, and what typical questions take.

    scripts/bench/replica.py [--steps 2000000] [--rate 1000] [--seconds 10] [--folder DIR] [make fill ask lag harm]

The floor of the fill is writing the same columns into a DuckDB file, without server, folds and checkpoints. With a
folder its parts can be run one after the other: what one has made is there for the next.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pyarrow as pa
from serving import server_on, steps

from events import tables
from events.batch import ENVELOPE, FIELDS
from events.client import ServerAddress
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.spool import hold
from events.store import EventStore
from events.streams import Append
from events.training import TrainingConfig
from projections.replica import Replica

PARTS = ("make", "fill", "ask", "lag", "harm")
TRAININGS = 10
AT_ONCE = 100_000

QUESTIONS = {
    "steps of every training": "SELECT training, max(step), count(*) FROM metrics GROUP BY ALL",
    "last loss of every training": "SELECT training, arg_max(loss, step) FROM metrics GROUP BY ALL",
    "dead latents by thousand steps": "SELECT training, step // 1000, max(dead_latents) FROM metrics GROUP BY ALL",
    "steps until fvu < 0.2": "SELECT training, min(step) FROM metrics WHERE fvu < 0.2 GROUP BY ALL",
    "throughput by minute": "SELECT date_trunc('minute', timestamp), avg(tokens_per_second) FROM metrics GROUP BY ALL",
    "quantiles of a loss": "SELECT training, quantile_cont(loss, [0.1, 0.5, 0.9]) FROM metrics GROUP BY ALL",
    "one training, last 1,000 steps": "SELECT * FROM metrics WHERE training = $id ORDER BY step DESC LIMIT 1000",
    "correlation of l0 and fvu": "SELECT training, corr(l0, fvu) FROM metrics GROUP BY ALL",
    "spikes of the gradient": "SELECT training, step, grad_norm FROM metrics ORDER BY grad_norm DESC LIMIT 20",
    "events by type": "SELECT type, count(*) FROM events GROUP BY ALL",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where log and replica are kept (default: nowhere)")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="what is done (default: all)")
    options = parser.parse_args()
    parts_ = options.parts or PARTS
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary)
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        if "make" in parts_:
            make(data / "log.duckdb", options.steps)
        floor = options.steps / write_alone(folder / "floor.duckdb", options.steps) if "fill" in parts_ else None
        if set(parts_) <= {"make"}:
            return
        with server_on(data) as (address, _):
            if set(parts_) & {"fill", "ask", "lag"}:
                follow(address, folder, parts_, floor, options)
            if "harm" in parts_:
                harm(address, Path(temporary), options.rate, options.seconds)


def follow(
    address: ServerAddress, folder: Path, parts_: Sequence[str], floor: float | None, options: argparse.Namespace
) -> None:
    """Fills a replica, or goes on with the one that is there, and asks it."""
    database = folder / "replica.duckdb"
    if "fill" in parts_:
        database.unlink(missing_ok=True)
    replica = Replica(address, database, config={"threads": 2, "memory_limit": "1GB"})
    began = time.perf_counter()
    with replica:
        while not replica.wait(timeout=1):
            pass
        seconds = time.perf_counter() - began
        if floor is not None:
            rate = replica.position / seconds
            print(f"first fill: {replica.position:,} events in {seconds:.1f} s, {rate:,.0f} events/s, ", end="")
            print(f"{rate / floor:.2f} × writing the columns alone")
        if "ask" in parts_:
            ask(replica)
        if "lag" in parts_:
            with tempfile.TemporaryDirectory() as spool:
                lag(address, replica, Path(spool), options.rate, options.seconds)


def make(database: Path, count: int) -> None:
    """A log in which ten trainings have made so many steps."""
    ids = [new_id() for _ in range(TRAININGS)]
    with EventStore.open(database) as store:
        for training in ids:
            created = TrainingCreated(name="bench", config=TrainingConfig(model="demo", total_steps=count))
            store.append(Append(f"control-{training}", [created])).result()
        head = store.head
    with duckdb.connect(str(database)) as con:
        for table in parts(ids, head, count):
            tables.execute_with(con, "INSERT INTO step_trained BY NAME SELECT * FROM rows", table)
    database.with_name(database.name + ".head").unlink()


def parts(ids: list[str], head: int, count: int) -> Any:
    random = np.random.default_rng(0)
    columns = (*ENVELOPE, *FIELDS["StepTrained"])
    for start in range(0, count, AT_ONCE):
        index = np.arange(start, min(count, start + AT_ONCE))
        values: dict[str, Any] = {c.name: random.normal(1, 0.3, len(index)) for c in columns}
        number = index // TRAININGS + 1
        values |= {"step": number, "version": number, "sae": index * 0, "tokens": number * 4_096}
        values |= {"dead_latents": random.integers(0, 4_096, len(index)), "device_memory": index * 0 + 2**33}
        values |= {"position": index + head + 1, "stream": [f"training-{ids[i % TRAININGS]}" for i in index.tolist()]}
        values |= dict.fromkeys(("occurred_at", "recorded_at"), 1_700_000_000_000_000 + index * 1_000)
        yield pa.table([pa.array(values[c.name]).cast(c.arrow, safe=False) for c in columns], [c.name for c in columns])


def write_alone(database: Path, count: int) -> float:
    """Seconds that writing the columns takes."""
    database.unlink(missing_ok=True)
    tables_ = list(parts(["a"] * TRAININGS, 0, count))
    began = time.perf_counter()
    with duckdb.connect(str(database), config={"threads": 2}) as con:
        tables.create(con)
        for table in tables_:
            tables.execute_with(con, "INSERT INTO step_trained BY NAME SELECT * FROM rows", table)
    return time.perf_counter() - began


def ask(replica: Replica) -> None:
    with replica.snapshot() as (con, _):
        (id,) = con.execute("SELECT training FROM trainings ORDER BY total_steps DESC LIMIT 1").fetchall()[0]
    for name, question in QUESTIONS.items():
        times: list[float] = []
        for _ in range(5):
            with replica.snapshot() as (con, _):
                began = time.perf_counter()
                con.execute(question, {"id": id} if "$id" in question else None).fetchall()
                times.append(1e3 * (time.perf_counter() - began))
        print(f"{name:32} {statistics.median(times):7.0f} ms")


def lag(address: ServerAddress, replica: Replica, folder: Path, rate: int, seconds: int) -> None:
    """How long after `emit` an event is in the replica, at so many a second."""
    training = new_id()
    lock = hold(folder / training)
    created = TrainingCreated(name="lag")
    emitter = Emitter(folder / training, training, address=lambda: address, created=created)
    events = steps(1_000)
    # The creation and the claim come first.
    while not emitter.connected:
        time.sleep(0.01)
    before = replica.position
    emitted: list[float] = []
    seen: list[float] = []

    def watch() -> None:
        while len(seen) < rate * seconds:
            replica.wait(before + len(seen) + 1, 5)
            now = time.perf_counter()
            seen.extend([now] * (replica.position - before - len(seen)))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    start = time.perf_counter()
    for number in range(rate * seconds):
        while time.perf_counter() < start + number / rate:
            time.sleep(0.0005)
        emitted.append(time.perf_counter())
        emitter.emit(events[number % 1_000])
    emitter.flush(60)
    watching.join(60)
    emitter.close(0)
    lock.release()
    lags = sorted(1e3 * (there - made) for made, there in zip(emitted, seen, strict=False))
    middle, late = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    print(f"at {rate:,} steps/s: emit to replica p50 {middle:.0f} ms, p99 {late:.0f} ms")


HEAVY = (
    "SELECT count(*) FROM (SELECT loss, row_number() OVER (ORDER BY loss) AS r FROM metrics)",
    "SELECT count(DISTINCT hash(a.loss, b.step)) FROM metrics a JOIN metrics b USING (step)",
    "SELECT training, quantile_cont(loss, [0.01, 0.5, 0.99]), stddev(fvu) FROM metrics GROUP BY training, step // 10",
    "SELECT length(string_agg(md5(position::VARCHAR), '')) FROM metrics",
)


def harm(address: ServerAddress, folder: Path, rate: int, seconds: int) -> None:
    """What four heavy questions, asked over and over, do to the time until an event is acknowledged."""
    with httpx.Client(base_url=address.url, timeout=120, trust_env=False) as client:
        while client.post("/api/v1/sql", json={"statement": "SELECT 1"}).status_code != 200:
            time.sleep(0.2)
    idle = acknowledged(address, folder / "idle", rate, seconds)
    over = threading.Event()
    counts: list[int] = []

    def ask_on(statement: str) -> None:
        with httpx.Client(base_url=address.url, timeout=120, trust_env=False) as client:
            while not over.is_set():
                counts.append(client.post("/api/v1/sql", json={"statement": statement, "seconds": 5}).status_code)

    askers = [threading.Thread(target=ask_on, args=[statement], daemon=True) for statement in HEAVY]
    for each in askers:
        each.start()
    busy = acknowledged(address, folder / "busy", rate, seconds)
    over.set()
    for each in askers:
        each.join(30)
    said = ", ".join(f"{counts.count(status)} × {status}" for status in sorted(set(counts)))
    for name, times in (("idle", idle), ("with four heavy questions", busy)):
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"acknowledged, {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    print(f"p99 is {busy[len(busy) * 99 // 100] / idle[len(idle) * 99 // 100]:.1f} × that of idle; answers: {said}")


def acknowledged(address: ServerAddress, folder: Path, rate: int, seconds: int) -> list[float]:
    """Milliseconds from an append over the socket to its acknowledgement, sorted; ten steps an append."""
    training = new_id()
    lock = hold(folder / training)
    emitter = Emitter(folder / training, training, address=lambda: address, created=TrainingCreated(name="harm"))
    while not emitter.connected:
        time.sleep(0.01)
    events = steps(1_000)
    times: list[float] = []
    start = time.perf_counter()
    for number in range(rate * seconds // 10):
        while time.perf_counter() < start + 10 * number / rate:
            time.sleep(0.0005)
        began = time.perf_counter()
        for event in events[:10]:
            emitter.emit(event)
        emitter.flush(60)
        times.append(1e3 * (time.perf_counter() - began))
    emitter.close(0)
    lock.release()
    return sorted(times)


if __name__ == "__main__":
    main()
