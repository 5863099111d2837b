"""What is timed: a network, its sizes, and the gains over eager PyTorch that the kernels aim at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .. import reference
from ..errors import message
from ..nn import GradNet, mGradNetC, mGradNetM, mRidgeGradNet, registry
from ..reference.architectures import Parameters

_DEPTH = 4
_REGISTRY_BATCH, _REGISTRY_DIM, _REGISTRY_HIDDEN = 4096, 16, 64
_HIDDEN_FOR_EXP = 8
"""The transform exp is of a sum F over the hidden units: an error of F is multiplied by F, and e^F soon overflows."""


@dataclass(frozen=True)
class Target:
    """Gains over eager PyTorch to reach: time of a forward, of a step, and, where it is set, extra memory of a step."""

    forward: float
    step: float
    memory: float | None = None


@dataclass(frozen=True)
class Case:
    """One network at one size.

    Attributes:
        family: the heading it is reported under.
        variant: what tells it from others of its family and size; may be empty.
        batch, d, h: points, their dimension, hidden units (of each module).
        make: (**factory) -> the network; factory: device, dtype.
        reference: (parameters, x) -> f(x) in the authors' structure, which recomputes W x in each layer.
        dtype: of points and parameters.
        target: the gains to reach, if there are any.
    """

    family: str
    variant: str
    batch: int
    d: int
    h: int
    make: Callable[..., GradNet]
    reference: Callable[[Parameters, Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    target: Target | None = None

    @property
    def label(self) -> str:
        """Unique among all presets; `--case` searches it."""
        return " ".join(part for part in (self.family, self.variant, f"{self.batch}x{self.d}x{self.h}") if part)


def _ridge(batch: int, d: int, h: int, *gains: float) -> Case:
    function = partial(reference.ridge_gradnet, activation="tanh", monotone=True)
    return Case("mRidgeGradNet", "", batch, d, h, partial(mRidgeGradNet, d, h), function, target=Target(*gains))


def _cascade(batch: int, d: int, h: int, *gains: float) -> Case:
    function = partial(reference.gradnet_c, activation="tanh", monotone=True)
    make = partial(mGradNetC, _DEPTH, d, h)
    return Case(f"mGradNetC, {_DEPTH} layers", "", batch, d, h, make, function, target=Target(*gains))


def _modular(batch: int, d: int, h: int, activation: str, *gains: float) -> Case:
    function = partial(reference.gradnet_m, activation=activation, monotone=True)
    make = partial(mGradNetM, _DEPTH, d, h, activation)
    target = Target(*gains) if gains else None
    return Case(f"mGradNetM, {_DEPTH} modules", activation, batch, d, h, make, function, target=target)


def _soft_maximum(batch: int, d: int, h: int, activation: str) -> Case:
    summed = _modular(batch, d, h, activation)
    make = partial(mGradNetM, _DEPTH, d, h, activation, combine="logsumexp")
    return replace(summed, family=f"{summed.family}, soft maximum", make=make)


def _with_linear(case: Case) -> Case:
    make = partial(case.make, linear="psd")
    return replace(case, family=f"{case.family}, linear part", make=make, target=None)


def _bfloat16(case: Case) -> Case:
    family = f"{case.family}, bfloat16"
    return replace(
        case, family=family, dtype=torch.bfloat16, make=partial(case.make, dtype=torch.bfloat16), target=None
    )


CASES = (
    _ridge(65536, 2, 64, 8, 10),
    _ridge(65536, 32, 629, 5.5, 4),
    _ridge(65536, 64, 1024, 3.2, 2.3),
    _ridge(16384, 256, 948, 1.75, 1.35),
    _ridge(8192, 1024, 1003, 1.35, 1.1),
    _ridge(1000, 2, 128, 3, 3),
    _ridge(100, 256, 948, 1.2, 1.05),
    _ridge(100, 2, 7, 2, 2.5),
    _ridge(1, 256, 948, 2, 1.1),
    _ridge(1, 2, 7, 1, 1),
    _cascade(65536, 2, 64, 6, 6),
    _cascade(65536, 32, 629, 20, 11),
    _cascade(65536, 64, 1024, 12, 7, 20),
    _cascade(16384, 256, 948, 5, 3.8),
    _modular(16384, 8, 256, "softmax", 2.5, 2.5),
    _modular(16384, 64, 256, "softmax", 1.6, 1.4),
    _modular(16384, 64, 256, "weighted_softmax", 2, 1.8),
    _soft_maximum(16384, 8, 256, "softmax"),
    _soft_maximum(16384, 64, 256, "softmax"),
    _soft_maximum(16384, 64, 256, "weighted_softmax"),
    _with_linear(_ridge(65536, 64, 1024, 1, 1)),
    _with_linear(_ridge(16384, 256, 948, 1, 1)),
    _bfloat16(_ridge(65536, 64, 1024, 1, 1)),
    _bfloat16(_ridge(16384, 256, 948, 1, 1)),
)
_QUICK_BATCH_TIMES_HIDDEN = 65536 * 64


def quick_cases() -> Iterator[Case]:
    """The small ones."""
    return (c for c in CASES if c.dtype == torch.float32 and c.batch * c.h <= _QUICK_BATCH_TIMES_HIDDEN and c.d < 64)


def registry_cases() -> Iterator[Case]:
    """Every architecture × activation of the registry at one modest size: the speed of each activation."""
    batch, d = _REGISTRY_BATCH, _REGISTRY_DIM
    for entry in registry.cases():
        h = _HIDDEN_FOR_EXP if "transform=exp" in entry.label else _REGISTRY_HIDDEN
        family, _, variant = entry.label.partition("-")
        yield Case(family, variant, batch, d, h, partial(entry.make, in_dim=d, embed_dim=h), entry.reference)


@dataclass(frozen=True)
class Preset:
    """What one run of the command measures.

    Attributes:
        cases: makes the cases.
        contenders: names of `contenders.CONTENDERS`.
        rounds: samples of each contender and job, at least; short cases get more.
        seconds: a case stops earlier than that once it has three rounds and used this time.
        memory: the extra memory of the larger cases is measured too.
    """

    cases: Callable[[], Iterator[Case]]
    contenders: tuple[str, ...]
    rounds: int
    seconds: float
    memory: bool = False


_ALL = ("eager", "compile", "authors", "ours", "ours float32")
# Compiling takes seconds per case, and half a minute for the first: only the full preset waits for it.
_WITHOUT_COMPILE = ("eager", "authors", "ours")

PRESETS = {
    "quick": Preset(quick_cases, _WITHOUT_COMPILE, 30, 1.5),
    "full": Preset(lambda: iter(CASES), _ALL, 30, 40.0, memory=True),
    "registry": Preset(registry_cases, _WITHOUT_COMPILE, 20, 2.0),
}


def select(preset: str, substring: str) -> list[Case]:
    """The preset's cases whose label contains `substring`.

    Raises:
        ValueError: there is none.
    """
    cases = list(PRESETS[preset].cases())
    chosen = [case for case in cases if substring in case.label]
    if not chosen:
        labels = "; ".join(case.label for case in cases[:20]) + ("; …" if len(cases) > 20 else "")
        fix = f"shorten it, or try another preset ({', '.join(PRESETS)})"
        raise ValueError(message("bench", "case", f"a part of one of: {labels}", repr(substring), fix))
    return chosen
