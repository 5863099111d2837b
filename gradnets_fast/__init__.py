"""Gradient networks with fused kernels.

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

_HOME = {
    "BackendUnavailableError": "backend",
    "use_backend": "backend",
    "warmup": "_warmup",
    "batch_chunk": "chunks",
    "fully_shard": "parallel",
    "parallelize": "parallel",
    "Report": "swap",
    "accelerate": "swap",
    "load_reference_checkpoint": "swap",
    "register_adapter": "swap",
    "restore": "swap",
    "Explanation": "explanation",
    "explain": "explanation",
    "ridge": "functional",
    "ridge_divergence": "functional",
    "ridge_jacobian": "functional",
    "ridge_jvp": "functional",
    "ridge_potential": "functional",
    "softmax_modules": "functional",
    "softmax_modules_divergence": "functional",
    "softmax_modules_jacobian": "functional",
    "softmax_modules_jvp": "functional",
    "softmax_modules_potential": "functional",
    "transformed_modules": "functional",
    "transformed_modules_divergence": "functional",
    "transformed_modules_jacobian": "functional",
    "transformed_modules_jvp": "functional",
    "transformed_modules_potential": "functional",
    "GradNetC": "nn",
    "GradNetM": "nn",
    "RidgeGradNet": "nn",
    "mGradNetC": "nn",
    "mGradNetM": "nn",
    "mRidgeGradNet": "nn",
}
_SUBMODULES = (
    "activations",
    "apps",
    "backend",
    "chunks",
    "errors",
    "functional",
    "interop",
    "nn",
    "ops",
    "parallel",
    "reference",
    "swap",
)

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from ._warmup import warmup as warmup
    from .backend import BackendUnavailableError as BackendUnavailableError
    from .backend import use_backend as use_backend
    from .chunks import batch_chunk as batch_chunk
    from .explanation import Explanation as Explanation
    from .explanation import explain as explain
    from .functional import ridge as ridge
    from .functional import ridge_divergence as ridge_divergence
    from .functional import ridge_jacobian as ridge_jacobian
    from .functional import ridge_jvp as ridge_jvp
    from .functional import ridge_potential as ridge_potential
    from .functional import softmax_modules as softmax_modules
    from .functional import softmax_modules_divergence as softmax_modules_divergence
    from .functional import softmax_modules_jacobian as softmax_modules_jacobian
    from .functional import softmax_modules_jvp as softmax_modules_jvp
    from .functional import softmax_modules_potential as softmax_modules_potential
    from .functional import transformed_modules as transformed_modules
    from .functional import transformed_modules_divergence as transformed_modules_divergence
    from .functional import transformed_modules_jacobian as transformed_modules_jacobian
    from .functional import transformed_modules_jvp as transformed_modules_jvp
    from .functional import transformed_modules_potential as transformed_modules_potential
    from .nn import GradNetC as GradNetC
    from .nn import GradNetM as GradNetM
    from .nn import RidgeGradNet as RidgeGradNet
    from .nn import mGradNetC as mGradNetC
    from .nn import mGradNetM as mGradNetM
    from .nn import mRidgeGradNet as mRidgeGradNet
    from .parallel import fully_shard as fully_shard
    from .parallel import parallelize as parallelize
    from .swap import Report as Report
    from .swap import accelerate as accelerate
    from .swap import load_reference_checkpoint as load_reference_checkpoint
    from .swap import register_adapter as register_adapter
    from .swap import restore as restore


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_SUBMODULES})
