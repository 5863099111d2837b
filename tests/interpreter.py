"""Triton's interpreter with less to do: conftest.py has it do once what it does at each operation.

The interpreter puts its own functions into `triton.language` for the time of a launch.  It looks through that module
again at each call of a device function, though nothing is left to put there: half of the time of most tests of kernels.
Half of the rest goes into types: each value's shape is unwrapped, checked and printed, and each operand broadcast, also
where two values have one shape already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from triton import language
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

core = language.core


@lru_cache(maxsize=None)
def _languages(function: Callable[..., Any]) -> list[ModuleType]:
    """The modules of the language that a kernel or device function names."""
    values = function.__globals__.values()  # type: ignore[attr-defined]
    return [value for value in values if inspect.ismodule(value) and value in (language, core)]


def _is_prepared(module: ModuleType) -> bool:
    """Whether a function and a method of the language are the interpreter's already."""
    return not any(map(core.is_builtin, (module.load, module.tensor.to)))


def prepare_once_a_launch() -> None:
    """Leaves the language alone where a launch has prepared all of it that a device function names."""
    prepare = interpreter._patch_lang

    def prepare_if_needed(function: Callable[..., Any]) -> Any:
        return None if all(map(_is_prepared, _languages(function))) else prepare(function)

    interpreter._patch_lang = prepare_if_needed


def make_types_once() -> None:
    """Has types and values of a shape and an element share what follows from these, and NumPy's types looked up."""
    core.block_type.__init__ = _block_type(core.block_type.__init__)
    core.tensor.__init__ = _tensor(core.tensor.__init__)
    interpreter._get_np_dtype = _numpy_type(interpreter._get_np_dtype)
    TritonSemantic.broadcast_impl_value = _broadcast(TritonSemantic.broadcast_impl_value)


def _block_type(original: Callable[..., None]) -> Callable[..., None]:
    made: dict[Any, dict[str, Any]] = {}

    def initialise(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in made:
            original(self, element_ty, shape)
            made[key] = dict(vars(self))
        vars(self).update(made[key], element_ty=element_ty)

    return initialise


def _tensor(original: Callable[..., None]) -> Callable[..., None]:
    made: dict[str, dict[str, Any]] = {}

    def initialise(self: Any, handle: Any, type: Any) -> None:
        if type.name not in made:
            original(self, handle, type)
            made[type.name] = dict(vars(self))
        vars(self).update(made[type.name], handle=handle, type=type, dtype=type.scalar)

    return initialise


def _numpy_type(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    made: dict[str, Any] = {}

    def looked_up(type: Any) -> Any:
        if type.name not in made:
            made[type.name] = original(type)
        return made[type.name]

    return looked_up


def _broadcast(original: Callable[..., Any]) -> Callable[..., Any]:
    def broadcast_unless_alike(self: Any, lhs: Any, rhs: Any) -> Any:
        if lhs.type.is_block() and rhs.type.is_block() and [*lhs.type.shape] == [*rhs.type.shape]:
            return lhs, rhs
        return original(self, lhs, rhs)

    return broadcast_unless_alike
