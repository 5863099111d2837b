"""`explain`: what would run, on which kernel, and why not something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from . import functional
from .backend import choose
from .errors import check_choice, check_points, message
from .functional import _determinant

__all__ = ["Explanation", "explain"]

_OPERATORS = (*functional.__all__, *_determinant.__all__)


@dataclass(frozen=True)
class Explanation:
    """What would run for one call, as `explain` finds it; prints as a few lines.

    Attributes:
        operator: the operator's name.
        backend: the backend that would run it.
        kernel: what exactly would run.
        reason: why this backend.
        rejected: for the other backends, why not.

    >>> import torch, gradnets_fast
    >>> found = gradnets_fast.explain("ridge", torch.zeros(3, 2), backend="reference")
    >>> found.operator, found.kernel, found.reason
    ('ridge', "PyTorch's own operators, torch.float32, on cpu", 'asked for by the argument backend=')
    """

    operator: str
    backend: str
    kernel: str
    reason: str
    rejected: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"operator  {self.operator}",
            f"backend   {self.backend}: {self.reason}",
            f"kernel    {self.kernel}",
        ]
        lines += [f"not       {backend}: {reason}" for backend, reason in self.rejected.items()]
        return "\n".join(lines)


def explain(
    module_or_op: torch.nn.Module | Callable[..., Tensor] | str, x: Tensor, *, backend: str | None = None
) -> Explanation:
    """Says which backend and kernel would compute a module or an operator at x, and why not the others.

    Equivalent to: the choice that the call itself makes; nothing is computed.

    Args:
        module_or_op: a module of gradnets_fast.nn, a function of gradnets_fast.functional, or its name.
        x: the points of the call, (…, d), or matrices, (…, d, d), of determinants; only d, device and dtype matter.
        backend: as in the call.

    Returns:
        An `Explanation`, which prints as a few lines.

    Raises:
        TypeError, ValueError: not such a module or operator.
        BackendUnavailableError: a backend is asked for by name and cannot run the call.

    >>> import torch, gradnets_fast
    >>> gradnets_fast.explain("ridge", torch.zeros(3, 2), backend="reference").backend
    'reference'
    """
    operator = _operator_name(module_or_op)
    if operator in _determinant.__all__:
        return _of_determinants(operator, x, backend)
    check_points("explain", x)
    x = functional.autocast(x)
    network = _network(module_or_op)
    choice = choose(operator + network.settings().profile if network else operator, x, backend)
    return Explanation(
        operator,
        choice.backend,
        _kernel(operator, choice.backend, x, network),
        choice.reason,
        choice.rejected,
    )


def _of_determinants(operator: str, A: Tensor, backend: str | None) -> Explanation:
    from .ops import _cpp, _triton_cholesky

    _determinant.check_matrices("explain", A)
    A = A.float() if A.dtype in (torch.bfloat16, torch.float16) else A
    choice = _determinant.choose(A, backend)
    if choice.backend == "reference":
        kernel = f"torch.linalg, {A.dtype}, on {A.device}"
    else:
        kernel = _triton_cholesky.describe(A) if choice.backend == "triton" else _cpp.describe(A.dtype)
        kernel += "; torch.linalg where a matrix is not positive definite"
    return Explanation(operator, choice.backend, kernel, choice.reason, choice.rejected)


def _operator_name(module_or_op: torch.nn.Module | Callable[..., Tensor] | str) -> str:
    if isinstance(module_or_op, str):
        name = module_or_op
    else:
        name = getattr(module_or_op, "operator_name", getattr(module_or_op, "__name__", ""))
        if not isinstance(name, str) or not name:
            fix = "pass a module of gradnets_fast.nn or a function of gradnets_fast.functional"
            raise TypeError(
                message("explain", "module_or_op", "a module or operator", type(module_or_op).__name__, fix)
            )
    check_choice("explain", "module_or_op", name, _OPERATORS)
    return name


def _network(module_or_op: object) -> Any:
    """Return a module's arguments of its operator; those of an operator alone are not known, and None."""
    effective = getattr(module_or_op, "_effective", None)
    if effective is None:
        return None
    with torch.no_grad():
        return effective()


def _kernel(operator: str, backend: str, x: Tensor, network: Any) -> str:
    if backend == "reference":
        return f"PyTorch's own operators, {x.dtype}, on {x.device}"
    from .ops import _cpp, _triton, _triton_account, _triton_conv

    if backend != "triton":
        return _cpp.describe(x.dtype)
    arguments = network and {field.name: getattr(network, field.name) for field in fields(network)}
    if operator in _triton.CONVOLUTIONS:
        return _triton_conv.describe(operator, x, arguments)
    return _triton_account.describe(operator, x, arguments)
