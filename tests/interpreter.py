"""Triton's interpreter with less to do: conftest.py has it prepare `triton.language` once for a launch.

The interpreter puts its own functions into `triton.language` for the time of a launch.  It looks through that module
again at each call of a device function, though nothing is left to put there: half of the time of most tests of kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from triton import language
from triton.runtime import interpreter


@lru_cache(maxsize=None)
def _languages(function: Callable[..., Any]) -> list[ModuleType]:
    """The modules of the language that a kernel or device function names."""
    values = function.__globals__.values()  # type: ignore[attr-defined]
    return [value for value in values if inspect.ismodule(value) and value in (language, language.core)]


def _is_prepared(module: ModuleType) -> bool:
    """Whether a function and a method of the language are the interpreter's already."""
    return not any(map(language.core.is_builtin, (module.load, module.tensor.to)))


def prepare_once_a_launch() -> None:
    """Leaves the language alone where a launch has prepared all of it that a device function names."""
    prepare = interpreter._patch_lang

    def prepare_if_needed(function: Callable[..., Any]) -> Any:
        return None if all(map(_is_prepared, _languages(function))) else prepare(function)

    interpreter._patch_lang = prepare_if_needed
