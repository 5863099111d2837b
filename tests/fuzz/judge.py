"""What has to hold of a call: results and gradients as good as eager PyTorch's, or the error that is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import Case

_FLOOR_ULPS, _FLOAT64_FLOOR_ULPS = 64.0, 1024.0
"""In float64 eager PyTorch is the oracle itself, and the floor stands for its error."""
Named = dict[str, Tensor]
Results = Callable[[Callable[[Named], Tensor], Named, Tensor], list[Tensor]]


def judge(case: Case) -> None:
    """Raise AssertionError unless the call does what it should."""
    _JUDGES.get(case.mode, _compared)(case)


def _compared(case: Case) -> None:
    """Compare the results in the case's dtype with float64's, by the error of eager PyTorch in that dtype.

    Of hundreds of thousands of numbers some are where rounding errors of eager PyTorch happen to cancel, and the least
    favourable ones are looked for here: hence more room than in the other tests.
    """
    drawn, results = case.tensors(), _RESULTS[case.mode](case)
    ours = results(case.ours, drawn.named, drawn.g)
    exact = results(case.oracle, {name: t.double() for name, t in drawn.named.items()}, drawn.g.double())
    eager = results(case.oracle, drawn.named, drawn.g)
    assert [t.shape for t in ours] == [t.shape for t in exact]
    largest = max([_terms(drawn.named), *(float(t.abs().max()) for t in exact if t.numel())])
    for position, (mine, theirs, truth) in enumerate(zip(ours, eager, exact)):
        # What eager PyTorch has no finite numbers for may be anything.
        if truth.numel() and bool(theirs.isfinite().all()):
            error, of_eager = (float((t.double() - truth).abs().max()) for t in (mine, theirs))
            ulps = _FLOAT64_FLOOR_ULPS if mine.dtype == torch.float64 else _FLOOR_ULPS
            # The rounding of W x grows with x, and functions of it may be of order 1 all the same.
            allowed = 4 * of_eager + ulps * max(1.0, case.scale) * torch.finfo(mine.dtype).eps * largest
            assert error <= allowed, (position, error, of_eager, allowed)


def _terms(named: Named) -> float:
    """How large terms are that cancel in the derivatives of a softmax: p |w|² and p² |w|² where p is near 1."""
    if "temperature" not in named:
        return 0.0
    W, factors = named["W"], [named[name] for name in ("temperature", "positive", "negative") if name in named]
    return float(W.double().square().sum(-1).max()) * max(float(t.abs().max()) for t in factors) ** 2


def _gradients(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        needed = case.needed(tensors)
        leaves = {name: t.detach().requires_grad_(needed[name]) for name, t in tensors.items()}
        f = function(leaves)
        wanted = [t for t in leaves.values() if t.requires_grad]
        if not f.requires_grad:  # on the bias f depends, and no derivative
            return [f, *map(torch.zeros_like, wanted)]
        found = torch.autograd.grad(f, wanted, g.to(f.dtype), materialize_grads=True) if wanted else ()
        assert [t.dtype for t in found] == [t.dtype for t in wanted]
        return [f.detach(), *found]

    return results


def _second(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        needed = case.needed(tensors)
        leaves = {name: t.detach().requires_grad_(needed[name]) for name, t in tensors.items()}
        wanted = [t for t in leaves.values() if t.requires_grad]
        if not wanted:
            return []
        cotangent = g.detach().requires_grad_()
        f = function(leaves)
        if not f.requires_grad:
            return []
        first = torch.autograd.grad(f, wanted, cotangent.to(f.dtype), create_graph=True, materialize_grads=True)
        if not any(t.requires_grad for t in first):
            return [t.detach() for t in first]
        weights = [torch.sin(torch.arange(t.numel(), dtype=t.dtype) + 1).view_as(t) for t in first]
        total = sum((t * w).sum() for t, w in zip(first, weights))
        assert isinstance(total, Tensor)
        return list(torch.autograd.grad(total, [cotangent, *wanted], materialize_grads=True))

    return results


def _alone(mode: Callable[[], torch.autograd.grad_mode._DecoratorContextManager]) -> Callable[[Case], Results]:
    def of(case: Case) -> Results:
        def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
            with mode():
                f = function(tensors)
            assert not f.requires_grad
            return [f.clone()]

        return results

    return of


def _vmapped(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        if not case.batch or 0 in case.batch:
            return [function(tensors)]
        names = [name for name in tensors if name in ("x", "v")]
        rest = {name: t for name, t in tensors.items() if name not in names}

        def of_points(*points: Tensor) -> Tensor:
            return function({**dict(zip(names, points)), **rest})

        return [torch.func.vmap(of_points)(*(tensors[name] for name in names))]

    return results


def _by_func(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        def scalar(x: Tensor) -> Tensor:
            return (function({**tensors, "x": x}) * g).sum()

        # With the value, whose terms may cancel in the gradient.
        return [*torch.func.grad_and_value(scalar)(tensors["x"])]

    return results


def _functionalized(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        named = torch.func.functionalize(lambda *parts: function(dict(zip(tensors, parts))))
        return [named(*tensors.values())]

    return results


class _Dispatched(TorchDispatchMode):
    """Calls what PyTorch's dispatcher would call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    """Calls what the caller called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _in_modes(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        with _Called(), _Dispatched():
            return _gradients(case)(function, tensors, g)

    return results


def _aliased(case: Case) -> Results:
    """All tensors one after another in one storage; where there is a v, one leaf is both x and v."""

    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        numbers = torch.cat([t.reshape(-1) for t in tensors.values() if t.dtype == tensors["x"].dtype])
        parts, at = dict(tensors), 0
        for name, t in tensors.items():
            if t.dtype == numbers.dtype:
                parts[name], at = numbers[at : at + t.numel()].view(t.shape), at + t.numel()
        if "v" not in parts:
            return _gradients(case)(function, parts, g)
        del parts["v"]
        return _gradients(case)(lambda leaves: function({**leaves, "v": leaves["x"]}), parts, g)

    return results


def _compiled(case: Case) -> Results:
    def results(function: Callable[[Named], Tensor], tensors: Named, g: Tensor) -> list[Tensor]:
        if function != case.ours:
            return _gradients(case)(function, tensors, g)
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
        return _gradients(case)(compiled, tensors, g)

    return results


def _under_autocast(case: Case) -> None:
    """As of points and weights that were rounded before the call."""
    drawn = case.tensors()
    rounded = {n: t.bfloat16() if n in ("x", "v", "W", "K", "theta") else t for n, t in drawn.named.items()}
    expected = case.ours(rounded)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.ours(drawn.named)
    assert found.dtype == expected.dtype
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def _without_numbers(case: Case) -> None:
    """The shape and dtype of a result are known without its numbers."""
    drawn = case.tensors()
    expected = case.ours(drawn.named)
    with torch.device("meta"):
        tensors = {name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for name, t in drawn.named.items()}
    found = case.ours(tensors, backend=None)
    assert (found.shape, found.dtype, found.device.type) == (expected.shape, expected.dtype, "meta")


def _changed(case: Case) -> None:
    """A tensor that the backward pass reads may not change before it.

    The soft maximum of modules may read a copy, of which then the gradients are.
    """
    drawn = case.tensors()
    leaves = {name: t.detach().clone().requires_grad_() for name, t in drawn.named.items()}
    f = case.ours(leaves)
    if case.variant.combined:
        again = {name: t.detach().clone().requires_grad_() for name, t in drawn.named.items()}
        expected = torch.autograd.grad(case.ours(again), [*again.values()], drawn.g.to(f.dtype), allow_unused=True)
    with torch.no_grad():
        leaves["x"].add_(1)
    if case.variant.combined:
        try:
            found = torch.autograd.grad(f, [*leaves.values()], drawn.g.to(f.dtype), allow_unused=True)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            return
        for mine, due in zip(found, expected):
            assert (mine is None) == (due is None)
            assert mine is None or due is None or torch.equal(mine.nan_to_num(7.0), due.nan_to_num(7.0))
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(f, [*leaves.values()], drawn.g.to(f.dtype), allow_unused=True)


_RESULTS: dict[str, Callable[[Case], Results]] = {
    "gradients": _gradients,
    "second": _second,
    "no_grad": _alone(torch.no_grad),
    "inference": _alone(torch.inference_mode),
    "vmap": _vmapped,
    "func.grad": _by_func,
    "functionalize": _functionalized,
    "modes": _in_modes,
    "aliased": _aliased,
    "compiled": _compiled,
}
_JUDGES: dict[str, Callable[[Case], None]] = {
    "meta": _without_numbers,
    "changed": _changed,
    "autocast": _under_autocast,
}
