"""The architectures that can be trained, by the name that a configuration gives them."""

from __future__ import annotations

from collections.abc import Mapping

from .autoencoder import SparseAutoencoder
from .batchtopk import BatchTopK
from .gated import Gated
from .jumprelu import JumpReLU
from .matryoshka import Matryoshka
from .skip import SKIPS
from .standard import Standard
from .topk import TopK
from .transcoder import TRANSCODERS

ARCHITECTURES: dict[str, type[SparseAutoencoder] | Mapping[str, type[SparseAutoencoder]]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "standard": Standard,
    "jumprelu": JumpReLU,
    "gated": Gated,
    "transcoder": TRANSCODERS,
    "skip": SKIPS,
}
"""Where there are several, by activation."""


def architecture(name: str, activation: str | None = None) -> type[SparseAutoencoder]:
    """The architecture called `name`, with `activation` where it has several (None: batchtopk).

    Raises ValueError where there is none.
    """
    found = ARCHITECTURES.get(name)
    if found is None:
        raise ValueError(f"Architecture {name!r} cannot be trained; there is {', '.join(ARCHITECTURES)}.")
    if isinstance(found, type):
        return found
    try:
        return found[activation or "batchtopk"]
    except KeyError:
        raise ValueError(
            f"Architecture {name!r} has no activation {activation!r}; there is {', '.join(found)}."
        ) from None
