"""Modules whose parameters are parametrized (torch.nn.utils.parametrize), as orthogonal or normalised weights are.

PyTorch gives such a module a class of its own, a subclass that has the parametrized tensors as properties, and keeps
what they are computed from under other names.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module, without its parametrizations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def take_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Give a module a class; its parametrizations remain, and can be removed as before."""
    if is_parametrized(module):
        own = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{cls.__name__}", (cls,), own)
    module.__class__ = cls


def named_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The parameters of a module and its parts under the names by which forward reads them.

    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> [name for name, _ in named_tensors(nn.Sequential(weight_norm(nn.Linear(2, 2))))]
    ['0.bias', '0.weight']
    """
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    parametrized = module._modules["parametrizations"] if is_parametrized(module) else None
    for name, _ in parametrized.named_children() if parametrized is not None else ():
        yield prefix + name, getattr(module, name)
    for name, child in module._modules.items():
        if child is not None and child is not parametrized:
            yield from named_tensors(child, f"{prefix}{name}.")
