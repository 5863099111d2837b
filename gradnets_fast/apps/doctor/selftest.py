"""The self-test: every operator on every backend beside float64, by the rule of the package's tests, at small shapes.

The exact results are `gradnets_fast.reference` in float64, and eager PyTorch's errors those of the same in the dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial

import torch
from torch import Tensor

from ... import functional
from ...backend import BACKENDS, ENVIRONMENT_VARIABLE, why_not
from ..accuracy import Verdict, evaluated, half_the_digits, judged
from ..draws import Drawn, Variant, drawn, family, oracle
from .examination import FAILURE, ISSUE, NOTE, OK, Check, Request, described

DTYPES = ("float32", "float64", "bfloat16", "float16")
SIZES = ((33, 5, 17), (4, 3, 8))
"""Batch, d, h: one beyond a small batch, with a remainder to every vector and tile; one small."""
_VARIANTS = {
    "ridge": (Variant("ridge", 2, ("tanh", "softplus")), Variant("ridge", 1, ("silu",))),
    "softmax_modules": (Variant("softmax_modules", 2), Variant("softmax_modules", 1)),
    "transformed_modules": (
        Variant("transformed_modules", 2, ("softplus",), "log"),
        Variant("transformed_modules", 1, ("tanh",), "half_square"),
    ),
    "deep": (Variant("deep", 2, ("softplus", "silu")), Variant("deep", 1, ("tanh",))),
    "conv_ridge": (Variant("conv_ridge", 2, ("tanh", "softplus")), Variant("conv_ridge", 1, ("silu",))),
}
"""What is drawn for each family, at each size."""

Case = tuple[str, int]
"""An operator, and its size's place in SIZES."""


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
        able = [op for op in functional.__all__ if why_not(backend, device, getattr(torch, name), op) is None]
        if able:
            yield of_cases([(operator, i) for i in sizes for operator in able], backend, name, device)


def of_cases(cases: Sequence[Case], backend: str, name: str, device: torch.device) -> Check:
    """Whether a backend is right in all these cases, in the dtype of this name."""
    where, errors, faults = "" if device.type == "cpu" else f" on {device}", [], []
    if backend == "triton":
        where += " in Triton's interpreter" if device.type == "cpu" else ", compiled where the cache had none"
    for operator, place in cases:
        label = f"{operator} {'x'.join(map(str, SIZES[place]))}"
        try:
            verdict = _verdict((operator, place), backend, getattr(torch, name), device)
            fault = verdict.fault
            errors.append((verdict.relative_error, label))
        except Exception as error:
            fault = described(error)
        faults += [] if fault is None else [f"{label}: {fault}"]
    if not faults:
        largest, worst = max(errors)
        finding = f"{len(cases)} cases right{where}; largest relative error {largest:.1e} in {worst}"
        return Check(f"{backend} {name}", OK, finding)
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    finding = f"{len(faults)} of {len(cases)} cases wrong{where}: {faults[0]}{more}"
    meanwhile = "" if backend == "reference" else f"; meanwhile: export {ENVIRONMENT_VARIABLE}=reference"
    return Check(f"{backend} {name}", FAILURE, finding, ISSUE + meanwhile)


def _verdict(case: Case, backend: str, dtype: torch.dtype, device: torch.device) -> Verdict:
    """How a backend's result, its gradients, and the result without them compare."""
    tensors, exact, eager = _expected(case, dtype, device)
    settings = _variant(case).settings(SIZES[case[1]][2])
    function = partial(getattr(functional, case[0]), **settings, backend=backend)
    with nullcontext() if backend == "cpp" else _one_thread():
        got = _results(function, tensors)
        with torch.no_grad():
            got.append(function(**tensors.named))
    gradients = [f"gradient of {name}" for name in tensors.named]
    eps, names = torch.finfo(dtype).eps, ["f", *gradients, "f without gradients"]
    return judged(names, got, [*eager, eager[0]], [*exact, exact[0]], eps, half_the_digits(eps))


def _variant(case: Case) -> Variant:
    return _VARIANTS[family(case[0])][case[1]]


@lru_cache(maxsize=None)
def _expected(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[Drawn, list[Tensor], list[Tensor]]:
    """A case's tensors, and what float64 and eager PyTorch make of them."""
    tensors = drawn(case[0], _variant(case), dtype, SIZES[case[1]], torch.Generator().manual_seed(0), device)
    function = oracle(case[0], _variant(case), SIZES[case[1]][2])
    with _one_thread():
        return tensors, _results(function, tensors, torch.float64), _results(function, tensors)


def _results(function: Callable[..., Tensor], tensors: Drawn, dtype: torch.dtype | None = None) -> list[Tensor]:
    """f and its gradients; dtype: in place of that of the tensors."""
    given = [t.to(dtype or t.dtype) for t in tensors.named.values()]
    return evaluated(tensors.in_order(function), given, tensors.g.to(dtype or tensors.g.dtype))


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
