"""What a compiled kernel was compiled from.  Imports nothing, so that compiled code can be checked before it runs."""

from __future__ import annotations

import hashlib
import tokenize
from functools import lru_cache
from pathlib import Path

FILES = {
    "ridge": ("_activations_gen", "cascade", "common", "entry", "integral", "jacobian", "narrow", "parts", "ridge"),
    "modules": ("_activations_gen", "common", "modules", "modules_entry", "modules_programs", "parts", "transforms"),
    "wide": ("_activations_gen", "cascade", "common", "wide"),
}
"""The code of each family of kernels."""

ENTRIES = {"entry": "ridge", "modules_entry": "modules", "wide": "wide"}
"""The files with kernels that are launched, and their families."""

_KEPT = (tokenize.NAME, tokenize.OP, tokenize.NUMBER)


@lru_cache(maxsize=None)
def digest(family: str) -> str:
    """A digest of a family's code without comments and docstrings."""
    found = hashlib.sha256()
    for name in FILES[family]:
        with Path(__file__).with_name(f"{name}.py").open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in _KEPT or token.string[:1] in "\"'":
                    found.update(b"" if token.string.startswith('"""') else token.string.encode() + b" ")
    return found.hexdigest()[:16]
