#!/usr/bin/env python
"""What one training step of an SAE costs the processor, over the five dense products that it would take without a
sparse code: 2 forward and 3 backward, 10·n·F operations a token.

    .venv/bin/python scripts/bench/sae_step.py [--width 512] [--latents 4096] [--batch 1024] [--l0 32]

One thread, forward, backward and optimiser; the median of the steps after a warm-up, beside the floor of the same run,
measured between them. The penalised architectures are measured on the L0 that they are told, once they have reached it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from core.sae.normalisation import Ends, Normalisation
from core.training.student import Student
from events.training import TrainingConfig

MUST = {"topk": 0.40, "batchtopk": 0.45, "standard": 0.45, "jumprelu": 0.50, "matryoshka": 0.55, "gated": 0.65}


def floor(width: int, latents: int, batch: int) -> float:
    """Processor seconds of the five bare products."""
    x, w = torch.randn(batch, width), torch.randn(latents, width)
    f = torch.randn(batch, latents)
    began = time.process_time()
    _ = x @ w.T
    _ = f @ w
    _ = f.T @ x
    _ = f.T @ x
    _ = x @ w.T
    return time.process_time() - began


def data(width: int, batch: int, number: int) -> Tensor:
    """Activations with some structure: few of many directions at a time."""
    generator = torch.Generator().manual_seed(number)
    directions = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    code = torch.rand(batch, 4 * width, generator=generator) * (
        torch.rand(batch, 4 * width, generator=generator) < 0.02
    )
    return code @ directions + 0.1 * torch.randn(batch, width, generator=generator)


def configuration(architecture: str, options: argparse.Namespace) -> TrainingConfig:
    fields: dict[str, Any] = {"target_l0": options.l0 / options.latents}
    if architecture in ("topk", "batchtopk", "matryoshka"):
        fields = {"k": options.l0}
    if architecture == "jumprelu":
        fields |= {"initial_threshold": 0.02, "bandwidth": 0.1}
    return TrainingConfig(
        architecture_type=architecture,  # type: ignore[arg-type]
        latent_dim=options.latents,
        batch_size=options.batch,
        total_steps=100_000,
        learning_rate=1e-3,
        warmup_steps=0,
        decay_steps=0,
        dead_token_threshold=10_000_000,
        seed=0,
        **fields,
    )


def measure(architecture: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Processor seconds of a step and of the floor, and the L0 that they were measured at."""
    config = configuration(architecture, options)
    sample = data(options.width, options.batch, 0)
    variance = float((sample - sample.mean(dim=0)).square().sum(dim=1).mean())
    scale = Normalisation("none", 1.0, variance, 0.0)
    student = Student.new(config, (0, "resid_post"), Ends.same(scale, sample.mean(dim=0)), torch.device("cpu"))
    batches = [{student.pair: data(options.width, options.batch, number)} for number in range(8)]
    l0 = float("inf")
    for step in range(1, options.settle + 1):
        l0 = float(student.step(batches[step % 8], step, 1e-3)[4])
        if step > 20 and l0 <= 1.6 * options.l0:
            break
    steps: list[float] = []
    floors: list[float] = []
    for number in range(options.steps):
        began = time.process_time()
        figures = student.step(batches[number % 8], options.settle + number + 1, 1e-3)
        steps.append(time.process_time() - began)
        l0 = float(figures[4])
        if number % 4 == 0:
            floors.append(floor(options.width, options.latents, options.batch))
    return statistics.median(steps), statistics.median(floors), l0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--latents", type=int, default=4_096)
    parser.add_argument("--batch", type=int, default=1_024)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--settle", type=int, default=600, help="steps in which L0 may come near what is wanted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"width {options.width}, {options.latents} latents, batch {options.batch}, L0 {options.l0}, one thread")
    for architecture, must in MUST.items():
        step, bare, l0 = measure(architecture, options)
        print(
            f"{architecture:11} {1e3 * step:7.1f} ms a step   floor {1e3 * bare:6.1f} ms   {step / bare:5.2f} × floor"
            f"   (at most {must:.2f})   at L0 {l0:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
