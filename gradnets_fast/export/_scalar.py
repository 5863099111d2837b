"""Basis functions and transforms as functions of C, printed from the one table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..activations import TABLE, TRANSFORMS
from ..activations.expression import Expression
from ..activations.printing import Printer, strip

_NAMES = {"abs": "fabs"}


@dataclass(frozen=True)
class Real:
    """A floating-point type of C.

    Attributes:
        name: "float" or "double".
        suffix: what its literals and the functions of math.h for it end in.
    """

    name: str
    suffix: str

    @classmethod
    def of(cls, dtype: torch.dtype) -> Real:
        """Return the type of a dtype."""
        return cls("float", "f") if dtype == torch.float32 else cls("double", "")

    def literal(self, number: float) -> str:
        """Return a number as C reads it.

        >>> Real.of(torch.float32).literal(0.5), Real.of(torch.float64).literal(-1e-300)
        ('0.5f', '-1e-300')
        """
        return f"{number!r}{self.suffix}"

    def array(self, values: object) -> str:
        """Return nested lists of numbers as an initialiser."""
        if isinstance(values, list):
            return "{" + ", ".join(map(self.array, values)) + "}"
        assert isinstance(values, float)
        return self.literal(values)

    def function(self, head: str, outputs: Sequence[tuple[str, Expression]]) -> str:
        """Return a function of x that stores each expression: head(x) where there is one of them, named "return"."""
        printer = Printer(self._leaf, self._call)
        texts = printer.print(tuple(expression for _, expression in outputs))
        unused = [] if any(_has_x(expression) for _, expression in outputs) else ["(void)x;"]
        lines = [*unused, *(f"const real {name} = {strip(text)};" for name, text in printer.assignments)]
        lines += [
            f"return {strip(text)};" if to == "return" else f"*{to} = {strip(text)};"
            for (to, _), text in zip(outputs, texts)
        ]
        return "\n".join([f"static {head} {{", *(f"    {line}" for line in lines), "}"])

    def basis(self, name: str, integral: bool) -> str:
        """Return b_NAME, which stores b and b', and i_NAME, ∫ b, where that is needed."""
        of = TABLE[name]
        pair = [("value", of.value), ("slope", of.first)]
        texts = [self.function(f"void b_{name}(real x, real *value, real *slope)", pair)]
        if integral:
            texts.append(self.function(f"real i_{name}(real x)", [("return", of.antiderivative)]))
        return "\n\n".join(texts)

    def transform(self, name: str) -> str:
        """Return r_NAME, which stores ρ, ρ' and ρ''."""
        of = TRANSFORMS[name]
        first, second, _ = of.derivatives()
        head = f"void r_{name}(real x, real *value, real *first, real *second)"
        return self.function(head, [("value", of.value), ("first", first), ("second", second)])

    def _leaf(self, node: Expression) -> str:
        return "x" if node.op == "x" else self._signed(node.numbers[0])

    def _signed(self, number: float) -> str:
        return f"({self.literal(number)})" if number < 0 else self.literal(number)

    def _call(self, node: Expression, operands: list[str]) -> str:
        special: dict[str, Callable[..., str]] = {
            "neg": "(-{})".format,
            "where": "({} ? {} : {})".format,
            "min": "({0} > {1} ? {1} : {0})".format,  # a NaN in the first stays
        }
        if node.op in special:
            return special[node.op](*operands)
        if node.op == "polynomial":
            _, *coefficients = node.numbers
            text = self._signed(coefficients[-1])
            for coefficient in reversed(coefficients[:-1]):
                text = f"({self._signed(coefficient)} + {operands[0]} * {text})"
            return text
        name = _NAMES.get(node.op, node.op)
        suffix = "" if name == "sech_squared" else self.suffix
        return f"{name}{suffix}({', '.join(map(strip, operands))})"


def _has_x(node: Expression) -> bool:
    return node.op == "x" or any(map(_has_x, node.operands))
