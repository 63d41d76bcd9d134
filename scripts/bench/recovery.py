#!/usr/bin/env python
"""Whether an SAE finds the features of a world that is known: every architecture, several seeds (FeatRec-S).

    .venv/bin/python scripts/bench/recovery.py [--architectures topk,gated] [--seeds 0,1,2] [--steps 3000]

Beside each figure stands the least that it must be in the mean over the seeds. Chance is 0.378.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, NamedTuple

import torch
from featrec import SMALL, World, mean_cosine, normalised

from core.sae.normalisation import Ends
from core.training.student import Student, rate
from events.training import TrainingConfig

L0 = 8.6 / 512
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"k": 9},
    "batchtopk": {"k": 9, "share_latents_after": 0.8},
    "matryoshka": {"k": 9, "share_latents_after": 0.8},
    "standard": {"target_l0": L0},
    "gated": {"target_l0": L0},
    "jumprelu": {"target_l0": L0, "initial_threshold": 0.02, "bandwidth": 0.1},
}
LEAST = {"topk": 0.88, "gated": 0.81, "jumprelu": 0.82, "standard": 0.77, "batchtopk": 0.70, "matryoshka": 0.55}


class Recovered(NamedTuple):
    """How well features were found, and what the SAE does on activations that it never saw."""

    mcc: float
    l0: float
    explained: float
    dead: int


def recover(architecture: str, steps: int, seed: int, factor: float = 1.0) -> Recovered:
    """Train on the world of `seed`, its activations times `factor`."""
    world = World(SMALL, seed)
    sample = factor * world.activations(torch.Generator().manual_seed(1), 8192)
    scale, centre = normalised(sample)
    config = TrainingConfig(
        architecture_type=architecture,  # type: ignore[arg-type]
        latent_dim=512,
        total_steps=steps,
        batch_size=SMALL.batch,
        learning_rate=5e-3,
        warmup_steps=steps // 20,
        decay_steps=steps // 5,
        dead_token_threshold=10_000,
        seed=seed,
        **ARCHITECTURES[architecture],
    )
    student = Student.new(config, (0, "resid_post"), Ends.same(scale, centre), torch.device("cpu"))
    for step in range(1, steps + 1):
        student.step({student.pair: factor * world.batch(step)}, step, rate(config, step))
    return _evaluated(student, world, factor)


def _evaluated(student: Student, world: World, factor: float) -> Recovered:
    fired = torch.zeros(student.sae.latents, dtype=torch.int64)
    error, raws = 0.0, []
    for number in range(40):
        generator = torch.Generator().manual_seed(2_000_000_011 + 7919 * world.seed + number)
        raw = factor * world.activations(generator, 1024)
        output, code = student.reconstruct(raw)
        fired.index_add_(0, code.active.col, (code.values > 0).to(torch.int64))
        error += float((raw - output).square().sum())
        raws.append(raw)
    seen = torch.cat(raws)
    return Recovered(
        mcc=mean_cosine(student.sae.W_dec.detach(), world.directions),
        l0=float(fired.sum()) / len(seen),
        explained=1 - error / float((seen - seen.mean(dim=0)).square().sum()),
        dead=int((fired == 0).sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=3_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.architectures.split(","):
        found: list[Recovered] = []
        for seed in map(int, options.seeds.split(",")):
            began = time.process_time()
            found.append(one := recover(name, options.steps, seed))
            print(
                f"{name:11} seed {seed}: MCC {one.mcc:.3f}  L0 {one.l0:5.2f}  EV {one.explained:.3f}  dead {one.dead:3}"
                f"  ({time.process_time() - began:.0f} s of processor time)",
                flush=True,
            )
        mean = statistics.mean(one.mcc for one in found)
        print(f"{name:11} mean MCC {mean:.3f} (must be above {LEAST[name]:.2f})\n", flush=True)


if __name__ == "__main__":
    main()
