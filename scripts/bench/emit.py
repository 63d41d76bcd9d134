#!/usr/bin/env python
"""What `emit()` costs a training loop: microseconds a call, without a server and with one that takes everything.

    scripts/bench/emit.py [--events 200000] [--rate 1000] [--seconds 5]

Each call is timed by itself, the clock included. The floor beside it is MessagePack encoding alone, measured in the
same way: a loop that sleeps finds cold caches, and so does whatever it calls.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from serving import encode_floor, server, steps

from events.client import ServerAddress
from events.control import TrainingCreated
from events.emitter import Emitter
from events.event import Event
from events.ids import new_id
from events.spool import hold


def percentile(sorted_times: list[int], share: float) -> float:
    """In µs."""
    return sorted_times[min(len(sorted_times) - 1, int(len(sorted_times) * share))] / 1_000


def report(name: str, times: list[int], floor: float) -> None:
    times.sort()
    p50, p99, p999 = (percentile(times, share) for share in (0.5, 0.99, 0.999))
    print(
        f"{name:44} p50 {p50:6.2f} µs   p99 {p99:7.2f} µs   p99.9 {p999:8.1f} µs   max {times[-1] / 1e6:6.2f} ms"
        f"   p50 / encoding {p50 * 1_000 / floor:4.1f}"
    )


def tight(emit: Callable[[Event], object], events: list[Event], count: int) -> list[int]:
    clock = time.perf_counter_ns
    times: list[int] = []
    for number in range(count):
        event = events[number % len(events)]
        began = clock()
        emit(event)
        times.append(clock() - began)
    return times


def paced(emit: Callable[[Event], object], events: list[Event], rate: float, seconds: float) -> list[int]:
    """One call every 1/rate seconds; in between the loop sleeps, as one that waits for a GPU does."""
    clock = time.perf_counter_ns
    times: list[int] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        event = events[number % len(events)]
        start = clock()
        emit(event)
        times.append(clock() - start)
    return times


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=200_000, help="calls in a row")
    arguments.add_argument("--rate", type=float, default=1_000, help="calls a second, where they are paced")
    arguments.add_argument("--seconds", type=float, default=5, help="how long they are paced")
    options = arguments.parse_args()
    events: list[Event] = list(steps(1_000))
    floor = encode_floor(steps(20_000))
    print(f"{'msgspec encoding alone, its best':44} p50 {floor / 1_000:6.2f} µs")
    encode = msgspec.msgpack.Encoder().encode
    report("msgspec encoding alone, in a row", tight(encode, events, options.events), floor)
    report(f"msgspec encoding alone, {options.rate:g}/s", paced(encode, events, options.rate, options.seconds), floor)

    def measure(name: str, folder: Path, address: Callable[[], ServerAddress | None]) -> None:
        training = new_id()
        lock = hold(folder / training)
        emitter = Emitter(folder / training, training, address=address, created=TrainingCreated(name="emit benchmark"))
        if not emitter.durable:
            print("(this file system is not one to map: the last milliseconds are at stake when the process dies)")
        report(f"{name}, {options.events:,} in a row", tight(emitter.emit, events, options.events), floor)
        report(f"{name}, {options.rate:g}/s", paced(emitter.emit, events, options.rate, options.seconds), floor)
        emitter.close(60 if address() else 0)
        lock.release()

    with tempfile.TemporaryDirectory(prefix="saestudio-bench-") as folder:
        measure("no server", Path(folder), lambda: None)
    with server() as (address, data_dir, _):
        measure("server that takes everything", data_dir / "trainings", lambda: address)


if __name__ == "__main__":
    main()
