#!/usr/bin/env python
"""Every architecture with its defaults on the demo model, beside a PCA of as many directions as latents are wanted.

    .venv/bin/python scripts/bench/demo_model.py [--steps 1200] [--batch 1024] [--l0 16]
        [--architectures skip,transcoder]

The autoencoders train side by side on the middle layer's residual stream, the transcoders by themselves from its MLP's
input to its output. Figures are those of the last evaluation, on held-out text; the PCA is fitted to the very
activations that it is judged on. `affine` is what a map without latents leaves unexplained.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch

from core.activations.models import LanguageModel, load_model
from core.activations.reading import ActivationReader
from core.activations.tokens import TokenRows, open_rows
from core.catalogue import BUILTIN_DATASETS, BUILTIN_MODELS
from core.config_rules import resolve
from core.run import RunSpec
from core.training.control import Wishes
from core.training.reporting import Progress, Troubles
from core.training.trainer import Trainer
from events.control import TrainingCreated
from events.event import Event, now_us
from events.ids import new_id
from events.training import EvaluationMade, TrainingConfig, TrainingStarted

CPU = torch.device("cpu")
COUNTED = ("topk", "batchtopk", "matryoshka")
AUTOENCODERS = (*COUNTED, "jumprelu", "gated", "standard")
TRANSCODERS = ("transcoder", "skip")
MODEL = BUILTIN_MODELS[0]
TOKENS = 65_536
"""Held-out tokens that the PCA is fitted to."""


def sparsity(architecture: str, options: argparse.Namespace) -> dict[str, Any]:
    """What asks for the wanted L0; everything else is left at its default."""
    if architecture in COUNTED or architecture in TRANSCODERS:
        return {"k": options.l0}
    return {"target_l0": options.l0 / (16 * (MODEL.hidden_dim or 0))}


def train(data_dir: Path, options: argparse.Namespace, **fields: Any) -> tuple[TrainingStarted, list[EvaluationMade]]:
    config = resolve(
        TrainingConfig(
            model=MODEL.model_id,
            datasets=("stdlib",),
            total_steps=options.steps,
            batch_size=options.batch,
            eval_interval=0,
            checkpoint_interval=0,
            device="cpu",
            **fields,
        ),
        MODEL,
    )
    told: list[Event] = []

    def emit(event: Event, _: int | None) -> None:
        if isinstance(event, TrainingStarted | EvaluationMade):
            told.append(event)

    spec = RunSpec(
        id=new_id(),
        name="benchmark",
        config=config,
        model=MODEL,
        datasets=BUILTIN_DATASETS,
        data_dir=data_dir,
        created_at=now_us(),
        created=TrainingCreated(name="benchmark", config=config, launcher="external"),
    )
    folder = data_dir / "trainings" / spec.id
    Trainer(spec, folder, emit, Wishes(), Progress(io.StringIO()), Troubles(emit)).run()
    (started,) = (event for event in told if isinstance(event, TrainingStarted))
    return started, [event for event in told if isinstance(event, EvaluationMade)]


def rows_of(lm: LanguageModel, config: TrainingConfig, cache: Path, split: Literal["train", "held-out"]) -> TokenRows:
    """The tokens of the demo's data set, as the trainer reads them."""
    return open_rows(
        lm,
        BUILTIN_DATASETS,
        split=split,
        context_size=min(config.context_size or lm.facts.context_size, lm.facts.context_size),
        cache=cache,
        data_seed=config.data_seed,
        weights=config.dataset_weights,
        progress=lambda *_: None,
    )


@torch.no_grad()
def principal(data_dir: Path, started: TrainingStarted, rank: int) -> float:
    """FVU of the best `rank` directions on held-out activations of the first SAE's hook."""
    assert started.config is not None
    config, (sae, *_) = started.config, started.saes
    lm = load_model(MODEL.source, revision=None, dtype=config.model_dtype, device=CPU)
    rows = rows_of(lm, config, data_dir / "tokens", "held-out")
    reader, found = ActivationReader(lm, rows, [(sae.layer, sae.hook)]), []
    for number in range(rows.available(TOKENS // rows.context_size) // reader.rows_per_pass):
        found += reader.read(number).values()
    x = torch.cat(found).double()
    values = torch.linalg.eigvalsh((x - x.mean(dim=0)).T @ (x - x.mean(dim=0)))
    return float(values[:-rank].sum() / values.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--batch", type=int, default=1_024)
    parser.add_argument("--l0", type=int, default=16)
    parser.add_argument("--architectures", default=",".join((*AUTOENCODERS, *TRANSCODERS)))
    options = parser.parse_args()
    asked = options.architectures.split(",")
    autoencoders = [name for name in AUTOENCODERS if name in asked]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        if autoencoders:
            variants = tuple({"architecture_type": one, **sparsity(one, options)} for one in autoencoders)
            began = time.process_time()
            started, made = train(data_dir, options, variants=variants)
            print(f"PCA of rank {options.l0}: FVU {principal(data_dir, started, options.l0):.3f}", flush=True)
            for name, event in zip(autoencoders, made, strict=True):
                tell(name, event)
            print(f"({time.process_time() - began:.0f} s of processor time)")
        for name in (name for name in TRANSCODERS if name in asked):
            _, (event,) = train(data_dir, options, architecture_type=name, **sparsity(name, options))
            tell(name, event)


def tell(name: str, event: EvaluationMade) -> None:
    assert event.fvu is not None
    assert event.l0 is not None
    dead = event.dead_latents / sum(event.density_histogram)
    affine = (
        "" if event.fvu_affine is None else f"  of affine {event.fvu_affine:.3f}: {event.fvu / event.fvu_affine:.3f}"
    )
    recovered = "" if event.loss_recovered is None else f"  recovered {event.loss_recovered:.3f}"
    print(f"{name:11} FVU {event.fvu:.3f}  L0 {event.l0:5.2f}  dead {dead:6.2%}{recovered}{affine}", flush=True)


if __name__ == "__main__":
    main()
