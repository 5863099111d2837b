"""Output to terminals and pipes that lack a character: something like it stands for it."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

_LIKE = {"×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "→": "->", "½": " 1/2", "≤": "<=", "≥": ">="}
_LIKE |= {"∞": "inf", "∇": "grad ", "Σ": "sum "}
_NAME = "gradnets_fast.like"


def write_anywhere(streams: Iterable[Any] = ()) -> None:
    """Let standard output and standard error, or these streams, write any text, whatever their encoding."""
    codecs.register_error(_NAME, _in_its_place)
    for stream in streams or (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_NAME)


def _in_its_place(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(like, error.object[error.start : error.end])), error.end


def like(character: str) -> str:
    """ASCII that a reader takes for the character, or "?".

    >>> "".join(map(like, "|J − Jᵀ| ≤ 2½ ρ … \\udcff"))
    '|J - JT| <= 2 1/2 rho ... ?'
    """
    name = unicodedata.name(character, "")
    if name.startswith("GREEK") and character not in _LIKE:
        return name.split()[3].lower()
    if name.startswith("BOX DRAWINGS"):
        return "|" if "VERTICAL" in name else "-"
    return _LIKE.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
