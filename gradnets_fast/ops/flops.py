"""The operations that torch.utils.flop_counter counts of operators: those of the matrix products of their reference.

What kernels compute again in the backward pass does not count, so that a network has the count of its plain PyTorch
form.  Registration calls `count`; PyTorch's counter, whose import takes long, is never imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import recompute
from .families import parse_settings
from .operator import NAMESPACE, Operator

_COUNTER = "torch.utils.flop_counter"
_formulas: dict[Any, Callable[..., Any]] = {}


def count(operator: Operator) -> None:
    """Have PyTorch's counter count the operator and its derivatives, whether it is imported before or after this."""
    for suffix, formula in (("", _forward), ("_backward", _backward), ("_double_backward", _double_backward)):
        packet = getattr(getattr(torch.ops, NAMESPACE), operator.registered + suffix)
        _formulas[packet] = partial(formula, operator)
    if _COUNTER in sys.modules:
        _add_to(sys.modules[_COUNTER])
    elif _after_import not in sys.meta_path:
        sys.meta_path.insert(0, _after_import)


def _add_to(counter: Any) -> None:
    counter.flop_registry.update(_formulas)


class _AfterImport(MetaPathFinder):
    """What adds the formulas to PyTorch's counter as soon as somebody has imported that."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _add_to(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_after_import = _AfterImport()


def _forward(operator: Operator, *arguments: Any, out_val: Any = None) -> Any:
    *tensors, settings = arguments
    return _rows(tensors) * _counted(recompute.forward, operator, _one_row(operator, tensors), parse_settings(settings))


def _backward(operator: Operator, g: Tensor, *arguments: Any, out_val: Any = None) -> Any:
    *tensors, settings, needs = arguments
    row, chosen = _one_row(operator, tensors), parse_settings(settings)
    g = g.new_zeros(operator.result_shape(row[0]))
    both = _counted(recompute.backward, operator, g, row, chosen, needs)
    return _rows(tensors) * (both - _counted(recompute.forward, operator, row, chosen))


def _double_backward(operator: Operator, g: Tensor, *arguments: Any, out_val: Any = None) -> Any:
    *given, settings, needs = arguments
    tensors, cotangents = given[: len(operator.arguments)], given[len(operator.arguments) :]
    row, along, chosen = _one_row(operator, tensors), _one_row(operator, cotangents), parse_settings(settings)
    g = g.new_zeros(operator.result_shape(row[0]))
    all_three = _counted(recompute.double_backward, operator, needs, g, row, chosen, along)
    before = _counted(recompute.backward, operator, g, row, chosen, [c is not None for c in along])
    return _rows(tensors) * (all_three - before)


def _counted(function: Callable[..., Any], *arguments: Any) -> int:
    with sys.modules[_COUNTER].FlopCounterMode(display=False) as counter:
        function(*arguments)
    total: int = counter.get_total_flops()
    return total


def _rows(tensors: Sequence[Any]) -> Any:
    """Return how many points there are, of which the count is a multiple; symbolic while a compiler traces."""
    return tensors[0].shape[:-1].numel()


def _one_row(operator: Operator, tensors: Sequence[Any]) -> list[Any]:
    """Return the arguments for a single point."""
    points, parameters = tensors[: operator.point_count], tensors[operator.point_count :]
    return [*(None if t is None else t.new_zeros(1, t.shape[-1]) for t in points), *parameters]
