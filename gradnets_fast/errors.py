"""Input checks of the public operators, and their messages: argument, expected, got, fix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
import torch.fx
from torch import Tensor

from .activations import TABLE, TRANSFORMS

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_HALF = (torch.bfloat16, torch.float16)
_LIKE_POINTS = ("W", "K", "theta", "v")
"""What has the dtype of the points even where those have 16 bits."""
_FLOATING_DTYPE = "a floating dtype (float64, float32, bfloat16 or float16)"


def message(where: str, argument: str, expected: object, got: object, fix: str) -> str:
    """The one form of every error message.

    >>> message("ridge", "W", "2 dimensions (h, d)", "shape (3,)", "pass a matrix")
    'ridge: W: expected 2 dimensions (h, d), got shape (3,); pass a matrix'
    """
    return f"{where}: {argument}: expected {expected}, got {got}; {fix}"


def is_message(text: str) -> bool:
    """Whether a text has the form that `message` gives.

    >>> is_message(message("ridge", "W", "a matrix", "a vector", "reshape it")), is_message("index out of range")
    (True, False)
    """
    return ": expected " in text and ", got " in text and "; " in text


def check_choice(where: str, argument: str, got: str, choices: Sequence[str], fix: str = "choose one of these") -> None:
    """Raises ValueError unless `got` is one of `choices`."""
    if got not in choices:
        raise ValueError(message(where, argument, "one of " + ", ".join(choices), repr(got), fix))


def as_int(value: Any) -> Any:
    """Return an integer of another library, such as NumPy's, as an int; anything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def check_positive(where: str, argument: str, got: object) -> None:
    """Raises unless `got` is an integer above 0."""
    if not isinstance(got, Integral) or isinstance(got, bool):
        raise TypeError(message(where, argument, "a positive integer", repr(got), f"pass {argument} as an int"))
    if got < 1:
        raise ValueError(message(where, argument, "a positive integer", got, f"pass {argument} >= 1"))


def check_positive_number(where: str, argument: str, got: object) -> None:
    """Raises unless `got` is a finite number above 0."""
    expected, fix = "a finite number above 0", f"pass for example {argument}=1.0"
    if not isinstance(got, Real) or isinstance(got, bool):
        raise TypeError(message(where, argument, expected, repr(got), fix))
    if not 0.0 < float(got) < math.inf:
        raise ValueError(message(where, argument, expected, got, fix))


def check_flag(where: str, argument: str, got: object) -> None:
    """Raises TypeError unless `got` is True or False."""
    if type(got) is not bool:
        fix = f"pass {argument}=True or {argument}=False"
        raise TypeError(message(where, argument, "True or False", repr(got), fix))


def check_dtype(where: str, dtype: object) -> None:
    """Raises TypeError unless parameters can have the dtype; None is PyTorch's default."""
    if dtype is not None and dtype not in FLOATING:
        raise TypeError(message(where, "dtype", _FLOATING_DTYPE, repr(dtype), "for example dtype=torch.float32"))


def check_parameters(where: str, parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raises TypeError unless every parameter is a dense tensor of floating dtype."""
    for name, parameter in parameters:
        check_tensor(where, name, parameter)
        if parameter.dtype not in FLOATING:
            fix = "convert the network, for example net.float()"
            raise TypeError(message(where, name, _FLOATING_DTYPE, parameter.dtype, fix))


def check_basis(where: str, basis: Sequence[str]) -> None:
    """Raises unless it is a sequence of names of the activation table."""
    if not isinstance(basis, Sequence) or not all(isinstance(name, str) for name in basis):
        raise TypeError(message(where, "basis", "a name or a sequence of names", repr(basis), 'for example "tanh"'))
    if not basis:
        raise ValueError(message(where, "basis", "at least one name", "none", 'for example basis="tanh"'))
    for name in basis:
        check_choice(where, "basis", name, list(TABLE), "these are the functions that kernels exist for")


def check_transform(where: str, transform: str) -> None:
    """Raises ValueError unless the name is in the table of transforms."""
    check_choice(where, "transform", transform, list(TRANSFORMS))


def check_points(where: str, x: Tensor, d: int | None = None) -> None:
    """Checks the points x (…, d)."""
    check_tensor(where, "x", x)
    if x.dtype not in FLOATING:
        fix = "convert it, for example x.float()"
        raise TypeError(message(where, "x", _FLOATING_DTYPE, x.dtype, fix))
    fix = "put the coordinates of a sample in the last dimension"
    if d is None and x.dim() < 1:
        raise ValueError(message(where, "x", "shape (…, d)", "shape ()", fix))
    if d is not None and (x.dim() < 1 or x.shape[-1] != d):
        raise ValueError(message(where, "x", f"shape (…, {d}), W being (…, {d})", f"shape {tuple(x.shape)}", fix))


def check_weight(where: str, W: Tensor, dimensions: str) -> None:
    """Checks the weight matrix: `dimensions` is "(h, d)" or "(M, h, d)"."""
    check_tensor(where, "W", W)
    if W.dim() != dimensions.count(",") + 1 or 0 in W.shape:
        fix = "pass one row of W for each hidden unit"
        raise ValueError(message(where, "W", f"a nonempty {dimensions}", f"shape {tuple(W.shape)}", fix))


def check_like(
    where: str,
    argument: str,
    got: Tensor | None,
    shape: tuple[int, ...],
    names: str,
    x: Tensor,
    *,
    optional: bool = False,
) -> None:
    """Checks a parameter's shape, device and dtype against the points; float32 may accompany 16-bit points."""
    if got is None and optional:
        return
    check_tensor(where, argument, got)
    assert got is not None
    if tuple(got.shape) != shape:
        fix = f"reshape {argument} to {names} = {shape}"
        raise ValueError(message(where, argument, f"shape {names} = {shape}", f"shape {tuple(got.shape)}", fix))
    if got.device != x.device:
        fix = f"move one of them, for example x.to({str(got.device)!r})"
        raise ValueError(message(where, argument, f"device {x.device} like x", got.device, fix))
    vector_in_float32 = argument not in _LIKE_POINTS and got.dtype == torch.float32 and x.dtype in _HALF
    if got.dtype != x.dtype and not vector_in_float32:
        fix = f"convert one of them, for example x.to({got.dtype})"
        raise TypeError(message(where, argument, f"dtype {x.dtype} like x", got.dtype, fix))


def check_tensor(where: str, argument: str, got: object) -> None:
    """Raises TypeError unless `got` is a dense tensor."""
    if isinstance(got, torch.fx.Proxy):
        fix = "trace by torch.export or make_fx, or by a torch.fx.Tracer whose is_leaf_module is True of the network"
        raise TypeError(message(where, argument, "a torch.Tensor", "a Proxy of torch.fx.symbolic_trace", fix))
    if not isinstance(got, Tensor):
        fix = f"wrap it, for example torch.as_tensor({argument})"
        raise TypeError(message(where, argument, "a torch.Tensor", type(got).__name__, fix))
    if got.is_nested:  # its layout may be torch.strided
        fix = f"pass its parts in turn, those of {argument}.unbind()"
        raise TypeError(message(where, argument, "a dense tensor", "a nested tensor", fix))
    if got.layout != torch.strided:
        raise TypeError(message(where, argument, "a dense tensor", got.layout, f"pass {argument}.to_dense()"))
