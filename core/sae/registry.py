"""The architectures that can be trained, by the name that a configuration gives them."""

from __future__ import annotations

from .autoencoder import SparseAutoencoder
from .batchtopk import BatchTopK
from .gated import Gated
from .jumprelu import JumpReLU
from .matryoshka import Matryoshka
from .standard import Standard
from .topk import TopK

ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "standard": Standard,
    "jumprelu": JumpReLU,
    "gated": Gated,
}


def architecture(name: str) -> type[SparseAutoencoder]:
    """The architecture called `name`. Raises ValueError where it cannot be trained (yet)."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ValueError(f"Architecture {name!r} cannot be trained; there is {', '.join(ARCHITECTURES)}.") from None
