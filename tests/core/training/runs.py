"""Run folders for real trainings on the demo model, with a corpus small enough for a test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from core.catalogue import BUILTIN_MODELS
from core.config_rules import resolve
from core.run import RunSpec, write
from core.server.adoption import adopt_folder
from events.catalog import DatasetRegistered, ModelRegistered
from events.control import TrainingCreated
from events.event import Event, now_us
from events.ids import new_id
from events.memory import MemoryStore
from events.streams import TRAINING
from events.training import StepTrained, TrainingConfig, TrainingResumed

_SMALL: dict[str, Any] = {
    "datasets": ("tiny",),
    "training_layers": (1, 2),
    "hook_types": ("resid_post",),
    "context_size": 64,
    "latent_dim": 256,
    "k": 8,
    "batch_size": 256,
    "total_steps": 20,
    "checkpoint_interval": 5,
    "checkpoints_kept": 2,
    "eval_interval": 0,
    "log_interval": 10,
    "dead_token_threshold": 1500,
    "device": "cpu",
}


def corpus(folder: Path) -> DatasetRegistered:
    """Sources of a few modules of the standard library, as JSONL."""
    path = folder / "tiny.jsonl"
    library = Path(sysconfig.get_path("stdlib"))
    with path.open("w", encoding="utf-8") as lines:
        for file in sorted(library.glob("*.py"))[:12]:
            text = file.read_text("utf-8", "replace")
            for start in range(0, min(len(text), 40_000), 4_000):
                lines.write(json.dumps({"text": text[start : start + 4_000]}) + "\n")
    return DatasetRegistered(dataset_id="tiny", source=str(path), format="jsonl", text_column="text")


def small_model(folder: Path) -> ModelRegistered:
    """A random GPT-2 of width 32 with the demo model's tokenizer: much quicker to read than that."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    demo = BUILTIN_MODELS[0]
    shutil.copytree(demo.source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=3, n_head=2, n_positions=64, vocab_size=demo.vocab_size)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return msgspec.structs.replace(
        demo, model_id="small", source=str(folder), hidden_dim=32, layers=3, context_size=64, parameters=None
    )


def specification(data_dir: Path, model: ModelRegistered = BUILTIN_MODELS[0], **changed: Any) -> RunSpec:
    """A training in `data_dir`; `changed` are fields of its configuration."""
    data_dir.mkdir(parents=True, exist_ok=True)
    config = resolve(TrainingConfig(**{**_SMALL, "model": model.model_id, **changed}), model)
    return RunSpec(
        id=new_id(),
        name="A test",
        config=config,
        model=model,
        datasets=(corpus(data_dir),),
        data_dir=data_dir,
        created_at=now_us(),
        created=TrainingCreated(name="A test", config=config, launcher="external"),
    )


def run_folder(data_dir: Path, **changed: Any) -> Path:
    """The run folder of a new training in `data_dir`."""
    spec = specification(data_dir, **changed)
    folder = data_dir / "trainings" / spec.id
    write(folder, spec)
    return folder


@contextlib.contextmanager
def trainer(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A trainer process, with its progress lines on stdout; it does not outlive the block."""
    with (
        (folder / "stderr.log").open("a") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "core.training", str(folder), "--progress", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


class Log:
    """A log that takes in what the trainers of a run folder left, as the server would."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def events(self, folder: Path) -> list[Event]:
        """Everything that the trainers of `folder` have told so far."""
        adopt_folder(self._store, folder)
        return [recorded.data for recorded in self._store.read_stream(TRAINING + folder.name, limit=1_000_000)]


def history(told: list[Event]) -> list[StepTrained]:
    """The steps that count, without what depends on the machine's speed: a resume preempts the steps after its own."""
    steps: list[StepTrained] = []
    for event in told:
        if isinstance(event, TrainingResumed):
            steps = [step for step in steps if step.step <= event.step]
        elif isinstance(event, StepTrained):
            steps.append(msgspec.structs.replace(event, tokens_per_second=0.0))
    return steps
