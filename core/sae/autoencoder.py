"""What the training loop and the evaluation need of an architecture, and what the architectures compute alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NotRequired, Self, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from events.training import TrainingConfig

from . import sparse
from .normalisation import Ends
from .recipe import Firing, auxiliary_loss, normalise_rows_, project_rows_, random_directions, tied_scale


class Seen(NamedTuple):
    """What tokens showed that steps to come depend on.

    `hits (F)` int64 says how often each latent fired, `valid` whether the reconstruction was finite, `entries` how many
    of (B, F) had a gradient where products depend on that, `cut` the smallest value that was kept where a whole batch
    shares its latents.
    """

    hits: Tensor
    valid: Tensor
    entries: Tensor | None = None
    cut: Tensor | None = None

    def __add__(self, other: Seen) -> Seen:  # type: ignore[override]
        """Of both together, tokens of one batch."""
        entries = self.entries if other.entries is None or self.entries is None else self.entries + other.entries
        return Seen(self.hits + other.hits, self.valid & other.valid, entries, self.cut)


class Whole(NamedTuple):
    """The batch whose tokens are computed in parts, and what all of them decide together.

    `tokens` is their number, `spread` = Σ‖t - mean t‖² of their targets, `residual_spread` the same of what was left
    over (None: no latent is dead), `cut` and `coefficient` as in `Seen` and `Losses`.
    """

    tokens: int
    spread: Tensor
    residual_spread: Tensor | None = None
    cut: Tensor | None = None
    coefficient: Tensor | None = None


class Losses(NamedTuple):
    """Scalars of one batch, on the device and in units of FVU; `total` carries the gradient, the rest none.

    `l0` is the mean number of active latents per token, `fvu` = Σ‖e‖² / Σ‖x - mean x‖² over the batch, `dead` the
    number of dead latents after it, `coefficient` that of the sparsity penalty (None: the architecture has none). Of
    a part of a batch they are what it adds to the whole's.
    """

    total: Tensor
    reconstruction: Tensor
    sparsity: Tensor
    auxiliary: Tensor
    l0: Tensor
    fvu: Tensor
    dead: Tensor
    seen: Seen
    coefficient: Tensor | None = None

    def __add__(self, other: Losses) -> Losses:  # type: ignore[override]
        """Of two parts of a batch together, without gradient."""
        added = {
            name: getattr(self, name).detach() + getattr(other, name).detach()
            for name in ("total", "reconstruction", "sparsity", "auxiliary", "l0", "fvu")
        }
        return self._replace(**added, seen=self.seen + other.seen)


Parts = Sequence[tuple[Tensor, Tensor]]
"""A batch in parts: what is read (B, n) and what is to be given (B, m)."""


class Code(NamedTuple):
    """A batch in latents: `values (nnz)`, none negative, at the places of `active`, a pattern of shape (B, F)."""

    values: Tensor
    active: sparse.Active


class Shared(TypedDict):
    """What every architecture is made from.

    `width` is that of the output, m, `variance` V of what it is to be and `centre (m)` the mean of that; `unit_decoder`
    keeps decoder rows at norm 1, which start at `row_norm`; `source_centre (n)` is the mean of what a transcoder reads
    (None: it is none); `products` is what the step computes with: "sparse", "dense", or None for the faster one on the
    device.
    `matmul_dtype` bfloat16 rounds the factors of the dense products (the weights and sparse products stay as they are).
    """

    width: int
    latents: int
    variance: float
    dead_after: int
    unit_decoder: NotRequired[bool]
    row_norm: NotRequired[float]
    seed: NotRequired[int]
    centre: NotRequired[Tensor | None]
    source_centre: NotRequired[Tensor | None]
    device: NotRequired[torch.device | str]
    dtype: NotRequired[torch.dtype]
    matmul_dtype: NotRequired[torch.dtype | None]
    products: NotRequired[str | None]


def shared_settings(config: TrainingConfig, ends: Ends, device: torch.device) -> Shared:
    """What `config` says about all architectures.

    Raises ValueError where a field has no value that only the server's rules would have filled in.
    """
    latents, dead_after = config.latent_dim, config.dead_token_threshold
    if latents is None or dead_after is None:
        raise ValueError("latent_dim and dead_token_threshold must be set before training.")
    target = ends.target
    return Shared(
        width=target.centre.shape[0],
        latents=latents,
        variance=target.normalisation.variance,
        dead_after=dead_after,
        seed=config.seed,
        centre=target.centre,
        source_centre=None if target is ends.source else ends.source.centre,
        device=device,
        matmul_dtype=torch.bfloat16 if config.dtype == "bfloat16" else None,
    )


class SparseAutoencoder(nn.Module, ABC):
    """A trainable sparse autoencoder with pre-activations p = (x - b_dec) W_enc + b_enc and output f W_dec + b_dec.

    A transcoder (`core.sae.transcoder`) does not subtract b_dec, which belongs to the space of its output. Inputs
    (B, n) and outputs (B, m) are in normalised units, m = n but for transcoders. Parameters `W_enc (F, n)`,
    `b_enc (F)`, `W_dec (F, m)`, `b_dec (m)` in float32; the encoder starts as the decoder.
    """

    autoencoder: ClassVar[bool] = True
    """Whether it gives what it reads."""

    unclipped: ClassVar[tuple[str, ...]] = ()
    """Parameters that count neither in the gradient's norm nor in the clipping."""

    penalised: ClassVar[bool] = False
    """Whether the loss holds a sparsity penalty, and `Losses` its coefficient."""

    def __init__(
        self,
        *,
        width: int,
        latents: int,
        variance: float,
        dead_after: int,
        unit_decoder: bool = True,
        row_norm: float = 1.0,
        seed: int = 0,
        centre: Tensor | None = None,
        source_centre: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        matmul_dtype: torch.dtype | None = None,
        products: str | None = None,
    ) -> None:
        super().__init__()
        if (source_centre is None) != self.autoencoder:
            wrong = "another" if self.autoencoder else "its own"
            raise ValueError(f"{type(self).__name__} cannot give the activations of {wrong} hook.")
        device = torch.device(device)
        self.variance = variance
        self.unit_decoder = unit_decoder
        self.matmul_dtype = matmul_dtype
        self.sparse = sparse.is_fast_on(device) if products is None else products == "sparse"
        rows = random_directions(latents, width, seed).to(device=device, dtype=dtype) * row_norm
        self.W_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(latents, device=device, dtype=dtype))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))
        if centre is not None:
            self.b_dec.data.copy_(centre)
        self.firing = Firing(latents, dead_after, device)

    @classmethod
    @abstractmethod
    def from_config(cls, config: TrainingConfig, ends: Ends, device: torch.device) -> Self:
        """A new SAE on `device` for the activations that `ends` describes; `config` has its defaults filled in."""

    @classmethod
    def own_settings(cls, config: TrainingConfig) -> dict[str, Any]:
        """What it is made from besides what the classes it extends are made from.

        Raises ValueError where a field has no value that only the server's rules would have filled in.
        """
        return {}

    @property
    def rates(self) -> Mapping[str, float]:
        """By how much a parameter's learning rate is larger than that of the others."""
        return {}

    @property
    @abstractmethod
    def wanted_l0(self) -> float | None:
        """Active latents per token that the configuration asks for; None where it asks for no number."""

    @property
    def latents(self) -> int:
        """Number of latents, F."""
        return self.W_dec.shape[0]

    @torch.no_grad()
    def scale_encoder(self, x: Tensor) -> None:
        """Fit the encoder's scale to the first batch `x (B, n)`; once, before the first step."""
        if self.autoencoder:
            self.W_enc.mul_(tied_scale(self.reconstruct(x) - self.b_dec, x - self.b_dec))

    @abstractmethod
    def losses(self, x: Tensor, step: int, target: Tensor | None = None, whole: Whole | None = None) -> Losses:
        """Loss of a batch `x (B, n)`, that of training step `step` (from 1), whose output is to be `target (B, m)`
        (None: `x`); settles what it showed. Where `x` is a part of the batch `whole`, what it adds to that one's loss;
        what all parts showed is then for `settle`."""

    @torch.no_grad()
    def survey(self, parts: Parts, step: int) -> Whole:
        """What the batch that comes in `parts` decides as a whole, before any of them is learnt from."""
        tokens = sum(x.shape[0] for x, _ in parts)
        whole = Whole(tokens, spread(target for _, target in parts))
        if not self.revives or self.firing.dead.numel() == 0:
            return whole
        return whole._replace(residual_spread=self._residual_spread(parts, whole, step))

    def settle(self, seen: Seen, tokens: int, step: int) -> None:
        """Take note of what a whole batch of `tokens` tokens showed."""
        self.firing.record(seen.hits, tokens)

    @property
    def revives(self) -> bool:
        """Whether an auxiliary loss lets dead latents explain what the others leave over."""
        return False

    def _residual_spread(self, parts: Parts, whole: Whole, step: int) -> Tensor:
        """Σ‖e - mean e‖² of what step `step` leaves over of all `parts`."""
        return spread(target - self._as_trained(x, whole, step) for x, target in parts)

    def _as_trained(self, x: Tensor, whole: Whole, step: int) -> Tensor:
        """The output (B, m) that step `step` gives for a part `x` of `whole`."""
        return self.reconstruct(x)

    def before_update(self) -> None:
        """After the backward pass, before clipping."""
        if self.unit_decoder and self.W_dec.grad is not None:
            project_rows_(self.W_dec.grad, self.W_dec.data)

    def after_update(self) -> None:
        """After the optimiser's step."""
        if self.unit_decoder:
            normalise_rows_(self.W_dec.data)

    @abstractmethod
    def encode(self, x: Tensor) -> Code:
        """Inference: the latents of `x (B, n)`. How many there are may have to be read from the device."""

    @torch.no_grad()
    def decode(self, code: Code, x: Tensor) -> Tensor:
        """Inference: the output (B, m) of `code`, the latents of `x (B, n)`."""
        if self.sparse:
            return self._output(sparse.decode(code.values, self.W_dec, code.active), x)
        return self._decode_dense(code.active.dense(code.values), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Inference: the output (B, m) for `x (B, n)`. Does not wait for the device, as `encode` may."""
        if self.sparse:
            return self.decode(self.encode(x), x)
        return self._decode_dense(self._encode_dense(x), x)

    @torch.no_grad()
    def _encode_dense(self, x: Tensor) -> Tensor:
        """The latents that `encode` gives, as a matrix (B, F), without waiting for the device."""
        code = self.encode(x)
        return code.active.dense(code.values)

    @torch.no_grad()
    def _decode_dense(self, f: Tensor, x: Tensor) -> Tensor:
        """The output (B, m) of the latents `f (B, F)` of `x (B, n)`."""
        return self._output(self._product(f, self.W_dec), x)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps, by name: parameters, and what steps to come depend on besides."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()} | self.state()

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors()` gave. Raises ValueError where a name is missing or unknown, or a shape differs."""
        own = dict(self.named_parameters())
        expected = set(own) | set(self.state())
        if set(tensors) != expected:
            missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
            raise ValueError(f"The checkpoint does not fit this architecture: missing {missing}, unknown {unknown}.")
        for name, parameter in own.items():
            if tensors[name].shape != parameter.shape:
                raise ValueError(
                    f"The checkpoint's {name} has shape {tuple(tensors[name].shape)}; {tuple(parameter.shape)} is"
                    " needed."
                )
            parameter.copy_(tensors[name])
        self.restore_state(tensors)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps besides parameters, by name: what `settle` and `survey` change."""
        return {f"firing.{name}": tensor for name, tensor in self.firing.tensors().items()}

    def restore_state(self, tensors: dict[str, Tensor]) -> None:
        self.firing.restore({name: tensors[f"firing.{name}"] for name in self.firing.tensors()})

    def _centred(self, x: Tensor) -> Tensor:
        """What the encoder's weights multiply, without gradient: `x (B, n)`, less b_dec in an autoencoder."""
        return x - self.b_dec.detach() if self.autoencoder else x

    def _output(self, decoded: Tensor, x: Tensor) -> Tensor:
        """The output (B, m): `decoded`, what the latents of `x (B, n)` give, and what does not depend on latents."""
        return decoded + self.b_dec

    def _rank(self, p: Tensor, columns: Tensor | None = None) -> Tensor:
        """What pre-activations `p (B, F)` of `columns` (None: all) are compared by, without gradient: with free rows
        p_i·‖W_dec_i‖. Not in a transcoder, whose rows begin at 0."""
        p = p.detach()
        if self.unit_decoder or not self.autoencoder:
            return p
        rows = self.W_dec.detach()
        return p * (rows if columns is None else rows[columns]).norm(dim=1)

    def _pre_activations(self, centred: Tensor, *, gradient: bool) -> Tensor:
        """p (B, F) of `centred (B, n)`; `gradient`: with that of W_enc, b_enc and, in an autoencoder, b_dec."""
        if not gradient:
            with torch.no_grad(), self._rounded():
                return linear(centred, self.W_enc, self.b_enc)
        return self._linear(centred, self.W_enc, self.b_enc)

    def _active_pre_activations(self, values: Tensor, centred: Tensor, active: sparse.Active) -> Tensor:
        """`values (nnz)`, those of p at `active`, with the gradient that `_pre_activations` would give them."""
        origin = self.b_dec if self.autoencoder else None
        return sparse.encode(values, centred, self.W_enc, self.b_enc, origin, active)

    def _linear(self, centred: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not self.autoencoder:
            with self._rounded():
                return linear(centred, weight, bias)
        # Adds zeros, but carries the gradient of b_dec: -(sum over the batch of dp) W_enc, reduced before the product.
        shift = (self.b_dec - self.b_dec.detach()) @ weight.detach().T
        with self._rounded():
            return linear(centred, weight, bias - shift)

    def _product(self, f: Tensor, weight: Tensor) -> Tensor:
        with self._rounded():
            return (f @ weight).to(weight.dtype)

    def _revive(
        self, p: Tensor, centred: Tensor, residual: Tensor, k_aux: int, whole: Whole | None, *, with_sparse: bool
    ) -> Tensor:
        """The auxiliary loss: of relu(p) on the dead latents, the `k_aux` largest of each token explain the residual.

        `p (B, F)` carries no gradient where the products of the step are sparse.
        """
        spread = None if whole is None else whole.residual_spread
        dead = self.firing.dead
        count = dead.numel()
        rank = self._rank(p[:, dead], dead)
        places = rank.topk(min(k_aux, count), dim=1, sorted=False).indices
        indices = dead[places]
        if with_sparse:
            active = sparse.Active.of_rows(indices, self.latents)
            values = p.gather(1, indices).flatten().to(centred.dtype)
            f = torch.relu(self._active_pre_activations(values, centred, active))
            explained = sparse.decode(f, self.W_dec, active)
        else:
            f = torch.relu(p.gather(1, indices)).to(self.W_dec.dtype)
            scattered = f.new_zeros(f.shape[0], count).scatter(1, places, f)
            explained = self._product(scattered, self.W_dec[dead])
        return auxiliary_loss(residual, explained, min(1.0, count / k_aux), spread)

    def _rounded(self) -> torch.autocast:
        dtype = self.matmul_dtype
        return torch.autocast(self.W_enc.device.type, dtype=dtype, enabled=dtype is not None)


def spread(parts: Iterable[Tensor]) -> Tensor:
    """Σ‖y - mean y‖² over the rows of all `parts`, float64."""
    count, total, squares = 0, None, None
    for part in parts:
        part = part.double()
        count += part.shape[0]
        total = part.sum(dim=0) if total is None else total + part.sum(dim=0)
        squares = part.square().sum() if squares is None else squares + part.square().sum()
    if total is None or squares is None:
        raise ValueError("A batch has at least one part.")
    return squares - total.square().sum() / count
