"""Modules of a model become ours in place, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import message
from .forms import Form, forms
from .report import Entry, Report

_RECORD = "_before_gradnets_fast"
_POINTS = 32
_ULPS = {torch.bfloat16: 8, torch.float16: 16}
_MOST_ULPS = 256
"""Of float32 and float64, where rounding errors are far from what a wrong form does."""


def accelerate(model: nn.Module) -> Report:
    """Has every gradient network in a model run by this package's kernels, in place.

    A module that has the parameters of one of the architectures, by name and shape, takes on their class; the module
    itself, its Parameter objects, buffers and hooks remain, so that optimisers, averages of weights and checkpoints go
    on as they were.  First f is computed both ways at random points: on a difference the module is left as it is.
    Modules under other names are meant where `register_adapter` was told of them.

    Args:
        model: any module; it may be a gradient network itself.

    Returns:
        What was swapped, and what was not with the reason; prints as a list.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch
    >>> from gradnets_fast import mGradNetC, restore
    >>> print(accelerate(torch.nn.Linear(2, 2)))
    gradnets_fast: no module has the structure of a gradient network; see register_adapter
    """
    _check(model, "accelerate")
    return Report(tuple(entry for path, module in list(model.named_modules()) for entry in _swapped(path, module)))


def restore(model: nn.Module) -> int:
    """Undoes `accelerate`, in place; returns how many modules are as they came.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch
    >>> restore(torch.nn.Linear(2, 2))
    0
    """
    _check(model, "restore")
    count = 0
    for module in model.modules():
        if _RECORD in vars(module):  # parts of a network go back with it
            _undo(module)
            count += 1
    return count


def _check(model: object, where: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            message(where, "model", "a torch.nn.Module", type(model).__name__, "pass the model, not its parameters")
        )


def _swapped(path: str, module: nn.Module) -> list[Entry]:
    """The entry of a module, if it has the structure of a gradient network."""
    was = type(module).__name__
    try:
        candidates = forms(module)
    except Exception as error:  # a user's adapter, or a module with a part missing, may raise anything
        return [Entry(path, was, None, f"its adapter or structure fails: {type(error).__name__}: {error}")]
    if candidates is None:
        return []
    reasons = [form for form in candidates if isinstance(form, str)]
    able = [form for form in candidates if not isinstance(form, str)]
    if not able:
        return [Entry(path, was, None, "; ".join(dict.fromkeys(reasons)))]
    try:
        points = _probe(module, able[0].in_dim)
        before = _value(module, points)
    except Exception as error:  # as may a user's forward
        return [Entry(path, was, None, f"its forward fails at random points: {type(error).__name__}: {error}")]
    for form in able:
        _become(module, form)
        try:
            difference = _difference(_value(module, points), before)
        except Exception as error:
            reason = f"{form.label} fails: {error}"
        else:
            if difference <= _ULPS.get(before.dtype, _MOST_ULPS) * torch.finfo(before.dtype).eps:
                return [Entry(path, was, form.label, error=difference)]
            reason = f"{form.label} differs by {difference:.1e} of the largest value"
        _undo(module)
        reasons.append(reason)
    return [Entry(path, was, None, "; ".join(reasons))]


def _probe(module: nn.Module, d: int) -> Tensor:
    """Random points, from a generator of their own, where the module's parameters are."""
    weight = next(module.parameters())
    return torch.randn(_POINTS, d, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)


def _value(module: nn.Module, points: Tensor) -> Tensor:
    """f without hooks, which may count calls."""
    with torch.no_grad():
        result: Tensor = module.forward(points)
    return result


def _difference(after: Tensor, before: Tensor) -> float:
    if after.shape != before.shape or after.dtype != before.dtype:
        raise ValueError(f"f has shape {tuple(after.shape)}, not {tuple(before.shape)}")
    largest = before.double().abs().max().clamp_min(torch.finfo(before.dtype).tiny)
    return float((after.double() - before.double()).abs().max() / largest)


def _become(module: nn.Module, form: Form) -> None:
    """Gives a module the class and attributes of a form, and keeps what they replace."""
    own = vars(module)
    # Its own `monotone`, say, would hide the class's.
    hiding = {name for name in own if hasattr(form.cls, name) and not hasattr(nn.Module, name)}
    replaced = {name: own.pop(name) for name in hiding | (own.keys() & form.attributes.keys())}
    own[_RECORD] = (type(module), replaced, tuple(form.attributes))
    own.update(form.attributes)
    module.__class__ = form.cls
    for name, part in form.parts.items():
        _become(module.get_submodule(name), part)


def _undo(module: nn.Module) -> None:
    own = vars(module)
    cls, replaced, names = own.pop(_RECORD)
    for name in names:
        del own[name]
    own.update(replaced)
    module.__class__ = cls
    for child in module.children():
        if _RECORD in vars(child):
            _undo(child)
