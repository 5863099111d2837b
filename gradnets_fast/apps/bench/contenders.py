"""Who is timed: plain PyTorch, torch.compile of it, the authors' structure, and the backends, on the same tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...backend import BACKENDS, use_backend, why_not
from ...errors import message
from .cases import Case, Function, Problem

OURS_ON = {"cpu": "cpp", "cuda": "triton"}
"""The backend that the contender `ours` is, by the device's type."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a result, and the tensors whose gradients a step computes.

    Attributes:
        call: (*points) -> the result.
        points, parameters: leaves.
        backend: that it has to be called under, if there is one.
    """

    call: Function
    points: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    backend: str | None

    def active(self) -> AbstractContextManager[None]:
        """Has `forward` and `step` run on the backend within it."""
        return nullcontext() if self.backend is None else use_backend(self.backend)

    def forward(self) -> Tensor:
        """The result, without a graph."""
        with torch.no_grad():
            return self.call(*self.points)

    def step(self, g: Tensor) -> tuple[Tensor | None, ...]:
        """The result f, and the gradients of <g, f> for points and parameters; None for one without influence."""
        f = self.call(*self.points)
        return (f, *torch.autograd.grad(f, [*self.points, *self.parameters], g, allow_unused=True))


@dataclass(frozen=True)
class Compiled(Contender):
    """Another library's functions of the same numbers.

    Attributes:
        value: () -> the result.
        value_and_gradients: g -> the result and the gradients of <g, result>.
    """

    value: Callable[[], Tensor]
    value_and_gradients: Callable[[Tensor], tuple[Tensor, ...]]

    def forward(self) -> Tensor:
        """The result."""
        return self.value()

    def step(self, g: Tensor) -> tuple[Tensor | None, ...]:
        """The result, and the gradients of <g, result> for points and parameters."""
        return self.value_and_gradients(g)


Builder = Callable[[Problem], Contender | None]


def of_function(function: Function, problem: Problem, backend: str | None = None) -> Contender:
    """A function of a problem's points and its own parameters."""
    return Contender(function, problem.points, tuple(problem.parameters.values()), backend)


def eager(problem: Problem) -> Contender:
    """Plain PyTorch as a user would write it."""
    return of_function(problem.eager, problem)


def compiled(problem: Problem, dynamic: bool = False, mode: str | None = None) -> Contender:
    """torch.compile of `eager` in one of its modes; compiled at the first call."""
    # Without the reset, eight cases in, the limit on recompilations of one function would be reached.
    torch.compiler.reset()
    return of_function(torch.compile(problem.eager, dynamic=dynamic, fullgraph=True, mode=mode), problem)


def authors(problem: Problem) -> Contender | None:
    """The authors' structure, W x in every layer; None where that is no other than eager PyTorch's."""
    return None if problem.authors is None else of_function(problem.authors, problem)


def by_backend(backend: str, problem: Problem) -> Contender:
    """This package on one backend.

    Raises:
        RuntimeError: it cannot run the case.
    """
    x = problem.points[0]
    check_backend(backend, x.dtype, x.device)
    return of_function(problem.ours, problem, backend)


def ours(problem: Problem) -> Contender:
    """This package on the kernels of the device."""
    return by_backend(OURS_ON[problem.points[0].device.type], problem)


def ours_float32(problem: Problem) -> Contender | None:
    """`ours` on float32 copies, beside a network in another dtype; None for one in float32."""
    return None if problem.in_float32 is None else ours(problem.in_float32())


def by_jax(problem: Problem) -> Contender | None:
    """jax.jit of the same network; None where JAX is not installed, or the network has another form."""
    if problem.by_jax is None or importlib.util.find_spec("jax") is None:
        return None
    from . import with_jax

    jobs = with_jax.compiled(problem.points, problem.parameters, problem.by_jax)
    if jobs is None:
        return None
    return Compiled(problem.eager, problem.points, tuple(problem.parameters.values()), None, *jobs)


CONTENDERS: Mapping[str, Builder] = {
    "jax": by_jax,
    "eager": eager,
    "compile": compiled,
    "compile, max-autotune": partial(compiled, mode="max-autotune-no-cudagraphs"),
    "authors": authors,
    "ours": ours,
    "ours float32": ours_float32,
    **{backend: partial(by_backend, backend) for backend in BACKENDS},
}


def is_ours(name: str) -> bool:
    """Whether a contender is this package.

    >>> is_ours("ours float32"), is_ours("triton"), is_ours("eager")
    (True, True, False)
    """
    return name.startswith("ours") or name in BACKENDS


def check_backend(backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raises RuntimeError if a backend cannot run points of a dtype on a device."""
    refusal = why_not(backend, device, dtype)
    if refusal is not None:
        able = [name for name in BACKENDS if why_not(name, device, dtype) is None]
        fix = f"choose among {', '.join(able)}, or another dtype or device"
        raise RuntimeError(message("bench", f"backend {backend}", f"to run {dtype} on {device}", refusal, fix))


def fastest_backend(case: Case, device: torch.device) -> str:
    """What the package chooses by itself for a case: the kernels of the device if they can, else the reference."""
    own = OURS_ON[device.type]
    refusal = why_not(own, device, case.precision.dtype, getattr(case, "operator", ""))
    return own if refusal is None else "reference"
