"""Which backend runs an operator, and why.

Per call: the argument `backend=`, else `with use_backend(...)`, else the environment variable
GRADNETS_FAST_BACKEND, else the first backend that can.  A named backend runs or raises.  Code under torch.compile keeps
the environment variable's value of its compilation; `use_backend` it follows at each call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import check_choice, message

__all__ = ["BackendUnavailableError", "use_backend"]

BACKENDS = ("reference", "cpp", "triton")
_AUTOMATIC_ORDER = ("triton", "cpp", "reference")
ENVIRONMENT_VARIABLE = "GRADNETS_FAST_BACKEND"

_CPP_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class _Requests(threading.local):
    """The backends that enclosing `use_backend` blocks of this thread ask for, innermost last."""

    def __init__(self) -> None:
        self.stack: list[str] = []


_requests = _Requests()


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot run the call; the message says why, and what to do.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 2, 3).to(torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    >>> try:
    ...     with gradnets_fast.use_backend("triton"):  # which has no float64
    ...         net(x)
    ... except gradnets_fast.BackendUnavailableError as error:
    ...     print(str(error).split(",")[0])
    ridge: backend 'triton'
    """


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        backend: the chosen backend.
        reason: why it was chosen.
        rejected: for each other backend, why it cannot or does not run this call.
    """

    backend: str
    reason: str
    rejected: dict[str, str] = field(default_factory=dict)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every operator of the block, in this thread, on the backend `name`.

    Equivalent to: passing `backend=name` to each call.

    Args:
        name: "reference", "cpp" or "triton".

    Returns:
        A context manager for `with`; inner blocks take precedence over outer ones.

    Raises:
        ValueError: `name` is not a backend.
        BackendUnavailableError: at the call that the backend cannot run.

    >>> import torch, gradnets_fast
    >>> with gradnets_fast.use_backend("reference"):
    ...     gradnets_fast.mGradNetC(2, 2, 3)(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """
    check_choice("use_backend", "name", name, BACKENDS)
    _requests.stack.append(name)
    try:
        yield
    finally:
        _requests.stack.pop()


@contextmanager
def requests_of(stack: tuple[str, ...]) -> Iterator[None]:
    """Inside, the `use_backend` blocks of this thread are those of `stack`, as `block_requests` gave it."""
    before, _requests.stack = _requests.stack, list(stack)
    try:
        yield
    finally:
        _requests.stack = before


def block_requests() -> tuple[str, ...]:
    """The backends that the enclosing `use_backend` blocks ask for, innermost last."""
    return tuple(_requests.stack)


def requested(argument: str | None = None) -> tuple[str, str] | None:
    """The backend that was named, and by what; None if nobody named one."""
    if argument is not None:
        check_choice("backend", "backend", argument, BACKENDS)
        return argument, "the argument backend="
    if _requests.stack:
        return _requests.stack[-1], "use_backend"
    name = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if name:
        check_choice("backend", ENVIRONMENT_VARIABLE, name, BACKENDS)
        return name, f"the environment variable {ENVIRONMENT_VARIABLE}"
    return None


def block_request() -> str | None:
    """The backend that the innermost `use_backend` block asks for."""
    return _requests.stack[-1] if _requests.stack else None


def why_not(backend: str, device: torch.device, dtype: torch.dtype, operator: str = "") -> str | None:
    """Why `backend` cannot run operators, or this one, on tensors of this device and dtype; None if it can.

    An operator's name may be followed by the `profile` of its settings, such as " of splines".
    """
    if backend == "reference":
        return None
    if backend == "triton":
        from .ops import _triton

        name, _, profile = operator.partition(" of ")
        if profile and name not in _triton.CONVOLUTIONS:
            return f"this version has no Triton kernels of {operator}"
        return _triton.why_not(device, dtype)
    if device.type != "cpu":
        return f"it runs on CPU tensors, and these are on {device.type}"
    if dtype not in _CPP_DTYPES:
        return f"its dtypes are float32, float64, bfloat16 and float16, not {dtype}"
    from .ops import _cpp

    return _cpp.why_unavailable()


def choose(operator: str, x: Tensor, argument: str | None = None) -> Choice:
    """The backend for one call of `operator` on x, with the reasons."""
    named = requested(argument)
    if named is None and _is_exporting_to_onnx():
        return Choice("reference", "ONNX has no operators of this package", {})
    order = _AUTOMATIC_ORDER if named is None else (named[0],)
    refusals: dict[str, str] = {}
    for backend in order:
        refusal = why_not(backend, x.device, x.dtype, operator)
        if refusal is None and named is None and backend == "triton" and x.device.type == "cpu":
            refusal = "Triton's interpreter is slow, and runs only when asked for by name"
        if refusal is None:
            reason = "the fastest that can run this call" if named is None else f"asked for by {named[1]}"
            return Choice(backend, reason, refusals)
        refusals[backend] = refusal
    assert named is not None  # the reference refuses nothing
    able = [b for b in BACKENDS if why_not(b, x.device, x.dtype, operator) is None]
    fix = f"choose one of {', '.join(able)}, or drop the request to take the best"
    raise BackendUnavailableError(
        message(
            operator, f"backend {named[0]!r}, asked for by {named[1]}", "to be able to run it", refusals[named[0]], fix
        )
    )


def _is_exporting_to_onnx() -> bool:
    """Whether torch.onnx.export is reading the call, to write PyTorch's own operators down."""
    # Asked last, because it takes microseconds.
    return (torch.compiler.is_compiling() or torch._C._is_tracing()) and torch.onnx.is_in_onnx_export()


def select(operator: str, x: Tensor, argument: str | None = None) -> str:
    """The name of the backend for one call: what `choose` answers, without the account of it."""
    return choose(operator, x, argument).backend
