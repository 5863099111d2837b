"""Gradient networks in other libraries: torchdiffeq, deepinv, Lightning and POT.

| library | name | what it is |
|---|---|---|
| torchdiffeq | `GradientFlow`, `HamiltonianFlow` | right-hand sides of differential equations |
| deepinv | `GradNetPrior`, `GradientStepDenoiser` | an explicit prior and a denoiser for inverse problems |
| Lightning | `GradNetLightning` | a training loop for samples of a gradient field |
| POT | `measure_transport`, `TransportReport` | how far a network is from an optimal transport map |

Importing this package imports none of them; `pip install 'gradnets_fast[interop]'` installs all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "GradientFlow": "dynamics",
    "HamiltonianFlow": "dynamics",
    "GradNetPrior": "imaging",
    "GradientStepDenoiser": "imaging",
    "GradNetLightning": "lightning",
    "TransportReport": "transport",
    "measure_transport": "transport",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from .dynamics import GradientFlow as GradientFlow
    from .dynamics import HamiltonianFlow as HamiltonianFlow
    from .imaging import GradientStepDenoiser as GradientStepDenoiser
    from .imaging import GradNetPrior as GradNetPrior
    from .lightning import GradNetLightning as GradNetLightning
    from .transport import TransportReport as TransportReport
    from .transport import measure_transport as measure_transport


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
