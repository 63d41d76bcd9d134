#!/usr/bin/env python
"""Whether variants cost one pass through the model and their own steps: processor time of one and of eight.

    .venv/bin/python scripts/bench/variants.py [--steps 60] [--variants 8]

The trainer's loop on the demo model, one thread. The ratio is that of all variants side by side to one pass and as many
steps as there are variants; beside it what they would take one after another, a pass each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from demo_model import CPU, MODEL, rows_of
from torch import Tensor

from core.activations.buffer import ActivationBuffer
from core.activations.models import LanguageModel, load_model
from core.activations.reading import ActivationReader
from core.activations.statistics import measure
from core.config_rules import resolve
from core.training.beginning import all_read, new_students
from core.training.loop import Loop
from core.training.student import Pair
from events.training import TrainingConfig

WARM_UP = 5


def quiet(*_: object) -> None:
    """Takes what nobody wants to hear."""


class Timed:
    """A source of batches that counts the processor time that they take."""

    def __init__(self, source: ActivationBuffer) -> None:
        self._source = source
        self.seconds = 0.0

    def next_batch(self) -> Mapping[Pair, Tensor]:
        began = time.process_time()
        batch = self._source.next_batch()
        self.seconds += time.process_time() - began
        return batch

    def state(self) -> dict[str, Any]:
        return self._source.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._source.restore(state)


def run(lm: LanguageModel, cache: Path, count: int, steps: int) -> tuple[float, float]:
    """Processor seconds a step of `count` variants: for their activations, and for what is done with them."""
    config = resolve(
        TrainingConfig(
            model=MODEL.model_id,
            datasets=("stdlib",),
            total_steps=steps + WARM_UP,
            batch_size=1_024,
            latent_dim=2_048,
            variants=tuple({"k": 16, "seed": number} for number in range(count)),
        ),
        MODEL,
    )
    reader = ActivationReader(lm, rows_of(lm, config, cache, "train"), all_read(config))
    total = config.total_steps * config.batch_size
    students = new_students(config, measure(reader, total_tokens=total, progress=quiet), CPU)
    source = Timed(
        ActivationBuffer(
            reader, batch_size=config.batch_size, total_tokens=total, data_seed=config.data_seed, progress=quiet
        )
    )
    loop = Loop(config, source, students, CPU, quiet)
    for _ in range(WARM_UP):
        loop.advance()
    # The buffer reads ahead before its first batch: what all batches took, over all of them.
    began, read = time.process_time(), source.seconds
    for _ in range(steps):
        loop.advance()
    spent, during = time.process_time() - began, source.seconds - read
    return source.seconds / (steps + WARM_UP), (spent - during) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--variants", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lm = load_model(MODEL.source, revision=None, dtype="float32", device=CPU)
    with tempfile.TemporaryDirectory(prefix="saestudio-bench-") as folder:
        one_pass, one_step = run(lm, Path(folder), 1, options.steps)
        passes, steps = run(lm, Path(folder), options.variants, options.steps)
    together, wanted = passes + steps, one_pass + options.variants * one_step
    apart = options.variants * (one_pass + one_step)
    print(f"one: {1e3 * one_pass:.1f} ms a step for its activations, {1e3 * one_step:.1f} ms for learning")
    print(
        f"{options.variants} variants: {1e3 * passes:.1f} ms a step for their activations, {1e3 * steps:.1f} ms for"
        " learning"
    )
    print(
        f"together {1e3 * together:.1f} ms: {together / wanted:.2f} × one pass and {options.variants} steps,"
        f" {together / apart:.2f} × one after another"
    )


if __name__ == "__main__":
    main()
