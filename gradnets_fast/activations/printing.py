"""Turns expressions into source text: what codegen.py prints for kernels, and export prints for people's programs."""

from __future__ import annotations

from collections.abc import Callable

from .expression import Expression

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "gt": ">", "le": "<="}


class Printer:
    """Turns expressions into assignments, one for each node that is used more than once.

    leaf: the text of an x or a constant; call: that of any other operation but infix ones, from its operands' texts.
    """

    def __init__(self, leaf: Callable[[Expression], str], call: Callable[[Expression, list[str]], str]) -> None:
        self._leaf = leaf
        self._call = call
        self._uses: dict[Expression, int] = {}
        self._names: dict[Expression, str] = {}
        self.assignments: list[tuple[str, str]] = []

    def print(self, outputs: tuple[Expression, ...]) -> list[str]:
        """Return the text of each output, after `assignments`, which it adds to."""
        for output in outputs:
            self._count(output)
        return [self._emit(output) for output in outputs]

    def _count(self, node: Expression) -> None:
        self._uses[node] = self._uses.get(node, 0) + 1
        if self._uses[node] == 1:
            for operand in node.operands:
                self._count(operand)

    def _emit(self, node: Expression) -> str:
        if not node.operands:
            return self._leaf(node)
        if node in self._names:
            return self._names[node]
        operands = [self._emit(operand) for operand in node.operands]
        text = f"({operands[0]} {_INFIX[node.op]} {operands[1]})" if node.op in _INFIX else self._call(node, operands)
        if self._uses[node] == 1:
            return text
        name = f"t{len(self.assignments)}"
        self._names[node] = name
        self.assignments.append((name, text))
        return name


def strip(text: str) -> str:
    """Return an expression without the outer parentheses of the whole.

    >>> strip("(x + 1)"), strip("(x + 1) * (x - 1)")
    ('x + 1', '(x + 1) * (x - 1)')
    """
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(text) - 1:
            return text
    return text[1:-1]


def leaves(node: Expression) -> set[str]:
    """Return the operations without operands in an expression: x, constants."""
    return {node.op} if not node.operands else set().union(*map(leaves, node.operands))
