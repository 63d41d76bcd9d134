"""What architectures share: initialisation, unit decoder rows, dead latents and what revives them."""

from __future__ import annotations

import torch
from torch import Tensor


def random_directions(count: int, width: int, seed: int) -> Tensor:
    """`count` random unit rows (count, width), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)


def tied_scale(output: Tensor, centred: Tensor) -> Tensor:
    """The factor a that brings a decoder's first output closest to its target: <r, x> / <r, r>.

    `output (B, m)` is the decoder's output without its bias at a = 1, `centred (B, m)` the input less that bias.
    1 where the decoder says nothing. In the spirit of openai/sparse_autoencoder's `init_from_data_`.
    """
    square = output.square().sum()
    return torch.where(square > 0, (output * centred).sum() / square.clamp_min(1e-30), 1.0)


def project_rows_(gradient: Tensor, rows: Tensor) -> None:
    """Remove from each row of `gradient (F, m)` its part along the unit `rows (F, m)`, in place (Bricken et al. 2023):
    it would only change a norm that is reset after the step."""
    gradient.addcmul_((gradient * rows).sum(dim=1, keepdim=True), rows, value=-1)


def normalise_rows_(rows: Tensor) -> None:
    """Give every row of `rows (F, m)` norm 1, in place. After the step, for Adam's update is not tangent."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))


class Firing:
    """When each latent last fired, in tokens.

    A latent is dead when it has not fired for more than `dead_after` tokens. `since (F)` counts tokens since it last
    fired, `counts (F)` how often it ever has; `dead (n_dead)` lists the dead ones as of the last `refresh`, int64 all.
    """

    REFRESH = 8
    """Steps between refreshes of `dead`: its length is the only thing that the host reads from the device."""

    def __init__(self, latents: int, dead_after: int, device: torch.device) -> None:
        self.dead_after = dead_after
        self.since = torch.zeros(latents, dtype=torch.int64, device=device)
        self.counts = torch.zeros(latents, dtype=torch.int64, device=device)
        self.dead = torch.zeros(0, dtype=torch.int64, device=device)

    def refresh(self) -> None:
        """List the dead latents anew."""
        self.dead = (self.since > self.dead_after).nonzero().flatten()

    def record(self, hits: Tensor, tokens: int) -> None:
        """`tokens` tokens passed, for `hits (F)` int64 of which each latent fired."""
        # Anew rather than in place: a step that did not fit into memory is taken again from what was before.
        self.counts = self.counts + hits
        self.since = torch.where(hits > 0, 0, self.since + tokens)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"since": self.since, "counts": self.counts, "dead": self.dead}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors()` gave."""
        device = self.since.device
        self.since = tensors["since"].to(device)
        self.counts = tensors["counts"].to(device)
        self.dead = tensors["dead"].to(device)

    def count_dead(self) -> Tensor:
        """Number of dead latents now, a scalar on the device."""
        return (self.since > self.dead_after).sum()


def draw_by_error(error: Tensor, count: int, seed: int) -> Tensor:
    """`count` different tokens, drawn in proportion to the squares of their `error (B)`, a squared norm each
    (Bricken et al. 2023): their numbers, at most as many as have any error. Waits for the device."""
    weight = error.double().square().cpu()
    weight = torch.where(torch.isfinite(weight), weight, 0.0)
    count = min(count, int((weight > 0).sum()))
    if count == 0:
        return torch.zeros(0, dtype=torch.int64, device=error.device)
    drawn = torch.multinomial(weight, count, generator=torch.Generator().manual_seed(seed))
    return drawn.to(error.device)


def auxiliary_latents(width: int, k: int) -> int:
    """How many dead latents a token may use: min(n/2, k). Many weak helpers each stay too small to win a place."""
    return max(1, min(width // 2, k))


def auxiliary_loss(residual: Tensor, reconstruction: Tensor, share: float, spread: Tensor | None = None) -> Tensor:
    """How badly the dead latents explain what the live ones left over: mean‖e - e_aux‖² / mean‖e - mean e‖² · share
    (Gao et al. 2024, A.2).

    `residual (B, m)` is detached by the caller; `reconstruction (B, m)` is made by dead latents, without the decoder's
    bias. A batch without any residual has loss 0. Of a part of a batch, `spread` is Σ‖e - mean e‖² over the whole.
    """
    if spread is None:
        spread = (residual - residual.mean(dim=0)).square().sum()
    return share * (residual - reconstruction).square().sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny)
