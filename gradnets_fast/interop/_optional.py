"""Imports of the libraries that this folder adapts to."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..errors import message


def require(where: str, *names: str) -> Any:
    """Import a module that goes by one of `names`: one that is imported already, else the first that is installed.

    Raises:
        ImportError: none of them can be imported.

    >>> require("an example", "no_such_library", "math").gcd(4, 6)
    2
    """
    causes = []
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            causes.append(str(error))
    fix = "pip install 'gradnets_fast[interop]'"
    raise ImportError(message(where, "import", " or ".join(names), "; ".join(causes), fix), name=names[0])
