"""Which derivatives of which operator each backend computes, by kernels or in plain PyTorch, and how exactly.

    python -m bench.backends

Every operator runs at a small shape, in float32, on every backend that this machine has: Triton's kernels in its
interpreter.  Its result, its gradients and its second derivatives are held against float64 by the rule of the tests,
and so is what torch.func and torch.compile make of it.  Whether a kernel or plain PyTorch did the work is observed, not
looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.environment import RESULTS, environment
from gradnets_fast import functional
from gradnets_fast.apps.accuracy import half_the_digits, judged
from gradnets_fast.apps.draws import Drawn, Variant, drawn, family, oracle
from gradnets_fast.apps.files import write_json
from gradnets_fast.backend import BACKENDS, why_not
from gradnets_fast.ops import recompute

SIZES = {"triton": (4, 3, 8)}
"""Batch, d, h for the interpreter, which is slow."""
SIZE = (33, 5, 17)
OF_INTERPRETER = 4
"""How many of the checks it runs: the transforms are the same registration for every backend."""
VARIANTS = {
    "ridge": Variant("ridge", 2, ("tanh", "softplus")),
    "softmax_modules": Variant("softmax_modules", 2),
    "transformed_modules": Variant("transformed_modules", 2, ("softplus",), "log"),
    "deep": Variant("deep", 2, ("softplus", "silu")),
    "conv_ridge": Variant("conv_ridge", 1, ("silu",)),
}
Function = Callable[..., Tensor]
"""Tensors in the order of `Drawn.named` -> the operator's result."""


@contextmanager
def recomputed() -> Iterator[list[str]]:
    """Collects what plain PyTorch is asked for in place of a kernel."""
    asked: list[str] = []
    names = ("forward", "backward", "double_backward")
    before = {name: getattr(recompute, name) for name in names}

    def watched(name: str, *arguments: Any) -> Any:
        asked.append(name)
        return before[name](*arguments)

    for name in names:
        setattr(recompute, name, partial(watched, name))
    try:
        yield asked
    finally:
        for name in names:
            setattr(recompute, name, before[name])


def _result(function: Function, tensors: Sequence[Tensor], of: Drawn) -> list[Tensor]:
    return [function(*tensors)]


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def _gradients(function: Function, tensors: Sequence[Tensor], of: Drawn) -> list[Tensor]:
    leaves = _leaves(tensors)
    g = of.g.to(tensors[0].dtype)
    return list(torch.autograd.grad(function(*leaves), leaves, g, materialize_grads=True))


def _second(function: Function, tensors: Sequence[Tensor], of: Drawn, through: slice) -> list[Tensor]:
    """The gradients of the sum of squares of the first derivatives in the points, or in the parameters."""
    leaves = _leaves(tensors)
    g = of.g.to(tensors[0].dtype)
    found = torch.autograd.grad(function(*leaves), leaves[through], g, create_graph=True, materialize_grads=True)
    return list(torch.autograd.grad(sum(t.square().sum() for t in found), leaves, materialize_grads=True))


def _forward_mode(function: Function, tensors: Sequence[Tensor], of: Drawn) -> list[Tensor]:
    """The derivative along the points themselves."""
    x, *others = tensors
    return [torch.func.jvp(lambda at: function(at, *others), (x,), (x,))[1]]


def _vmapped(function: Function, tensors: Sequence[Tensor], of: Drawn) -> list[Tensor]:
    """The results of single points."""
    count = len(of.points)
    dims = (0,) * count + (None,) * (len(tensors) - count)
    return [torch.func.vmap(function, dims)(*tensors)]


def _compiled(function: Function, tensors: Sequence[Tensor], of: Drawn) -> list[Tensor]:
    torch._dynamo.reset()
    return [torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors)]


def checks(count: int) -> dict[str, Callable[[Function, Sequence[Tensor], Drawn], list[Tensor]]]:
    """What is computed of an operator with this many tensors of points, by name."""
    return {
        "result": _result,
        "gradients": _gradients,
        "second derivatives through the points": partial(_second, through=slice(0, count)),
        "second derivatives through the parameters": partial(_second, through=slice(count, None)),
        "torch.func.jvp": _forward_mode,
        "torch.func.vmap": _vmapped,
        "torch.compile": _compiled,
    }


def row(operator: str, backend: str) -> dict[str, Any]:
    """What came of all checks of an operator on a backend."""
    variant, size = VARIANTS[family(operator)], SIZES.get(backend, SIZE)
    of = drawn(operator, variant, torch.float32, size, torch.Generator().manual_seed(0), "cpu")
    reference = of.in_order(oracle(operator, variant, size[2]))
    function = of.in_order(partial(getattr(functional, operator), **variant.settings(size[2]), backend=backend))
    tensors = list(of.named.values())
    exactly = [t.double() for t in tensors]
    eps, found = torch.finfo(torch.float32).eps, {}
    for name, check in list(checks(len(of.points)).items())[: OF_INTERPRETER if backend == "triton" else None]:
        plain = _result if name in ("torch.func.vmap", "torch.compile") else check
        exact, eager = plain(reference, exactly, of), plain(reference, tensors, of)
        with recomputed() as asked:
            got = check(function, tensors, of)
        verdict = judged([name] * len(got), got, eager, exact, eps, half_the_digits(eps))
        by = "PyTorch" if asked or backend == "reference" else "kernel"
        found[name] = {"by": by, "fault": verdict.fault, "relative_error": verdict.relative_error}
    return {"operator": operator, "backend": backend, "size": size, "found": found}


def main() -> None:
    """Writes bench/results/backends.json."""
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton, which a look for backends is
    torch.set_num_threads(1)
    able = [name for name in BACKENDS if why_not(name, torch.device("cpu"), torch.float32) is None]
    rows = []
    for operator in functional.__all__:
        rows += [row(operator, backend) for backend in able]
        print(operator, flush=True)
    write_json(RESULTS / "backends.json", {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
