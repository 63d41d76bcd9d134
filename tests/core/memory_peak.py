"""Run as a process: takes three steps of one SAE and prints the most memory that they needed, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch

from core.config_rules import resolve
from core.sae.normalisation import Ends, Normalisation, Scaled
from core.training.student import Student
from events.catalog import ModelRegistered
from events.training import TrainingConfig

MODEL = ModelRegistered(
    model_id="m", source="m", family="gpt2", hidden_dim=256, layers=4, hooks=("resid_post", "mlp_in", "mlp_out"),
    context_size=64, parameters=1,
)  # fmt: skip


def kilobytes(name: str) -> int:
    """What the system says of this process' memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


def take_steps(config: TrainingConfig, tokens: int) -> Student:
    """An SAE after three steps."""
    scaled = Scaled(Normalisation("none", 1.0, 256.0, 0.0), torch.zeros(256))
    transcoder = config.architecture_type in ("transcoder", "skip")
    target = Scaled(*scaled) if transcoder else scaled
    source, given = (0, "mlp_in"), (0, "mlp_out")
    cpu = torch.device("cpu")
    student = Student.new(config, source, Ends(scaled, target), cpu, target=given if transcoder else None)
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(tokens, 256, generator=generator) for _ in range(2))
    for step in range(1, 4):
        student.step({source: x, given: t}, step, 1e-3)
    return student


def main() -> None:
    """`memory_peak.py CONFIG`: a configuration as JSON."""
    config = resolve(msgspec.json.decode(sys.argv[1], type=TrainingConfig), MODEL)
    # What libraries take once, whatever is trained.
    take_steps(msgspec.structs.replace(config, latent_dim=64, k=4 if config.k else None), 64)
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    student = take_steps(config, config.batch_size)
    print((kilobytes("VmHWM") - before) * 1024, student.parameters())


if __name__ == "__main__":
    main()
