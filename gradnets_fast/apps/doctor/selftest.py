"""The self-test: every operator on every backend beside float64, by the rule of the package's tests, at small shapes.

The exact results are `gradnets_fast.reference` in float64, and eager PyTorch's errors those of the same in the dtype.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ... import functional, reference
from ...backend import BACKENDS, ENVIRONMENT_VARIABLE, why_not
from .examination import FAILURE, ISSUE, NOTE, OK, Check, Request, described

DTYPES = ("float32", "float64", "bfloat16", "float16")
SIZES = ((33, 5, 17, 2), (4, 3, 8, 1))
"""Batch, d, h, layers or modules: one beyond a small batch, with a remainder to every vector and tile; one small."""
_SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "ridge": ({"basis": ("tanh", "softplus")}, {"basis": ("silu",)}),
    "softmax_modules": ({}, {}),
    "transformed_modules": ({"basis": "softplus", "transform": "log"}, {"basis": "tanh", "transform": "half_square"}),
}
"""Each family's functions, at each size."""
_DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "W": lambda t: t / t.shape[-1] ** 0.5,
    "scale": lambda t: t.sigmoid() + 0.5,
    "coef": lambda t: t / 2,
    "temperature": lambda t: t.abs() + 0.1,
    "weight": lambda t: t / 16,
}
"""Arguments made of normal numbers, where those themselves would make f large or steep."""

Case = tuple[str, int]
"""An operator, and its size's place in SIZES."""
Results = dict[str, Tensor]


def _self_test(request: Request) -> Iterator[Check]:
    for device in request.devices():
        try:
            torch.zeros(1, device=device)
        except (AssertionError, RuntimeError) as error:
            # The checks of GPUs have said it; every case would say it again.
            yield Check("all backends", NOTE, f"not run: {device} cannot be used ({described(error)})")
            return
    for backend in BACKENDS:
        yield from of_backend(backend, request.devices())


def of_backend(backend: str, devices: list[torch.device]) -> Iterator[Check]:
    """A check for each dtype that a backend takes, on the first of the devices where it runs."""
    refusals = {device: why_not(backend, device, torch.float32) for device in devices}
    device = next((device for device, refusal in refusals.items() if refusal is None), None)
    if device is None:
        yield Check(f"all of {backend}", NOTE, f"not run: {refusals[devices[-1]]}")
        return
    # Triton's interpreter takes a minute for what its kernels do in no time.
    sizes = (1,) if backend == "triton" and device.type == "cpu" else (0, 1)
    for name in DTYPES:
        if why_not(backend, device, getattr(torch, name)) is None:
            yield of_cases([(operator, i) for i in sizes for operator in functional.__all__], backend, name, device)


def of_cases(cases: Sequence[Case], backend: str, name: str, device: torch.device) -> Check:
    """Whether a backend is right in all these cases, in the dtype of this name."""
    where, errors, faults = "" if device.type == "cpu" else f" on {device}", [], []
    if backend == "triton":
        where += " in Triton's interpreter" if device.type == "cpu" else ", compiled where the cache had none"
    for case in cases:
        label = f"{case[0]} {'x'.join(map(str, SIZES[case[1]]))}"
        try:
            errors.append((_error(case, backend, getattr(torch, name), device), label))
        except Exception as error:
            faults.append(f"{label}: {error if isinstance(error, _WrongError) else described(error)}")
    if not faults:
        largest, worst = max(errors)
        finding = f"{len(cases)} cases right{where}; largest relative error {largest:.1e} in {worst}"
        return Check(f"{backend} {name}", OK, finding)
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    finding = f"{len(faults)} of {len(cases)} cases wrong{where}: {faults[0]}{more}"
    meanwhile = "" if backend == "reference" else f"; meanwhile: export {ENVIRONMENT_VARIABLE}=reference"
    return Check(f"{backend} {name}", FAILURE, finding, ISSUE + meanwhile)


class _WrongError(Exception):
    """A result that errs by more than the rule allows."""


def _error(case: Case, backend: str, dtype: torch.dtype, device: torch.device) -> float:
    """The largest error of f and its gradients, in units of the largest exact value.

    Raises:
        _WrongError: a tensor's error is more than twice eager PyTorch's, plus 8 units in the last place of the largest
            value; in float64, where eager's error reads 0, plus 64.
    """
    tensors, exact, eager = _expected(case, dtype, device)
    function = _function(functional, case, backend=backend)
    with nullcontext() if backend == "cpp" else _one_thread():
        got = _results(function, tensors, dtype)
        with torch.no_grad():
            got["f without gradients"] = function(**tensors)
    eps, largest = torch.finfo(dtype).eps, max(t.abs().max().item() for t in exact.values())
    floor, worst = (64 if dtype == torch.float64 else 8) * eps * largest, 0.0
    for name, result in got.items():
        truth, theirs = (expected[name if name in expected else "f"] for expected in (exact, eager))
        if result.shape != truth.shape:
            raise _WrongError(f"{name}: shape {tuple(result.shape)}, not {tuple(truth.shape)}")
        error, eager_error = ((t.double() - truth).abs().max().item() for t in (result, theirs))
        allowed = 2 * min(eager_error, eps**0.5 * largest) + floor
        if not error <= allowed:
            raise _WrongError(f"{name}: error {error:.2g}, at most {allowed:.2g} allowed")
        worst = max(worst, error / largest)
    return worst


@lru_cache(maxsize=None)
def _expected(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[dict[str, Tensor], Results, Results]:
    """The tensors of a case, and what float64 and eager PyTorch make of them."""
    tensors, function = _tensors(case, dtype, device), _function(reference, case)
    with _one_thread():
        exact = _results(function, {name: t.double() for name, t in tensors.items()}, dtype)
        return tensors, exact, _results(function, tensors, dtype)


def _results(function: Callable[..., Tensor], tensors: dict[str, Tensor], dtype: torch.dtype) -> Results:
    """f, and the gradients of <g, f> for a random g of this dtype."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    f = function(**leaves)
    # A sixteenth, for sums over the batch to fit into float16.
    g = torch.randn(f.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).div(16).to(dtype).to(f)
    gradients = torch.autograd.grad(f, list(leaves.values()), g, materialize_grads=True)
    return {"f": f.detach(), **{f"gradient of {name}": d for name, d in zip(leaves, gradients)}}


def _family(operator: str) -> str:
    return next(family for family in _SETTINGS if operator.startswith(family))


def _function(module: Any, case: Case, **options: Any) -> Callable[..., Tensor]:
    """The case's operator in `functional` or `reference`, as a function of its tensors by name."""
    return partial(getattr(module, case[0]), **_SETTINGS[_family(case[0])][case[1]], **options)


def _tensors(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """The operator's tensors by name, from a fixed seed."""
    (operator, position), generator = case, torch.Generator().manual_seed(0)
    family, (batch, d, h, depth) = _family(operator), SIZES[position]
    shapes = {
        **dict.fromkeys(("x", "v"), (batch, d)),
        "W": (h, d) if family == "ridge" else (depth, h, d),
        **dict.fromkeys(("scale", "shift", "b"), (depth, h)),
        "coef": (depth, len(_SETTINGS[family][position].get("basis", ())), h),
        **dict.fromkeys(("temperature", "positive", "negative", "weight"), (depth,)),
        "bias": (d,),
    }
    # Users of mixed precision have vectors in float32, and for f itself in 16 bits too.
    mixed, tensors = torch.finfo(dtype).bits == 16 and operator != family, {}
    for name in inspect.signature(getattr(reference, operator)).parameters:
        if name in shapes:
            normal = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
            drawn = _DRAWS[name](normal) if name in _DRAWS else normal
            tensors[name] = drawn.to(device, torch.float32 if mixed and name not in ("x", "v", "W") else dtype)
    return tensors


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch's operators take longer to wake threads than for tensors so small, on a busy machine a hundred times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


CHECKS = (_self_test,)
