"""The cases that a name stands for, and the gains over eager PyTorch that the kernels aim at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from ... import reference
from ...errors import message
from ...nn import mGradNetC, mGradNetM, mRidgeGradNet, registry
from .cases import Case, NetworkCase, Target

_DEPTH = 4
_REGISTRY_BATCH, _REGISTRY_DIM, _REGISTRY_HIDDEN = 4096, 16, 64
_HIDDEN_FOR_EXP = 8
"""The transform exp is of a sum F over the hidden units: an error of F is multiplied by F, and e^F soon overflows."""


def _ridge(batch: int, d: int, h: int, *gains: float) -> NetworkCase:
    function = partial(reference.ridge_gradnet, activation="tanh", monotone=True)
    make, target = partial(mRidgeGradNet, d, h), Target(*gains)
    return NetworkCase("mRidgeGradNet", "", batch, d, h, make=make, reference=function, target=target)


def _cascade(batch: int, d: int, h: int, *gains: float) -> NetworkCase:
    function = partial(reference.gradnet_c, activation="tanh", monotone=True)
    make, target = partial(mGradNetC, _DEPTH, d, h), Target(*gains)
    return NetworkCase(f"mGradNetC, {_DEPTH} layers", "", batch, d, h, make=make, reference=function, target=target)


def _modular(batch: int, d: int, h: int, activation: str, *gains: float) -> NetworkCase:
    function = partial(reference.gradnet_m, activation=activation, monotone=True)
    make = partial(mGradNetM, _DEPTH, d, h, activation)
    target = Target(*gains) if gains else None
    family = f"mGradNetM, {_DEPTH} modules"
    return NetworkCase(family, activation, batch, d, h, make=make, reference=function, target=target)


def _soft_maximum(batch: int, d: int, h: int, activation: str) -> NetworkCase:
    summed = _modular(batch, d, h, activation)
    make = partial(mGradNetM, _DEPTH, d, h, activation, combine="logsumexp")
    return replace(summed, family=f"{summed.family}, soft maximum", make=make)


def _with_linear(case: NetworkCase) -> NetworkCase:
    make = partial(case.make, linear="psd")
    return replace(case, family=f"{case.family}, linear part", make=make, target=None)


def _bfloat16(case: NetworkCase) -> NetworkCase:
    return replace(case, family=f"{case.family}, bfloat16", dtype="bfloat16", target=None)


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
_LARGE = 2**24
"""Batch × hidden: one float32 array of that size is 67 MB."""


def quick_cases() -> Iterator[Case]:
    """The small ones."""
    return (c for c in CASES if c.dtype == "float32" and c.batch * c.h <= _QUICK_BATCH_TIMES_HIDDEN and c.d < 64)


def registry_cases() -> Iterator[Case]:
    """Every architecture × activation of the registry at one modest size: the speed of each activation."""
    batch, d = _REGISTRY_BATCH, _REGISTRY_DIM
    for entry in registry.cases():
        h = _HIDDEN_FOR_EXP if "transform=exp" in entry.label else _REGISTRY_HIDDEN
        family, _, variant = entry.label.partition("-")
        make = partial(entry.make, in_dim=d, embed_dim=h)
        yield NetworkCase(family, variant, batch, d, h, make=make, reference=entry.reference)


@dataclass(frozen=True)
class Preset:
    """What one run of the command measures.

    Attributes:
        cases: makes the cases.
        contenders: names that `contenders.builder` knows.
        rounds: samples of each contender and job, at least; short cases get more.
        seconds: a case stops earlier than that once it has three rounds and used this time.
        memory_from: batch × hidden from which on the extra memory of a step is measured; None for never.
    """

    cases: Callable[[], Iterator[Case]]
    contenders: tuple[str, ...]
    rounds: int
    seconds: float
    memory_from: int | None = None


_ALL = ("eager", "compile", "authors", "ours", "ours float32")
# Compiling takes seconds per case, and half a minute for the first: only the full preset waits for it.
_WITHOUT_COMPILE = ("eager", "authors", "ours")

PRESETS = {
    "quick": Preset(quick_cases, _WITHOUT_COMPILE, 30, 1.5),
    "full": Preset(lambda: iter(CASES), _ALL, 30, 40.0, memory_from=_LARGE),
    "registry": Preset(registry_cases, _WITHOUT_COMPILE, 20, 2.0),
}


def select(cases: list[Case], substring: str) -> list[Case]:
    """The cases whose label contains `substring`.

    Raises:
        ValueError: there is none.
    """
    chosen = [case for case in cases if substring in case.label]
    if not chosen:
        labels = "; ".join(case.label for case in cases[:20]) + ("; …" if len(cases) > 20 else "")
        fix = f"shorten it, or try another preset ({', '.join(PRESETS)})"
        raise ValueError(message("bench", "case", f"a part of one of: {labels}", repr(substring), fix))
    return chosen
