"""The architectures by the names that settings and options use.  A new one needs its entry here; training, warm-up and
the swapping of modules enumerate this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import GradNet
from .cascade import GradNetC, mGradNetC
from .modular import GradNetM, mGradNetM
from .ridge import RidgeGradNet, mRidgeGradNet


@dataclass(frozen=True)
class Architecture:
    """A class of networks, and how it is made.

    Attributes:
        network: the class.
        depth: its argument that counts layers or modules, "num_layers" or "num_modules"; None for a single layer.
    """

    network: type[GradNet]
    depth: str | None

    @property
    def modular(self) -> bool:
        """Whether the network is made of modules, with the arguments `transform` and `combine`."""
        return self.depth == "num_modules"

    def make(self, depth: int, in_dim: int, embed_dim: int, **options: Any) -> GradNet:
        """A network with `depth` layers or modules, where there can be several.

        >>> ARCHITECTURES["mgradnet-c"].make(4, 2, 7, activation="tanh").extra_repr()
        "num_layers=4, in_dim=2, embed_dim=7, activation='tanh'"
        """
        sizes = {"in_dim": in_dim, "embed_dim": embed_dim}
        return self.network(**sizes if self.depth is None else {self.depth: depth, **sizes}, **options)


ARCHITECTURES = {
    "gradnet-c": Architecture(GradNetC, "num_layers"),
    "mgradnet-c": Architecture(mGradNetC, "num_layers"),
    "gradnet-m": Architecture(GradNetM, "num_modules"),
    "mgradnet-m": Architecture(mGradNetM, "num_modules"),
    "ridge": Architecture(RidgeGradNet, None),
    "mridge": Architecture(mRidgeGradNet, None),
}
