"""The kernel of the folder above, for versions of `kernels` that import this one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

# Not resolved: in the Hub's cache every file is a link to somewhere else.
_FOLDER = Path(__file__).parent.parent


def _load() -> ModuleType:
    name: str = json.loads((_FOLDER / "metadata.json").read_text(encoding="utf-8"))["id"]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, _FOLDER / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no kernel in {_FOLDER}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_kernel = _load()
__all__ = _kernel.__all__
globals().update({name: getattr(_kernel, name) for name in __all__})
