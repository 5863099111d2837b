"""Who is timed: plain PyTorch, torch.compile of it, the authors' structure, and the kernels, on the same parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backend import why_not
from ..errors import message
from ..nn import GradNet
from .cases import Case
from .plain import plain

JOBS = ("forward", "step")
BACKEND = "cpp"


@dataclass(frozen=True)
class Problem:
    """A case's network, points and cotangent."""

    case: Case
    net: GradNet
    x: Tensor
    g: Tensor


def make_problem(case: Case, batch: int | None = None) -> Problem:
    """The case's tensors from a fixed seed; `batch` replaces the number of points."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = case.make()
        x, g = torch.randn(2, batch or case.batch, case.d).to(case.dtype).unbind()
    return Problem(case, net, x.requires_grad_(), g)


@dataclass(frozen=True)
class Contender:
    """One way to compute f, and the tensors whose gradients a step computes.

    Attributes:
        call: x -> f(x).
        x, parameters: leaves.
    """

    call: Callable[[Tensor], Tensor]
    x: Tensor
    parameters: tuple[Tensor, ...]

    def forward(self) -> Tensor:
        """f(x), without a graph."""
        with torch.no_grad():
            return self.call(self.x)

    def step(self, g: Tensor) -> tuple[Tensor | None, ...]:
        """f(x), and the gradients of <g, f> for x and every parameter; None for one without influence."""
        f = self.call(self.x)
        return (f, *torch.autograd.grad(f, [self.x, *self.parameters], g, allow_unused=True))


Builder = Callable[[Problem], Contender | None]


def eager(problem: Problem) -> Contender:
    """Plain PyTorch as a user would write it."""
    return Contender(plain(problem.net), problem.x, tuple(problem.net.parameters()))


def compiled(problem: Problem, dynamic: bool = False) -> Contender:
    """torch.compile of `eager`; compiled at the first call."""
    # Without the reset, eight cases in, the limit on recompilations of one function would be reached.
    torch.compiler.reset()
    function = torch.compile(plain(problem.net), dynamic=dynamic, fullgraph=True)
    return Contender(function, problem.x, tuple(problem.net.parameters()))


def authors(problem: Problem) -> Contender:
    """The authors' structure: W x in every layer."""
    parameters = dict(problem.net.named_parameters())
    return Contender(lambda x: problem.case.reference(parameters, x), problem.x, tuple(parameters.values()))


def ours(problem: Problem) -> Contender:
    """The module, to be called under use_backend(BACKEND)."""
    net = problem.net
    refusal = why_not(BACKEND, problem.x.device, problem.x.dtype)
    if refusal is not None:
        fix = "choose another case with --case"
        raise RuntimeError(message("bench", f"backend {BACKEND}", "to be able to run the case", refusal, fix))
    return Contender(net, problem.x, tuple(net.parameters()))


def ours_float32(problem: Problem) -> Contender | None:
    """`ours` on float32 copies, beside a case in another dtype; None for one in float32."""
    if problem.case.dtype == torch.float32:
        return None
    net = problem.case.make(dtype=torch.float32)
    net.load_state_dict(problem.net.state_dict())
    x = problem.x.detach().float().requires_grad_()
    return Contender(net, x, tuple(net.parameters()))


CONTENDERS: Mapping[str, Builder] = {
    "eager": eager,
    "compile": compiled,
    "authors": authors,
    "ours": ours,
    "ours float32": ours_float32,
}
