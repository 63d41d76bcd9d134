#!/usr/bin/env python
"""What one training step of an SAE costs, over the five dense products that it would take without a sparse code: 2
forward and 3 backward, 10·n·F operations a token.

    .venv/bin/python scripts/bench/sae_step.py [--width 512] [--latents 4096] [--batch 1024] [--l0 32]
    .venv/bin/python scripts/bench/sae_step.py [--saelens PYTHON] [--sparsify PYTHON]
    .venv/bin/python scripts/bench/sae_step.py --device cuda [--width 2048] [--latents 32768] [--batch 8192]

On the CPU: one thread, forward, backward and optimiser; the median of the steps after a warm-up, beside the floor of
the same run, measured between them. The penalised architectures are measured on the L0 that they are told, once they
have come near it. Transcoders give what they read in another order. With `--saelens` or `--sparsify`, an interpreter
that has the library, what its own step takes stands beside it.

On CUDA: tokens and operations a second in bfloat16, with dense and with sparse products, and their share of the largest
rate of bare bfloat16 products on this card; and whether a step waits for the device. Every 8 steps one does: it reads
which latents are dead.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import sae_peers
import torch
from sae_peers import data, floor
from torch import Tensor

from core.sae.normalisation import Ends, Normalisation, Scaled
from core.sae.recipe import Firing
from core.training.student import Pair, Student
from events.training import TrainingConfig

MUST = {
    "topk": 0.40,
    "batchtopk": 0.45,
    "standard": 0.45,
    "jumprelu": 0.50,
    "skip": 0.50,
    "transcoder": 0.50,
    "matryoshka": 0.55,
    "gated": 0.65,
}
"""Most that a step on the CPU may take, over its floor."""

TRANSCODERS = ("skip", "transcoder")
SOURCE: Pair = (0, "mlp_in")
TARGET: Pair = (0, "mlp_out")


def configuration(architecture: str, options: argparse.Namespace, dtype: str = "float32") -> TrainingConfig:
    fields: dict[str, Any] = {"target_l0": options.l0 / options.latents}
    if architecture in ("topk", "batchtopk", "matryoshka", *TRANSCODERS):
        fields = {"k": options.l0}
    if architecture in TRANSCODERS:
        fields["activation"] = "batchtopk"
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
        dtype=dtype,  # type: ignore[arg-type]
        seed=0,
        **fields,
    )


class Learning:
    """An SAE of `architecture` and the batches that it learns from, on `device`."""

    def __init__(
        self, architecture: str, options: argparse.Namespace, device: torch.device, dtype: str = "float32"
    ) -> None:
        sample = data(options.width, options.batch, 0).to(device)
        self._number = 0
        self._student = _student(configuration(architecture, options, dtype), sample, device)
        self._batches = [_pair(data(options.width, options.batch, number).to(device)) for number in range(8)]

    def step(self) -> Tensor:
        """One step; its L0, still on the device."""
        self._number += 1
        return self._student.step(self._batches[self._number % 8], self._number, 1e-3)[4]

    def settle(self, options: argparse.Namespace) -> None:
        """Go on until L0 is near what is wanted, `options.settle` steps at most."""
        while self._number < options.settle:
            if float(self.step()) <= 1.15 * options.l0 and self._number > 20:
                break

    def use(self, products: str) -> None:
        """Have the products `dense` or `sparse`."""
        self._student.sae.sparse = products == "sparse"

    @property
    def reads(self) -> bool:
        """Whether the next step looks which latents are dead."""
        return (self._number + 1) % Firing.REFRESH == 0


def _pair(x: Tensor) -> dict[Pair, Tensor]:
    return {SOURCE: x, TARGET: x.flip(1)}


def _student(config: TrainingConfig, sample: Tensor, device: torch.device) -> Student:
    def scaled(x: Tensor) -> Scaled:
        variance = float((x - x.mean(dim=0)).square().sum(dim=1).mean())
        return Scaled(Normalisation("none", 1.0, variance, 0.0), x.mean(dim=0))

    found = _pair(sample)
    read, given = scaled(found[SOURCE]), scaled(found[TARGET])
    if config.architecture_type in TRANSCODERS:
        return Student.new(config, SOURCE, Ends(read, given), device, target=TARGET)
    return Student.new(config, SOURCE, Ends(read, read), device)


def measure(architecture: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Processor seconds of a step and of the floor, and the L0 that they were measured at."""
    learning = Learning(architecture, options, torch.device("cpu"))
    learning.settle(options)
    steps: list[float] = []
    floors: list[float] = []
    l0 = 0.0
    for number in range(options.steps):
        began = time.process_time()
        found = learning.step()
        steps.append(time.process_time() - began)
        l0 = float(found)
        if number % 4 == 0:
            floors.append(floor(options.width, options.latents, options.batch))
    return statistics.median(steps), statistics.median(floors), l0


def of_peer(library: str, python: str, architecture: str, options: argparse.Namespace) -> float:
    """Processor seconds of a step of another library."""
    sizes = map(str, (options.width, options.latents, options.batch, options.l0, max(8, options.steps // 4)))
    command = [python, str(Path(sae_peers.__file__)), library, architecture, *sizes]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(said.splitlines()[-1])


def on_cpu(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    print(f"width {options.width}, {options.latents} latents, batch {options.batch}, L0 {options.l0}, one thread")
    for architecture in options.architectures:
        step, bare, l0 = measure(architecture, options)
        print(
            f"{architecture:11} {1e3 * step:7.1f} ms a step   floor {1e3 * bare:6.1f} ms   {step / bare:5.2f} × floor"
            f"   (at most {MUST[architecture]:.2f})   at L0 {l0:.0f}",
            end="",
            flush=True,
        )
        for library, architectures in sae_peers.LIBRARIES.items():
            python = getattr(options, library)
            if python and architecture in architectures:
                peer = of_peer(library, python, architecture, options)
                print(f"   {library} {peer / bare:5.2f} × floor, {peer / step:4.1f} × ours", end="", flush=True)
        print(flush=True)


def seconds(device: torch.device, run: Any, times: int) -> float:
    """Seconds that `run()` takes `device` in the mean of `times`, without waiting in between."""
    torch.cuda.synchronize(device)
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(times):
        run()
    ended.record()
    torch.cuda.synchronize(device)
    return began.elapsed_time(ended) / 1e3 / times


def peak(device: torch.device) -> float:
    """Operations a second of bare bfloat16 products, the largest of three sizes."""
    rates: list[float] = []
    for size in (4_096, 8_192, 16_384):
        left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        seconds(device, lambda a=left, b=right: a @ b, 3)
        rates.append(2 * size**3 / seconds(device, lambda a=left, b=right: a @ b, 10))
    return max(rates)


def waits(learning: Learning) -> str:
    """Whether a step other than those that look for dead latents waits for the device, and why."""
    for _ in range(Firing.REFRESH):
        if learning.reads:
            learning.step()
            continue
        torch.cuda.set_sync_debug_mode("error")
        try:
            learning.step()
        except RuntimeError as error:
            return f"a step waits for the device ({str(error).splitlines()[0]})"
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "no step waits"


def on_cuda(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    most = peak(device)
    print(
        f"{torch.cuda.get_device_name(device)}: {most / 1e12:.0f} TFLOP/s of bare products; width {options.width},"
        f" {options.latents} latents, batch {options.batch}, L0 {options.l0}, bfloat16"
    )
    for architecture in options.architectures:
        learning = Learning(architecture, options, device, "bfloat16")
        learning.settle(options)
        for products in ("dense", "sparse"):
            learning.use(products)
            try:
                seconds(device, learning.step, 5)
                step = seconds(device, learning.step, options.steps)
            except RuntimeError as error:
                print(f"{architecture:11} {products:6} not on this device: {str(error).splitlines()[0]}", flush=True)
                continue
            done = 10 * options.width * options.latents * options.batch / step
            print(
                f"{architecture:11} {products:6} {options.batch / step:11,.0f} tokens/s   {done / 1e12:6.1f} TFLOP/s"
                f" {done / most:6.1%} of the card's   at L0 {float(learning.step()):.0f}   {waits(learning)}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    for library in sae_peers.LIBRARIES:
        parser.add_argument(f"--{library}", metavar="PYTHON", help=f"an interpreter that has {library}, for comparison")
    parser.add_argument("--architectures", default=",".join(MUST))
    parser.add_argument("--width", type=int, help="of the activations (512; on CUDA 2,048)")
    parser.add_argument("--latents", type=int, help="(4,096; on CUDA 32,768)")
    parser.add_argument("--batch", type=int, help="tokens (1,024; on CUDA 8,192)")
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--settle", type=int, default=1_500, help="steps in which L0 may come near what is wanted")
    options = parser.parse_args()
    options.architectures = options.architectures.split(",")
    cpu = options.device == "cpu"
    for name, small, large in (("width", 512, 2_048), ("latents", 4_096, 32_768), ("batch", 1_024, 8_192)):
        if getattr(options, name) is None:
            setattr(options, name, small if cpu else large)
    (on_cpu if cpu else on_cuda)(options)


if __name__ == "__main__":
    main()
