"""Gradient networks: neural networks that are exactly the gradient of a scalar potential, with fused kernels.

- `RidgeGradNet`, `GradNetC`, `GradNetM`: networks as torch modules; `mRidgeGradNet`, `mGradNetC`, `mGradNetM`, whose
  potentials are convex.
- `ridge`, `softmax_modules`, `transformed_modules`: the same as functions of tensors, each with `_potential`, `_jvp`,
  `_divergence` and `_jacobian`.
- `use_backend`, `explain`, `warmup`: which kernels run, why, and when they are compiled.
- `accelerate`, `restore`, `register_adapter`, `load_reference_checkpoint`: networks that exist already.
- `fit`: training on gradients or values.
- `batch_chunk`, `image_chunk`, `fully_shard`, `parallelize`: large batches and images, many devices.
- `gradnets_fast.convex`, `gradnets_fast.flows`: inverse maps, conjugates, proximal maps and bounds; densities.
- `gradnets_fast.score`: scores by denoising and by exact score matching, samples by Langevin's dynamics.
- `gradnets_fast.structure`: sparse weights, fewer hidden units, potentials of few directions.
- `gradnets_fast.export`: a network as a C file.

>>> import torch, gradnets_fast
>>> net = gradnets_fast.mGradNetC(num_layers=4, in_dim=2, embed_dim=7, activation="tanh")
>>> net(torch.zeros(10, 2)).shape, net.potential(torch.zeros(10, 2)).shape
(torch.Size([10, 2]), torch.Size([10]))

Importing the package loads nothing but itself: neither triton nor the compiled extension, until they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = (
    *("backend", "chunks", "explanation", "fitting", "functional", "functional._determinant"),
    *("nn", "nn.initial", "nn.unit_scale", "parallel", "swap", "_warmup"),
)
"""The modules whose `__all__` are the public names of the package."""

_SUBMODULES = (
    *(home for home in _HOMES if "." not in home),
    "activations",
    "apps",
    "convex",
    "errors",
    "export",
    "flows",
    "interop",
    "ops",
    "reference",
    "score",
    "structure",
)

if TYPE_CHECKING:
    from ._warmup import *
    from .backend import *
    from .chunks import *
    from .explanation import *
    from .fitting import *
    from .functional import *
    from .functional._determinant import *
    from .nn import *
    from .nn.initial import *
    from .nn.unit_scale import *
    from .parallel import *
    from .swap import *


def __getattr__(name: str) -> Any:
    if name == "__all__":
        homes = [importlib.import_module(f".{home}", __name__) for home in _HOMES]
        value: Any = ["__version__", *(public for home in homes for public in home.__all__)]
    elif name in _SUBMODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        value = _public(name)
    globals()[name] = value
    return value


def _public(name: str) -> Any:
    """Return a public name from the first of the homes that has it."""
    if not name.startswith("_"):
        for home in _HOMES:
            module = importlib.import_module(f".{home}", __name__)
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__"), *_SUBMODULES})
