"""What a training step of another library costs the processor, for `sae_step.py --saelens PYTHON --sparsify PYTHON`.

Runs in the interpreter that has the library, which need not have anything of ours: so it imports nothing of it. A step
is what the library's own trainer does on one batch: forward pass, which latents fired, backward, what it does to
gradients, and Adam.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARIES = {
    "saelens": ("topk", "batchtopk", "standard", "jumprelu", "matryoshka", "gated"),
    "sparsify": ("topk", "skip", "transcoder"),
}
"""What can be measured of which library."""

Step = Callable[[Tensor], None]


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


def _sae(architecture: str, width: int, latents: int, k: int) -> Any:
    import sae_lens

    shared = {"d_in": width, "d_sae": latents, "dtype": "float32", "device": "cpu"}
    if architecture == "standard":
        return sae_lens.StandardTrainingSAE(sae_lens.StandardTrainingSAEConfig(**shared))
    if architecture == "gated":
        return sae_lens.GatedTrainingSAE(sae_lens.GatedTrainingSAEConfig(**shared))
    if architecture == "jumprelu":
        return sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**shared))
    if architecture == "batchtopk":
        return sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**shared, k=k))
    if architecture == "matryoshka":
        widths = [latents // 16, latents // 4, latents // 2, latents]
        return sae_lens.MatryoshkaBatchTopKTrainingSAE(
            sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(**shared, k=k, matryoshka_widths=widths)
        )
    return sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(**shared, k=k))


def saelens(architecture: str, width: int, latents: int, k: int) -> Step:
    """A step of SAELens."""
    from sae_lens.saes.sae import TrainStepInput

    sae = _sae(architecture, width, latents, k)
    sae.train()
    adam = torch.optim.Adam(sae.parameters(), lr=1e-3, betas=(0.9, 0.999))
    coefficients = {name: getattr(value, "value", value) for name, value in sae.get_coefficients().items()}
    since = torch.zeros(latents)

    def step(x: Tensor) -> None:
        found = sae.training_forward_pass(
            TrainStepInput(
                sae_in=x,
                coefficients=coefficients,
                dead_neuron_mask=since > 1_000,
                n_training_steps=0,
                is_logging_step=False,
            )
        )
        with torch.no_grad():
            fired = found.feature_acts.bool().float().sum(-2).bool()
            fired = fired.to_dense() if fired.is_sparse else fired
            since.add_(1)
            since[fired] = 0
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return step


def sparsify(architecture: str, width: int, latents: int, k: int) -> Step:
    """A step of sparsify with Adam; transcoders give what they read in another order."""
    from sparsify import SparseCoder, SparseCoderConfig

    transcode = architecture != "topk"
    coder = SparseCoder(
        width,
        SparseCoderConfig(num_latents=latents, k=k, transcode=transcode, skip_connection=architecture == "skip"),
    )
    adam = torch.optim.Adam(coder.parameters(), lr=1e-3)
    since = torch.zeros(latents, dtype=torch.long)

    def step(x: Tensor) -> None:
        if not transcode:
            coder.set_decoder_norm_to_unit_norm()
        found = coder(x, x.roll(1, -1) if transcode else None, dead_mask=since > 1_000 * len(x))
        fired = torch.zeros(latents, dtype=torch.bool)
        fired[found.latent_indices.flatten()] = True
        found.fvu.backward()
        if not transcode:
            coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        since.add_(len(x))
        since[fired] = 0

    return step


def measure(step: Step, width: int, batch: int, steps: int) -> float:
    """Processor seconds of a step, the median of `steps` after a few."""
    batches = [data(width, batch, number) for number in range(8)]
    times: list[float] = []
    for number in range(steps + 5):
        began = time.process_time()
        step(batches[number % 8])
        times.append(time.process_time() - began)
    return statistics.median(times[5:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    library, name, *sizes = sys.argv[1:]
    wide, many, at_once, active, count = map(int, sizes)
    made = (saelens if library == "saelens" else sparsify)(name, wide, many, active)
    print(measure(made, wide, at_once, count))
