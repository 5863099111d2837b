"""A digest of what a kernel is compiled from: the functions, named tuples and constants that its entry reaches.

Whether code that was compiled earlier, or the account of it in table.json, still belongs to these kernels.  Imports
nothing besides the standard library, so that compiled code can be checked before it runs.

Comments, docstrings and the layout of lines do not count, nor do branches for the names of other basis functions and
transforms (`NAME == "…"`): another activation leaves the digests of the kernels that do not use it as they were.
"""

from __future__ import annotations

import ast
import hashlib
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

Place = tuple[str, str]
"""A file of kernels/ without its ending, and a name that is defined in it."""

_Lines = set[int]
_SILENT = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


@dataclass(frozen=True)
class _File:
    """A file's definitions by name, what it imports from its neighbours, and its tokens by line.

    imported: name → (file, name in that file, or "" for the file itself).
    """

    definitions: dict[str, ast.stmt]
    imported: dict[str, Place]
    tokens: dict[int, list[str]]


def names_in(constants: Mapping[str, Any]) -> frozenset[str]:
    """The names of basis functions and transforms among a launch's constants."""
    basis = constants.get("BASIS", ())
    return frozenset((*((basis,) if isinstance(basis, str) else basis), constants.get("TRANSFORM", "")))


@lru_cache(maxsize=None)
def digest(kernel: str, names: frozenset[str]) -> str:
    """The digest of a kernel, such as "entry.forward", compiled for these basis functions and transforms."""
    found = hashlib.sha256()
    for (file, name), silent in sorted(_reached(kernel, names).items()):
        node, tokens = _file(file).definitions[name], _file(file).tokens
        lines = range(_first_line(node), (node.end_lineno or 0) + 1)
        words = [word for line in lines if line not in silent for word in tokens.get(line, ())]
        found.update(" ".join((file, *words, "\n")).encode())
    return found.hexdigest()[:16]


def reached(kernel: str, names: frozenset[str]) -> frozenset[Place]:
    """Everything that a kernel's code refers to, however indirectly, the kernel itself included."""
    return frozenset(_reached(kernel, names))


def _reached(kernel: str, names: frozenset[str]) -> dict[Place, _Lines]:
    """Each place that a kernel reaches, with the lines of it that do not count."""
    file, _, name = kernel.partition(".")
    waiting: list[Place] = [(file, name)]
    found: dict[Place, _Lines] = {}
    while waiting:
        place = waiting.pop()
        if place not in found:
            nodes, found[place] = _walked(_file(place[0]).definitions[place[1]], names)
            waiting += _referred(place[0], nodes)
    return found


def _walked(node: ast.stmt, names: frozenset[str]) -> tuple[list[ast.AST], _Lines]:
    """The nodes of a definition that count, and the lines of those that do not."""
    waiting: list[ast.AST] = [node]
    counting: list[ast.AST] = []
    silent: _Lines = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.If) and _is_for_another_name(part.test, names):
            silent.update(range(part.lineno, (part.body[-1].end_lineno or 0) + 1))
            waiting += part.orelse
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
            silent.update(range(part.lineno, (part.end_lineno or 0) + 1))
        else:
            counting.append(part)
            waiting += ast.iter_child_nodes(part)
    return counting, silent


def _is_for_another_name(test: ast.expr, names: frozenset[str]) -> bool:
    """Whether a condition is NAME == "…", or that and more, with none of `names`."""
    if isinstance(test, ast.BoolOp):
        return isinstance(test.op, ast.And) and any(_is_for_another_name(part, names) for part in test.values)
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    left, right = test.left, test.comparators[0]
    named = isinstance(left, ast.Name) and left.id == "NAME" and isinstance(right, ast.Constant)
    return named and right.value not in names  # type: ignore[attr-defined]


def _referred(file: str, nodes: list[ast.AST]) -> Iterator[Place]:
    """What a definition's nodes name in their own file or in another one."""
    here = _file(file)
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in here.definitions:
            yield file, node.id
        elif isinstance(node, ast.Name) and here.imported.get(node.id, ("", ""))[1]:
            yield here.imported[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            there, name = here.imported.get(node.value.id, ("", ""))
            if there and not name and node.attr in _file(there).definitions:
                yield there, node.attr


@lru_cache(maxsize=None)
def _file(name: str) -> _File:
    path = FOLDER / f"{name}.py"
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, Place] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            definitions[node.targets[0].id] = node
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                place = (node.module, alias.name) if node.module else (alias.name, "")
                imported[alias.asname or alias.name] = place
    return _File(definitions, imported, _tokens(path))


def _tokens(path: Path) -> dict[int, list[str]]:
    """A file's tokens by line; the first of a statement comes after its column, because indentation counts."""
    found: dict[int, list[str]] = {}
    begins = True
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NEWLINE:
                begins = True
            elif token.type not in _SILENT:
                line, column = token.start
                found.setdefault(line, []).extend((str(column), token.string) if begins else (token.string,))
                begins = False
    return found


def _first_line(node: ast.stmt) -> int:
    """The line of a definition's first decorator, or its own."""
    return min((node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))))


def forget() -> None:
    """Have the files read anew."""
    _file.cache_clear()
    digest.cache_clear()
