#!/usr/bin/env python
"""What telling of its steps costs a training: processor time of emitting and sending beside that of learning.

    .venv/bin/python scripts/bench/telemetry.py [--saes 1,24] [--steps 200]

The loop of the trainer on made-up activations of the demo's width, with the demo's latents and batch, its emitter
connected to a real server. No language model runs, which would make the steps dearer and the shares smaller. Each may
be 1 % of a step at most: what the emitter's threads take, and what `emit()` takes of the loop's own.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

import torch
from serving import server

from core.catalogue import BUILTIN_MODELS
from core.cli.train import DEMO
from core.sae.normalisation import Ends, Normalisation
from core.training.loop import Loop
from core.training.student import Pair, Student
from events.control import TrainingCreated
from events.emitter import Emitter
from events.event import Event
from events.ids import new_id
from events.spool import hold
from events.training import TrainingConfig

WIDTH = BUILTIN_MODELS[0].hidden_dim or 0
CPU = torch.device("cpu")
MOST = 0.01


class Rounds:
    """The same few batches again and again, one for all SAEs."""

    def __init__(self, pairs: list[Pair], batch: int) -> None:
        self._pairs = pairs
        self._batches = [torch.randn(batch, WIDTH) for _ in range(4)]
        self._served = 0

    def next_batch(self) -> dict[Pair, torch.Tensor]:
        self._served += 1
        return dict.fromkeys(self._pairs, self._batches[self._served % len(self._batches)])

    def state(self) -> dict[str, Any]:
        return {"served": self._served}

    def restore(self, state: dict[str, Any]) -> None:
        self._served = state["served"]


def threads_seconds() -> float:
    """Processor time so far of all threads but this one: those of the emitter and of its connection."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and thread.ident is not None
    )


def measure(saes: int, steps: int) -> tuple[float, float, float]:
    """Processor seconds a step: all that the loop's thread does, `emit()` alone, and the emitter's threads."""
    config = TrainingConfig(
        latent_dim=16 * WIDTH,
        k=DEMO["k"],
        total_steps=steps + 10,
        batch_size=DEMO["batch_size"],
        learning_rate=1e-3,
        warmup_steps=0,
        decay_steps=0,
        dead_token_threshold=1_000_000,
    )
    pairs: list[Pair] = [(layer, "resid_post") for layer in range(saes)]
    scale = Ends.same(Normalisation("none", 1.0, float(WIDTH), 0.0), torch.zeros(WIDTH))
    students = [Student.new(config, pair, scale, CPU) for pair in pairs]
    training, spent = new_id(), 0.0
    with server() as (address, data_dir, _):
        folder = data_dir / "trainings" / training
        lock = hold(folder)
        emitter = Emitter(folder, training, address=lambda: address, created=TrainingCreated(name="telemetry"))

        def emit(event: Event, occurred_at: int | None) -> None:
            nonlocal spent
            began = time.thread_time()
            emitter.emit(event, occurred_at)
            spent += time.thread_time() - began

        loop = Loop(config, Rounds(pairs, config.batch_size), students, CPU, emit)
        for _ in range(10):
            loop.advance()
        emitter.flush(30)
        spent, sending, learning = 0.0, threads_seconds(), time.thread_time()
        for _ in range(steps):
            loop.advance()
        emitter.flush(30)
        learning, sending = time.thread_time() - learning, threads_seconds() - sending
        emitter.close()
        lock.release()
    return learning / steps, spent / steps, sending / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saes", default="1,24")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for saes in map(int, options.saes.split(",")):
        learning, emitting, sending = measure(saes, max(20, options.steps // saes))
        print(
            f"{saes:3} SAEs: {1e3 * learning:8.2f} ms a step; emit() {1e6 * emitting:7.1f} µs,"
            f" {emitting / learning:.3%};"
            f" the emitter's threads {1e6 * sending:7.1f} µs, {sending / learning:.3%}   (at most {MOST:.0%} each)",
            flush=True,
        )


if __name__ == "__main__":
    main()
