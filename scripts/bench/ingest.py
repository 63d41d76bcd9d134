#!/usr/bin/env python
"""How many steps a second come from `emit()` to durable and projected, over the real socket, and how fast they are.

    scripts/bench/ingest.py [--steps 1000000] [--producers 1] [--rate 1000] [--seconds 10]

First one producer emits at a given rate: how long until the log has acknowledged an event, and until a follower has it.
(After the other the log would still be moving into its file what has come.) Then producers emit all they can; they and
the server are processes of their own. The floor beside it is MessagePack encoding alone, in one process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from serving import cpu_seconds, encode_floor, server, steps

from events.client import Follower, ServerAddress
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.spool import hold
from events.streams import TRAINING


def produce(url: str, folder: Path, count: int) -> None:
    """One producer: emits `count` steps and waits until all are acknowledged."""
    training = new_id()
    created = TrainingCreated(name="ingest benchmark")
    lock = hold(folder / training)
    emitter = Emitter(folder / training, training, address=lambda: ServerAddress(url), created=created)
    events = steps(1_000)
    while not emitter.connected:
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        emitter.emit(events[number % 1_000])
    emitted = time.perf_counter() - began
    if not emitter.flush(600):
        raise SystemExit("Not everything was acknowledged within 10 minutes.")
    print(f"{emitted} {time.perf_counter() - began} {time.process_time() - cpu}", flush=True)
    emitter.close(0)
    lock.release()


def throughput(url: str, folder: Path, count: int, producers: int, floor: float, pid: int) -> None:
    share = count // producers
    command = [sys.executable, __file__, "--produce", url, str(folder), str(share)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(producers)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    figures = [child.communicate()[0].split() for child in children]
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    if any(len(each) != 3 for each in figures):
        raise SystemExit("A producer failed.")
    rates = [share / float(each[1]) for each in figures]
    rate = share * producers / max(float(each[1]) for each in figures)
    print(
        f"{producers} producer(s), {share * producers:,} steps: {rate:,.0f} steps/s durable and projected"
        f" ({seconds:.1f} s; emitted after {max(float(each[0]) for each in figures):.1f} s;"
        f" slowest producer {min(rates):,.0f}/s; {1e9 / rate / floor:.1f} times the encoding floor)"
    )
    own = sum(float(each[2]) for each in figures)
    print(f"processor time a step: producers {own / count * 1e6:.1f} µs, server {cpu / count * 1e6:.1f} µs")


def latency(url: str, folder: Path, rate: float, seconds: float, pid: int) -> None:
    training = new_id()
    created = TrainingCreated(name="latency benchmark")
    lock = hold(folder / training)
    emitter = Emitter(folder / training, training, address=lambda: ServerAddress(url), created=created)
    while not emitter.connected:
        time.sleep(0.01)
    count = int(rate * seconds)
    emitted, acknowledged, followed = [0.0] * (count + 1), [0.0] * (count + 1), [0.0] * (count + 1)
    follower = Follower(url, stream=TRAINING + training)

    def follow() -> None:
        for recorded in follower:
            followed[recorded.version] = time.perf_counter()

    def watch() -> None:
        seen = 0
        while seen < count:
            now, version = time.perf_counter(), emitter.acknowledged
            for each in range(seen + 1, version + 1):
                acknowledged[each] = now
            seen = version
            time.sleep(0.0005)

    threads = [threading.Thread(target=follow), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    while not follower.caught_up:
        time.sleep(0.01)
    events = steps(1_000)
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    for number in range(1, count + 1):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        emitted[number] = time.perf_counter()
        emitter.emit(events[number % 1_000])
    share = (cpu_seconds(pid) - cpu) / (time.perf_counter() - began)
    print(f"{rate:g} steps/s, one by one: the server takes {share:.0%} of a core")
    emitter.flush(60)
    deadline = time.monotonic() + 10
    while not followed[count] and time.monotonic() < deadline:
        time.sleep(0.01)
    follower.close()
    for thread in threads:
        thread.join()
    emitter.close(0)
    lock.release()
    for name, arrived in (("acknowledged", acknowledged), ("a follower has it", followed)):
        times = sorted((there - here) * 1_000 for there, here in zip(arrived[1:], emitted[1:], strict=True))
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        print(f"{rate:g} steps/s, emitted → {name:17}: p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")


def main() -> None:
    if sys.argv[1:2] == ["--produce"]:
        produce(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=1_000_000)
    arguments.add_argument("--producers", type=int, default=1)
    arguments.add_argument("--rate", type=float, default=1_000, help="steps a second for the latencies; 0: none")
    arguments.add_argument("--seconds", type=float, default=10)
    options = arguments.parse_args()
    floor = encode_floor(steps(20_000))
    print(f"msgspec encoding alone: {1e9 / floor:,.0f} steps/s")
    with server() as (address, data_dir, pid):
        folder = data_dir / "trainings"
        if options.rate:
            latency(address.url, folder, options.rate, options.seconds, pid)
        throughput(address.url, folder, options.steps, options.producers, floor, pid)


if __name__ == "__main__":
    main()
