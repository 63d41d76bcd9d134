"""TopK: the k largest pre-activations of each token are its latents (Gao et al. 2024, arXiv 2406.04093).

    p = (x - b_dec) W_enc + b_enc;   f = relu(p) on the k largest of each token;   t_hat = f W_dec + b_dec
    L = mean‖x - t_hat‖² / V + alpha · L_aux

With free decoder rows the k are chosen by p_i·‖W_dec_i‖, so that folding the norms into the encoder changes nothing.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from events.training import TrainingConfig

from . import sparse
from .autoencoder import Losses, SparseAutoencoder
from .normalisation import Normalisation
from .recipe import (
    Firing,
    auxiliary_latents,
    auxiliary_loss,
    normalise_rows_,
    project_rows_,
    random_directions,
    tied_scale,
)


class TopK(SparseAutoencoder):
    """Parameters `W_enc (F, n)`, `b_enc (F)`, `W_dec (F, n)`, `b_dec (n)` in float32.

    `variance` is V of the inputs; `products` is what the step computes with: "sparse", "dense", or None for the
    faster one on the device. `matmul_dtype` bfloat16 rounds the factors of the dense products (the weights and sparse
    products stay as they are).
    """

    def __init__(
        self,
        *,
        width: int,
        latents: int,
        k: int,
        variance: float,
        dead_after: int,
        auxk_coefficient: float = 1 / 8,
        unit_decoder: bool = True,
        seed: int = 0,
        centre: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        matmul_dtype: torch.dtype | None = None,
        products: str | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= k <= latents:
            raise ValueError(f"k must lie between 1 and the number of latents, {latents}; got {k}.")
        device = torch.device(device)
        self.k = k
        self.variance = variance
        self.auxk_coefficient = auxk_coefficient
        self.unit_decoder = unit_decoder
        self.matmul_dtype = matmul_dtype
        self.sparse = sparse.is_fast_on(device) if products is None else products == "sparse"
        self.k_aux = auxiliary_latents(width, k)
        directions = random_directions(latents, width, seed).to(device=device, dtype=dtype)
        self.W_enc = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(latents, device=device, dtype=dtype))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))
        if centre is not None:
            self.b_dec.data.copy_(centre)
        self.firing = Firing(latents, dead_after, device)

    @classmethod
    def from_config(
        cls, config: TrainingConfig, normalisation: Normalisation, centre: Tensor, device: torch.device
    ) -> Self:
        """Raises ValueError where a field has no value that only the server's rules would have filled in."""
        latents, k, dead_after = config.latent_dim, config.k, config.dead_token_threshold
        if latents is None or k is None or dead_after is None:
            raise ValueError("latent_dim, k and dead_token_threshold must be set before training.")
        return cls(
            width=centre.shape[0],
            latents=latents,
            k=k,
            variance=normalisation.variance,
            dead_after=dead_after,
            auxk_coefficient=1 / 8 if config.auxk_coefficient is None else config.auxk_coefficient,
            unit_decoder=config.normalize_decoder is not False,
            seed=config.seed,
            centre=centre,
            device=device,
            matmul_dtype=torch.bfloat16 if config.dtype == "bfloat16" else None,
        )

    @property
    def wanted_l0(self) -> float:
        return self.k

    @torch.no_grad()
    def scale_encoder(self, x: Tensor) -> None:
        self.W_enc.mul_(tied_scale(self.reconstruct(x) - self.b_dec, x - self.b_dec))

    def losses(self, x: Tensor) -> Losses:
        tokens = x.shape[0]
        centred = x - self.b_dec.detach()
        p = self._pre_activations(centred)
        indices = self._choose(p.detach())
        f, output = self._sparse(p, centred, indices) if self.sparse else self._dense(p, indices)
        error = x - (output + self.b_dec)
        squares = error.square().sum()
        total = reconstruction = squares / (tokens * self.variance)
        auxiliary = torch.zeros_like(reconstruction)
        if self.auxk_coefficient > 0 and self.firing.dead.numel() > 0:
            auxiliary = self.auxk_coefficient * self._revive(p, centred, error.detach())
            total = reconstruction + auxiliary
        with torch.no_grad():
            fired = self.firing.record(indices.flatten(), f.flatten() > 0, tokens)
            spread = (x - x.mean(dim=0)).square().sum()
            return Losses(
                total=total,
                reconstruction=reconstruction.detach(),
                sparsity=torch.zeros_like(spread),
                auxiliary=auxiliary.detach(),
                l0=fired / tokens,
                fvu=squares.detach() / spread,
                dead=self.firing.count_dead(),
            )

    def before_update(self) -> None:
        if self.unit_decoder and self.W_dec.grad is not None:
            project_rows_(self.W_dec.grad, self.W_dec.data)

    def after_update(self) -> None:
        if self.unit_decoder:
            normalise_rows_(self.W_dec.data)

    @torch.no_grad()
    def active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self._pre_activations(x - self.b_dec)
        indices = self._choose(p)
        return torch.relu(p.gather(1, indices)).to(x.dtype), indices

    @torch.no_grad()
    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        if self.sparse:
            active = sparse.Active.of_rows(indices, self.latents)
            return sparse.decode(values.flatten(), self.W_dec, active) + self.b_dec
        return self._product(values, indices, self.W_dec) + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """Inference: the output (B, n) for `x (B, n)`."""
        return self.decode(*self.active(x))

    def _pre_activations(self, centred: Tensor) -> Tensor:
        if self.sparse:
            # Only the active entries need a gradient, and `sparse.encode` gives it to them.
            with torch.no_grad(), self._rounded():
                return linear(centred, self.W_enc, self.b_enc)
        # Adds zeros, but carries the gradient of b_dec: -(sum over the batch of dp) W_enc, reduced before the product.
        shift = (self.b_dec - self.b_dec.detach()) @ self.W_enc.detach().T
        with self._rounded():
            return linear(centred, self.W_enc, self.b_enc - shift)

    def _choose(self, p: Tensor) -> Tensor:
        rank = p if self.unit_decoder else p * self.W_dec.detach().norm(dim=1)
        return rank.topk(self.k, dim=1, sorted=False).indices

    def _sparse(self, p: Tensor, centred: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Latents at `indices (B, j)` and their output (B, n) without the bias, with gradients."""
        active = sparse.Active.of_rows(indices, self.latents)
        values = p.gather(1, indices).flatten().to(centred.dtype)
        f = torch.relu(sparse.encode(values, centred, self.W_enc, self.b_enc, self.b_dec, active))
        return f, sparse.decode(f, self.W_dec, active)

    def _dense(self, p: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.relu(p.gather(1, indices)).to(self.W_dec.dtype)
        return f, self._product(f, indices, self.W_dec)

    def _product(self, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
        f = values.new_zeros(values.shape[0], weight.shape[0]).scatter(1, indices, values)
        with self._rounded():
            return (f @ weight).to(weight.dtype)

    def _revive(self, p: Tensor, centred: Tensor, residual: Tensor) -> Tensor:
        """The auxiliary loss: of relu(p) on the dead latents, the k_aux largest of each token explain the residual."""
        dead = self.firing.dead
        count = dead.numel()
        rank = p.detach()[:, dead]
        if not self.unit_decoder:
            rank = rank * self.W_dec.detach()[dead].norm(dim=1)
        places = rank.topk(min(self.k_aux, count), dim=1, sorted=False).indices
        if self.sparse:
            _, explained = self._sparse(p, centred, dead[places])
        else:
            f = torch.relu(p.gather(1, dead[places])).to(self.W_dec.dtype)
            explained = self._product(f, places, self.W_dec[dead])
        return auxiliary_loss(residual, explained, min(1.0, count / self.k_aux))

    def _rounded(self) -> torch.autocast:
        dtype = self.matmul_dtype
        return torch.autocast(self.W_enc.device.type, dtype=dtype, enabled=dtype is not None)
