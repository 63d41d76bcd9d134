"""Run as a process: takes three steps of one SAE on the device of its configuration and prints the most bytes that its
tensors held."""

from __future__ import annotations

import sys

import msgspec
import torch
from torch.profiler import ProfilerActivity, profile

from core.config_rules import resolve
from core.sae.normalisation import Ends, Normalisation, Scaled
from core.training.student import Student
from events.catalog import ModelRegistered
from events.training import TrainingConfig

MODEL = ModelRegistered(
    model_id="m", source="m", family="gpt2", hidden_dim=256, layers=4, hooks=("resid_post", "mlp_in", "mlp_out"),
    context_size=64, parameters=1,
)  # fmt: skip


def take_steps(config: TrainingConfig, tokens: int) -> Student:
    """An SAE after three steps."""
    device = torch.device(config.device)
    scaled = Scaled(Normalisation("none", 1.0, 256.0, 0.0), torch.zeros(256, device=device))
    transcoder = config.architecture_type in ("transcoder", "skip")
    target = Scaled(*scaled) if transcoder else scaled
    source, given = (0, "mlp_in"), (0, "mlp_out")
    student = Student.new(config, source, Ends(scaled, target), device, target=given if transcoder else None)
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(tokens, 256, generator=generator).to(device) for _ in range(2))
    for step in range(1, 4):
        student.step({source: x, given: t}, step, 1e-3)
    return student


def main() -> None:
    """`memory_peak.py CONFIG`: a configuration as JSON."""
    config = resolve(msgspec.json.decode(sys.argv[1], type=TrainingConfig), MODEL)
    if config.device.startswith("cuda"):
        student = take_steps(config, config.batch_size)
        print(torch.cuda.max_memory_allocated(), student.parameters())
        return
    # Of what tensors hold, not of the process: what else a process takes is another from machine to machine.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        student = take_steps(config, config.batch_size)
    held = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    print(most, student.parameters())


if __name__ == "__main__":
    main()
