"""BatchTopK: the largest pre-activations of a whole batch are its latents (Bussmann et al. 2024, arXiv 2412.06410).

    p = (x - b_dec) W_enc + b_enc;   f = relu(p) on the round(k B) largest of the batch;   t_hat = f W_dec + b_dec
    L = mean‖x - t_hat‖² / V + alpha · L_aux

Tokens thus share their latents as they need them, k on average. Inference looks at one token at a time and has a
threshold instead: the mean over batches of the smallest value that was kept. With free decoder rows values are ranked
by p_i·‖W_dec_i‖, so that folding the norms into the encoder changes nothing.

At first, up to `share_latents_after` of the run, each token has k latents of its own, as in TopK. Where tokens share
from the start, the crowded ones take several times k, too many for single directions to be told apart in what they
leave over, and the others take next to none, so that latents which are not strong yet win no place anywhere: a third
of them end up firing ten times more rarely than the rarest feature. Latents that have found their direction keep it
when tokens begin to share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from events.training import TrainingConfig

from . import sparse
from .autoencoder import Code, Losses, Parts, Seen, Whole, spread
from .counted import Counted

CANDIDATES = 4
"""The cut is looked for among so many times k values of each token; where a token may have more, among all."""

_NEAR = 0.9
"""On a CPU it is first looked for among the values above so much of the threshold, which are few: the mean of the cuts
before is near the next one."""

_MEMORY = 0.99


class BatchTopK(Counted):
    """`k` latents a token on average, and an auxiliary loss of weight `auxk_coefficient` for the dead ones.

    Up to step `apart` each token has `k` of its own. The inference threshold is the mean of the batches' cuts, whether
    what they cut off is kept or not, since step `warmup` and anew since `apart`, in the end that of the last hundred.
    """

    def __init__(self, *, warmup: int = 0, apart: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self._warmup = warmup
        self._apart = apart
        self.threshold = torch.zeros((), dtype=torch.float64, device=self.W_dec.device)
        """What p_i·‖W_dec_i‖ must exceed at inference."""

    @classmethod
    def own_settings(cls, config: TrainingConfig) -> dict[str, Any]:
        if config.warmup_steps is None:
            raise ValueError("warmup_steps must be set before training.")
        apart = round((config.share_latents_after or 0.0) * config.total_steps)
        return {**super().own_settings(config), "warmup": config.warmup_steps, "apart": apart}

    @torch.no_grad()
    def scale_encoder(self, x: Tensor) -> None:
        # Before the first step there is no threshold; what the first batch would keep gives one.
        self.threshold, _ = self._cut(self._rank(self._pre_activations(self._centred(x), gradient=False)))
        super().scale_encoder(x)

    def losses(self, x: Tensor, step: int, target: Tensor | None = None, whole: Whole | None = None) -> Losses:
        tokens, target = x.shape[0] if whole is None else whole.tokens, x if target is None else target
        centred = self._centred(x)
        # With sparse products only the active entries need a gradient, and `sparse.encode` gives it to them.
        p = self._pre_activations(centred, gradient=not self.sparse)
        kept, cut = self._choose(self._rank(p.detach()), step, whole)
        if self.sparse:
            active, places = kept.pattern()
            values = p.flatten()[places].to(x.dtype)
            f = self._active_pre_activations(values, centred, active)
            outputs = self._outputs_sparse(f, active)
            hits = torch.zeros_like(self.firing.counts).index_add_(0, active.col, torch.ones_like(places))
        else:
            mask = kept.mask()
            outputs = self._outputs_dense(torch.where(mask, p, 0).to(x.dtype))
            hits = mask.sum(dim=0)
        errors = [target - self._output(output, x) for output in outputs]
        squares = torch.stack([error.square().sum() for error in errors])
        total = reconstruction = squares.mean() / (tokens * self.variance)
        auxiliary = torch.zeros_like(reconstruction)
        if self.revives and self.firing.dead.numel() > 0:
            auxiliary = self.auxk_coefficient * self._revive(
                p, centred, errors[-1].detach(), self.k_aux, whole, with_sparse=self.sparse
            )
            total = reconstruction + auxiliary
        with torch.no_grad():
            variation = (target - target.mean(dim=0)).square().sum() if whole is None else whole.spread
            seen = Seen(hits, torch.isfinite(squares[-1]), cut=cut)
            if whole is None:
                self.settle(seen, tokens, step)
            return Losses(
                total=total,
                reconstruction=reconstruction.detach(),
                sparsity=torch.zeros_like(reconstruction),
                auxiliary=auxiliary.detach(),
                l0=hits.sum() / tokens,
                fvu=squares[-1].detach() / variation,
                dead=self.firing.count_dead(),
                seen=seen,
            )

    @torch.no_grad()
    def survey(self, parts: Parts, step: int) -> Whole:
        tokens = sum(x.shape[0] for x, _ in parts)
        count = min(round(self.k * tokens), tokens * self.latents)
        candidates = min(self.latents, CANDIDATES * self.k)
        while True:
            values = torch.cat([self._largest(x, candidates) for x, _ in parts])
            cut = _smallest_kept(values, count)
            # A token whose candidates all lie above the cut may have more. Only a CPU can be asked without waiting.
            all_there = candidates == self.latents or values.device.type != "cpu"
            if all_there or not bool((values.amin(dim=1) >= cut).any()):
                break
            candidates = min(self.latents, CANDIDATES * candidates)
        whole = Whole(tokens, spread(target for _, target in parts), cut=cut.to(torch.float64))
        if not self.revives or self.firing.dead.numel() == 0:
            return whole
        return whole._replace(residual_spread=self._residual_spread(parts, whole, step))

    def settle(self, seen: Seen, tokens: int, step: int) -> None:
        super().settle(seen, tokens, step)
        assert seen.cut is not None
        self._remember(seen.cut, seen.valid, step)

    def _largest(self, x: Tensor, count: int) -> Tensor:
        """The `count` largest of every token's ranked pre-activations (B, count)."""
        return (
            self._rank(self._pre_activations(self._centred(x), gradient=False)).topk(count, dim=1, sorted=False).values
        )

    def _as_trained(self, x: Tensor, whole: Whole, step: int) -> Tensor:
        p = self._pre_activations(self._centred(x), gradient=False)
        kept, _ = self._choose(self._rank(p), step, whole)
        if not self.sparse:
            return self._decode_dense(torch.where(kept.mask(), p, 0).to(x.dtype), x)
        active, places = kept.pattern()
        return self.decode(Code(p.flatten()[places].to(x.dtype), active), x)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        p = self._pre_activations(self._centred(x), gradient=False)
        active, places = sparse.Active.of_mask(self._rank(p) > torch.clamp_min(self.threshold, 0.0))
        return Code(p.flatten()[places].to(x.dtype), active)

    @torch.no_grad()
    def _encode_dense(self, x: Tensor) -> Tensor:
        p = self._pre_activations(self._centred(x), gradient=False)
        return torch.where(self._rank(p) > torch.clamp_min(self.threshold, 0.0), p, 0).to(x.dtype)

    def _outputs_sparse(self, f: Tensor, active: sparse.Active) -> list[Tensor]:
        """Outputs (B, n) without the bias, the loss being the mean of theirs; the last is that of all latents."""
        return [sparse.decode(f, self.W_dec, active)]

    def _outputs_dense(self, f: Tensor) -> list[Tensor]:
        """The same from `f (B, F)`."""
        return [self._product(f, self.W_dec)]

    def _choose(self, rank: Tensor, step: int, whole: Whole | None) -> tuple[Kept, Tensor]:
        """The entries of `rank (B, F)` that step `step` keeps, and the cut of the batch (float64), which is that of
        `whole` where there is one."""
        near = self._cut_near(rank) if whole is None else None
        largest = rank
        if near is not None:
            cut = near.cut.to(torch.float64)
        elif whole is None:
            cut, largest = self._cut(rank)
        else:
            assert whole.cut is not None
            cut = whole.cut
        # However the cut was found, the entries come in the same order: another one would round sums differently, and a
        # step must not depend on the threshold, not even in its last bits.
        if step > self._apart:
            return near or Kept(rank, cut.to(rank.dtype)), cut
        own = (rank if self.sparse else largest).topk(self.k, dim=1, sorted=False)
        least = own.values.amin(dim=1, keepdim=True).clamp_min(torch.finfo(rank.dtype).tiny)
        return Kept(rank, least, candidates=(own.values, own.indices) if self.sparse else None), cut

    def _cut_near(self, rank: Tensor) -> Kept | None:
        """What the batch's cut keeps, which is found among the values from a little below the threshold on; None where
        those are too few, or counting them would wait for a device."""
        count = round(self.k * rank.shape[0])
        if not self.sparse or not float(self.threshold) > 0:
            return None
        places = (rank.flatten() > _NEAR * float(self.threshold)).nonzero().flatten()
        if places.numel() < count:
            return None
        values = rank.flatten()[places]
        cut = _smallest_kept(values, count)
        return Kept(rank, cut, places=places[values >= cut])

    def _cut(self, rank: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest of the k·B largest values of `rank (B, F)` (float64), and a token's largest, k at least."""
        tokens, latents = rank.shape
        count = min(round(self.k * tokens), rank.numel())
        candidates = min(latents, CANDIDATES * self.k)
        values = rank.topk(candidates, dim=1, sorted=False).values
        cut = _smallest_kept(values, count)
        # A token whose candidates all lie above the cut may have more. Only a CPU can be asked without waiting for it.
        if candidates < latents and rank.device.type == "cpu" and bool((values.amin(dim=1) >= cut).any()):
            cut = _smallest_kept(rank, count)
        return cut.to(torch.float64), values

    def _remember(self, cut: Tensor, valid: Tensor, step: int) -> None:
        since = step - (self._warmup if step <= self._apart else max(self._warmup, self._apart))
        share = 1.0 if since <= 1 else max(1 - _MEMORY, 1 / since)
        self.threshold = torch.where(valid, self.threshold + share * (cut - self.threshold), self.threshold)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"threshold": self.threshold}

    def restore_state(self, tensors: dict[str, Tensor]) -> None:
        super().restore_state(tensors)
        self.threshold = tensors["threshold"].to(self.threshold.device)


def _smallest_kept(values: Tensor, count: int) -> Tensor:
    """The `count`-th largest value, and no less than the smallest positive number: what is not positive is not kept."""
    kept = values.flatten().topk(count, sorted=False).values.min()
    return kept.clamp_min(torch.finfo(values.dtype).tiny)


class Kept:
    """The entries of `rank (B, F)` that are not below `cut`, a number or one a token (B, 1), found among each token's
    `candidates` (None: all). They lie at `places (nnz)` of the flattened matrix where that is known."""

    def __init__(
        self,
        rank: Tensor,
        cut: Tensor,
        candidates: tuple[Tensor, Tensor] | None = None,
        places: Tensor | None = None,
    ) -> None:
        self._rank = rank
        self.cut = cut
        self._candidates = candidates
        self._places = places

    def mask(self) -> Tensor:
        """As a mask (B, F)."""
        return self._rank >= self.cut

    def pattern(self) -> tuple[sparse.Active, Tensor]:
        """As a CSR pattern, with their places (nnz) in the flattened matrix."""
        tokens, latents = self._rank.shape
        if self._places is not None:
            return sparse.Active.of_places(self._places, (tokens, latents)), self._places
        if self._candidates is None:
            return sparse.Active.of_mask(self.mask())
        values, indices = self._candidates
        kept = values >= self.cut
        col = indices[kept]
        crow = torch.zeros(tokens + 1, dtype=torch.int32, device=col.device)
        torch.cumsum(kept.sum(dim=1, dtype=torch.int32), dim=0, dtype=torch.int32, out=crow[1:])
        active = sparse.Active(crow, col.to(torch.int32), (tokens, latents))
        return active, active.rows().to(torch.int64) * latents + col
