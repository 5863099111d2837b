"""The cases that a name stands for, and the gains over eager PyTorch that the kernels aim at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from ... import reference
from ...errors import message
from ...nn import RidgeGradNet, Spline, registry
from ...nn.registry import ARCHITECTURES
from ..draws import Variant
from .cases import Case, NetworkCase, Target, network_case
from .images import image_case
from .measurement import Plan
from .operators import OperatorCase, of_variant

_REGISTRY_BATCH, _REGISTRY_DIM, _REGISTRY_HIDDEN = 4096, 16, 64
_HIDDEN_FOR_EXP = 8
"""The transform exp is of a sum F over the hidden units: an error of F is multiplied by F, and e^F soon overflows."""


def ridge(batch: int, d: int, h: int, *gains: float, **options: Any) -> NetworkCase:
    """mRidgeGradNet; gains: a target, if there is one; options: as `network_case`."""
    return network_case(ARCHITECTURES["mridge"], (batch, d, h), "tanh", target=_target(gains), **options)


def cascade(batch: int, d: int, h: int, *gains: float) -> NetworkCase:
    """mGradNetC with four layers; gains: a target, if there is one."""
    return network_case(ARCHITECTURES["mgradnet-c"], (batch, d, h), "tanh", target=_target(gains))


def modular(batch: int, d: int, h: int, activation: str, *gains: float, **options: Any) -> NetworkCase:
    """mGradNetM with four modules, or depth=; gains: a target, if there is one; options: as `network_case`."""
    of_modules, shape = ARCHITECTURES["mgradnet-m"], (batch, d, h)
    return network_case(of_modules, shape, activation, variant=activation, target=_target(gains), **options)


def _target(gains: tuple[float, ...]) -> Target | None:
    return Target(*gains) if gains else None


def deep(batch: int, d: int, h: int, depth: int, *gains: float) -> NetworkCase:
    """DeepGradNet with `depth` layers of h; gains: a target, if there is one."""
    return network_case(ARCHITECTURES["deep"], (batch, d, h), "tanh", depth=depth, target=_target(gains))


_SOFT_MAXIMUM: dict[str, Any] = {"words": ["soft maximum"], "combine": "logsumexp"}
_LINEAR: dict[str, Any] = {"words": ["linear part"], "linear": "psd"}

CASES = (
    ridge(65536, 2, 64, 8, 10),
    ridge(65536, 32, 629, 5.5, 4),
    ridge(65536, 64, 1024, 3.2, 2.3),
    ridge(16384, 256, 948, 1.75, 1.35),
    ridge(8192, 1024, 1003, 1.35, 1.1),
    ridge(1000, 2, 128, 3, 3),
    ridge(100, 256, 948, 1.2, 1.05),
    ridge(100, 2, 7, 2, 2.5),
    ridge(1, 256, 948, 2, 1.1),
    ridge(1, 2, 7, 1, 1),
    cascade(65536, 2, 64, 6, 6),
    cascade(65536, 32, 629, 20, 11),
    cascade(65536, 64, 1024, 12, 7, 20),
    cascade(16384, 256, 948, 5, 3.8),
    modular(16384, 8, 256, "softmax", 2.5, 2.5),
    modular(16384, 64, 256, "softmax", 1.6, 1.4),
    modular(16384, 64, 256, "weighted_softmax", 2, 1.8),
    modular(16384, 8, 256, "softmax", **_SOFT_MAXIMUM),
    modular(16384, 64, 256, "softmax", **_SOFT_MAXIMUM),
    modular(16384, 64, 256, "weighted_softmax", **_SOFT_MAXIMUM),
    ridge(65536, 64, 1024, **_LINEAR),
    ridge(16384, 256, 948, **_LINEAR),
    ridge(65536, 64, 1024, dtype="bfloat16"),
    ridge(16384, 256, 948, dtype="bfloat16"),
)
_QUICK_BATCH_TIMES_HIDDEN = 65536 * 64
_LARGE = 2**24
"""Batch × hidden: one float32 array of that size is 67 MB."""


def quick_cases() -> Iterator[Case]:
    """The small ones."""
    return (c for c in CASES if c.dtype == "float32" and c.batch * c.h <= _QUICK_BATCH_TIMES_HIDDEN and c.d < 64)


def small_cases() -> Iterator[Case]:
    """Batches so small that a call costs what Python does: networks, and every further quantity of their operators."""
    for batch in (1, 100):
        yield from (ridge(batch, 2, 7), cascade(batch, 2, 7), modular(batch, 2, 7, "softmax"))
        for variant in (
            Variant("ridge", 1, ("tanh",)),
            Variant("ridge", 4, ("tanh",)),
            Variant("softmax_modules", 4, bare=True),
        ):
            for quantity in ("potential", "jvp", "divergence", "jacobian"):
                yield of_variant(f"{variant.family}_{quantity}", variant, "float32")(batch=batch, d=2, h=7)
    yield from (modular(100, 2, 8, "weighted_softmax", depth=modules) for modules in (16, 64))


def registry_cases() -> Iterator[Case]:
    """Every architecture × activation of the registry at one modest size: the speed of each activation."""
    batch, d = _REGISTRY_BATCH, _REGISTRY_DIM
    for entry in registry.cases():
        h = _HIDDEN_FOR_EXP if "transform=exp" in entry.label else _REGISTRY_HIDDEN
        family, _, variant = entry.label.partition("-")
        layers = len(getattr(entry.make, "keywords", {}).get("widths", ()))
        make = partial(entry.make, in_dim=d, **{"widths": (h,) * layers} if layers else {"embed_dim": h})
        yield NetworkCase(family, variant, batch, d, h, make=make, reference=entry.reference)


DEEP_CASES = (
    deep(200, 8, 200, 2, 5, 4),
    deep(1000, 2, 64, 2, 8, 6.5),
    deep(16384, 2, 64, 2, 6, 4),
    deep(16384, 3, 64, 3, 5, 3.3),
    deep(16384, 64, 128, 2, 3, 2),
    deep(16384, 3, 256, 4, 2.1, 1.7),
    deep(16384, 64, 256, 3, 2.1, 1.5),
    deep(4096, 256, 512, 2, 1.55, 1.2),
    deep(65536, 3, 128, 4),
)
_DEEP_DERIVATIVES = (
    ("deep_jvp", 16384, 3, 64, 3),
    ("deep_divergence", 16384, 3, 64, 3),
    ("deep_divergence", 1000, 2, 64, 2),
)


def deep_cases() -> Iterator[Case]:
    """Deep networks, and derivatives of them."""
    yield from DEEP_CASES
    for operator, batch, d, h, depth in _DEEP_DERIVATIVES:
        yield of_variant(operator, Variant("deep", depth, ("tanh",)), "float32")(batch=batch, d=d, h=h)


def splines(batch: int, d: int, h: int) -> NetworkCase:
    """RidgeGradNet with splines of 21 knots, which begin as lines: rounding at a knot changes no slope."""
    profile = Spline(knots=21)
    make = partial(RidgeGradNet, d, h, profile)
    variant = f"spline, {profile.knots} knots"
    return NetworkCase("RidgeGradNet", variant, batch, d, h, make=make, reference=spline_gradnet)


def spline_gradnet(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """f(x) = Wᵀs(Wx + b) + bias, of splines s with knots on [−1, 1]."""
    W, b, values, bias = (parameters[name] for name in ("W", "b", "act.values", "bias"))
    return reference.ridge(x, W, None, b, values.unsqueeze(0), bias, ("spline",))


_COMPOSED, _SINGLE = (1, 4, 8, 64), (1, 64)
IMAGE_CASES = (
    image_case(1, (481, 321), _COMPOSED, 5, "relu", 3, 2.5, 20),
    image_case(16, (40, 40), _COMPOSED, 5, "relu", 1.7, 1.5, 20),
    image_case(1, (481, 321), _SINGLE, 13, "relu", 7.5, 5.5, 20),
    image_case(16, (40, 40), _SINGLE, 13, "relu", 4, 4, 20),
    image_case(1, (481, 321), _SINGLE, 5, "tanh"),
    image_case(16, (40, 40), _SINGLE, 5, "tanh"),
    network_case(ARCHITECTURES["ridge"], (65536, 64, 1024), "tanh", variant="tanh"),
    splines(65536, 64, 1024),
)
"""The last two have the same products, so that their times tell what splines cost."""

_GPU_DTYPES = ("bfloat16", "tf32", "ieee", "float32")
_GPU_BATCH, _WIDE_BATCH, _WIDE = 2**20, 2**17, 256
_GPU_MODULES = (
    Variant("softmax_modules", 4, bare=True),
    Variant("softmax_modules", 4),
    Variant("softmax_modules", 4, bare=True, combined=True),
    Variant("transformed_modules", 4, ("tanh",), "half_square"),
)


def gpu_cases() -> list[OperatorCase]:
    """What the kernels are measured with on a GPU, the most telling first."""
    found = []
    for dtype, layers, h, d in product(_GPU_DTYPES, (1, 4), (1024, 4096), (2, 8, 32, 64, 128, 256, 1024)):
        batch = _WIDE_BATCH if d >= _WIDE else _GPU_BATCH
        cascade = Variant("ridge", layers, ("tanh",), bare=layers == 1)
        found.append(of_variant("ridge", cascade, dtype)(batch=batch, d=d, h=h))
    for dtype, layers, d in product(("bfloat16", "float32"), (1, 4), (2, 32)):
        cascade = Variant("ridge", layers, ("tanh",), bare=layers == 1)
        found.append(of_variant("ridge", cascade, dtype)(batch=65536, d=d, h=64))
    for modules, dtype, d in product(_GPU_MODULES, ("bfloat16", "float32"), (8, 32, 64, 128)):
        found.append(of_variant(modules.family, modules, dtype)(batch=_GPU_BATCH, d=d, h=256))
    return sorted(found, key=_rank)


def _rank(case: OperatorCase) -> tuple[int, ...]:
    hidden = case.h * case.tensors.modules
    cascade = case.tensors.family == "ridge"
    middle = case.dtype == "bfloat16" and case.h == 1024 and case.d in (32, 64, 128)
    modular = case.dtype == "bfloat16" and case.d == 64 and not cascade
    group = 0 if middle else 1 if modular else 2
    return group, hidden, _GPU_DTYPES.index(case.dtype), case.tensors.depth, case.d


def compilers(case: OperatorCase) -> tuple[str, ...]:
    """The contenders by torch.compile that a case of a GPU has: compiling takes longer than all else, so few have."""
    if case.tensors.family != "ridge":
        return ("compile",) if case.dtype == "bfloat16" and case.d == 64 else ()
    if case.h != 1024 or case.dtype not in ("bfloat16", "tf32") or case.d not in (2, 32, 64, 128, 256):
        return ()
    if case.dtype == "tf32":
        return ("compile",) if case.d == 64 else ()
    return ("compile", "compile, max-autotune") if case.d == 64 else ("compile",)


@dataclass(frozen=True)
class Preset:
    """What one run of the command measures.

    Attributes:
        cases: makes the cases.
        contenders: names in `contenders.CONTENDERS`.
        plan: how they are measured, wherever that is.
    """

    cases: Callable[[], Iterable[Case]]
    contenders: tuple[str, ...]
    plan: Plan


_ALL = ("eager", "compile", "authors", "ours", "ours float32")
# Compiling takes seconds per case, and half a minute for the first: only the full preset waits for it.
_WITHOUT_COMPILE = ("eager", "authors", "ours")

PRESETS = {
    "quick": Preset(quick_cases, _WITHOUT_COMPILE, Plan(30, 1.5)),
    "small": Preset(small_cases, ("eager", "ours"), Plan(30, 1.5)),
    "full": Preset(lambda: CASES, _ALL, Plan(30, 40.0, memory_from=_LARGE)),
    "registry": Preset(registry_cases, _WITHOUT_COMPILE, Plan(20, 2.0)),
    "deep": Preset(deep_cases, ("eager", "jax", "ours"), Plan(30, 10.0, memory_from=2**22)),
    "imaging": Preset(lambda: IMAGE_CASES, ("eager", "compile", "ours"), Plan(30, 20.0, memory_from=2**20)),
    "gpu": Preset(gpu_cases, ("eager", "ours"), Plan(30, 1.5, memory_from=1)),
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
