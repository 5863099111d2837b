"""Prints the C++ header and the Triton module of the tables of basis functions and transforms.

python -m gradnets_fast.activations.codegen            # writes both files
python -m gradnets_fast.activations.codegen --check    # exits 1 if a committed file is stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .expression import Expression, terms_for
from .printing import Printer, leaves, strip
from .spec import TABLE, Basis
from .transforms import TRANSFORMS

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"cpp": ROOT / "csrc" / "activations_gen.h", "triton": ROOT / "kernels" / "_activations_gen.py"}

FLOAT32_TERM_EPSILON = 2.0**-27
_OUTPUTS: dict[str, Callable[[Basis], tuple[Expression, ...]]] = {
    "antiderivative": lambda b: (b.antiderivative,),
    "value": lambda b: (b.value,),
    "value_first": lambda b: (b.value, b.first),
    "value_first_second": lambda b: (b.value, b.first, b.second),
}
"""The functions printed per basis; a kernel that needs value and derivative shares their subexpressions."""


def _cpp_call(node: Expression, operands: list[str]) -> str:
    if node.op == "polynomial":
        bound, *coefficients = node.numbers
        short = terms_for(coefficients, bound, FLOAT32_TERM_EPSILON)
        numbers = ", ".join(repr(c) for c in coefficients)
        return f"polynomial<{short}>({strip(operands[0])}, {{{numbers}}})"
    if node.op == "neg":
        return f"(-{operands[0]})"
    operands = list(map(strip, operands))
    known = {"abs": "absolute", "min": "minimum", "where": "select", "exp": "v_exp_bounded"}
    name = known.get(node.op, f"v_{node.op}")
    return f"{name}({', '.join(operands)})"


def _cpp_leaf(node: Expression) -> str:
    return "x" if node.op == "x" else f"broadcast<V>({node.numbers[0]!r})"


def print_cpp() -> str:
    """The C++ header: one struct of inline templates per basis, and a dispatcher from its number."""
    lines = [
        "// Printed by gradnets_fast/activations/codegen.py from spec.py and transforms.py. Do not edit.",
        "#pragma once",
        "",
        '#include "scalar_math.h"',
        '#include "simd_math.h"',
        "",
        "namespace gradnets::GRADNETS_ISA {",
        "",
    ]
    for number, basis in enumerate(TABLE.values()):
        lines += [f"struct {basis.name}_basis {{", f"    static constexpr int number = {number};"]
        lines.append(f"    static constexpr bool smooth = {str(basis.smooth).lower()};")
        lines += [] if basis.smooth else [f"    static constexpr double kink = {basis.kink};"]
        lines.append(f"    static constexpr bool straight = {str(basis.straight).lower()};")
        sharpness = repr(1.0 / basis.strip) if basis.strip else "__builtin_inf()"
        lines.append(f"    static constexpr double steepest = {basis.steepest!r}, sharpness = {sharpness};")
        for method, outputs in _OUTPUTS.items():
            lines += _cpp_method(method, outputs(basis))
        lines += _cpp_method("value_to_third", (basis.value, basis.first, basis.second, basis.third))
        lines += ["};", ""]
    lines += _cpp_dispatcher("basis", list(TABLE))
    for transform in TRANSFORMS.values():
        derivatives = (transform.first, transform.second, transform.third, transform.unit)
        lines += [
            f"struct {transform.name}_transform {{",
            *_cpp_method("value", (transform.value,)),
            *_cpp_method("derivatives", derivatives, ("first", "second", "third", "unit")),
            *("};", ""),
        ]
    lines += _cpp_dispatcher("transform", list(TRANSFORMS))
    return "\n".join([*lines, "} // namespace gradnets::GRADNETS_ISA", ""])


def _cpp_dispatcher(kind: str, names: list[str]) -> list[str]:
    """The names in order, and `with_<kind>(number, body)`, which calls body with that function's struct."""
    cases = (
        [f"    case {number}:", f"        body({name}_{kind}{{}});", "        break;"]
        for number, name in enumerate(names)
    )
    return [
        f"static constexpr const char *k{kind.capitalize()}Names[] = {{",
        *(f'    "{name}",' for name in names),
        "};",
        "",
        "template <class F>",
        f"inline void with_{kind}(int {kind}, F &&body) {{",
        f"    switch ({kind}) {{",
        *(line for case in cases for line in case),
        *("    }", "}", ""),
    ]


def _cpp_method(
    method: str, outputs: tuple[Expression, ...], names: tuple[str, ...] = ("value", "first", "second", "third")
) -> list[str]:
    printer = Printer(_cpp_leaf, _cpp_call)
    results = printer.print(outputs)
    targets = ("out",) if len(outputs) == 1 else names[: len(outputs)]
    unused = "" if any("x" in leaves(o) for o in outputs) else "[[maybe_unused]] "
    arguments = ", ".join([f"{unused}V x", *(f"V &{t}" for t in targets)])
    lines = ["    template <class V>", f"    static GRADNETS_INLINE void {method}({arguments}) {{"]
    lines += [f"        const auto {name} = {strip(text)};" for name, text in printer.assignments]
    lines += [f"        {target} = {strip(result)};" for target, result in zip(targets, results)]
    return [*lines, "    }"]


def _triton_call(node: Expression, operands: list[str]) -> str:
    if node.op == "polynomial":
        bound, *coefficients = node.numbers
        kept = coefficients[: terms_for(coefficients, bound, FLOAT32_TERM_EPSILON)]
        text = repr(kept[-1])
        for coefficient in reversed(kept[:-1]):
            text = f"{coefficient!r} + {operands[0]} * ({text})"
        return f"({text})"
    if node.op == "neg":
        return f"(-{operands[0]})"
    operands = list(map(strip, operands))
    known = {"abs": "tl.abs", "where": "tl.where", "exp": "tl.exp", "log": "tl.log"}
    known |= {"erf": "tl.erf", "min": "common.minimum"}
    if node.op == "approximate_tanh":
        operands.append("ARITHMETIC")
    return f"{known.get(node.op, f'common.{node.op}')}({', '.join(operands)})"


def _triton_leaf(node: Expression) -> str:
    return "x" if node.op == "x" else repr(node.numbers[0])


def _triton_function(name: str, outputs: tuple[Expression, ...], argument: str = "") -> list[str]:
    printer = Printer(_triton_leaf, _triton_call)
    results = [strip(r) for r in printer.print(outputs)]
    shaped = [r if "x" in leaves(o) else f"tl.full(x.shape, {r}, tl.float32)" for r, o in zip(results, outputs)]
    return [
        *("", "@triton.jit", f"def {name}(x{argument}):"),
        *(f"    {name} = {strip(text)}" for name, text in printer.assignments),
        *(f"    return {', '.join(shaped)}", ""),
    ]


_ARITHMETIC = ", ARITHMETIC: tl.constexpr"


def _triton_dispatcher(method: str) -> list[str]:
    """`<method>(x, NAME, ARITHMETIC)` chooses among the basis functions while a kernel is compiled."""
    cases = []
    for basis in TABLE.values():
        if basis.fast is not None and method != "antiderivative":
            condition = f'NAME == "{basis.name}" and ARITHMETIC != "accurate"'
            cases.append((condition, f"{basis.name}_fast_{method}(x, ARITHMETIC)"))
        cases.append((f'NAME == "{basis.name}"', f"{basis.name}_{method}(x)"))
    head = ["", "@triton.jit", f"def {method}(x, NAME: tl.constexpr{_ARITHMETIC}):"]
    return [*head, *_triton_cases(cases, "basis function")]


def _triton_cases(cases: list[tuple[str, str]], what: str) -> list[str]:
    """The body of a dispatcher, from conditions and what it returns where they hold."""
    lines = []
    for number, (condition, result) in enumerate(cases):
        lines += [f"    {'elif' if number else 'if'} {condition}:", f"        return {result}"]
    return [*lines, "    else:", f'        tl.static_assert(False, "unknown {what}")', ""]


def print_triton() -> str:
    """The Triton module: device functions `<basis>_<output>` of float32 blocks, and a dispatcher for each output."""
    lines = [
        '"""Printed by gradnets_fast/activations/codegen.py from spec.py and transforms.py. Do not edit."""',
        "",
        "import triton",
        "import triton.language as tl",
        "",
        "from . import common",
        "",
    ]
    for basis in TABLE.values():
        for method, outputs in _OUTPUTS.items():
            lines += _triton_function(f"{basis.name}_{method}", outputs(basis))
            if basis.fast is not None and method != "antiderivative":
                shorter = basis.fast[: len(outputs(basis))]
                lines += _triton_function(f"{basis.name}_fast_{method}", shorter, _ARITHMETIC)
    for method in _OUTPUTS:
        lines += _triton_dispatcher(method)
    for transform in TRANSFORMS.values():
        lines += _triton_function(f"{transform.name}_transform_value", (transform.value,))
        lines += _triton_function(f"{transform.name}_transform_first_second", transform.derivatives()[:2])
    for method in ("transform_value", "transform_first_second"):
        lines += ["", "@triton.jit", f"def {method}(x, NAME: tl.constexpr):"]
        lines += _triton_cases([(f'NAME == "{name}"', f"{name}_{method}(x)") for name in TRANSFORMS], "transform")
    return "\n".join(lines)


PRINTERS: dict[str, Callable[[], str]] = {"cpp": print_cpp, "triton": print_triton}


def stale() -> list[Path]:
    """The committed files that differ from what the table prints now."""
    return [
        path
        for kind, path in TARGETS.items()
        if not path.exists() or path.read_text(encoding="utf-8") != PRINTERS[kind]()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Writes the generated files, or checks them with --check."""
    parser = argparse.ArgumentParser(prog="python -m gradnets_fast.activations.codegen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed file is stale")
    if parser.parse_args(arguments).check:
        for path in stale():
            print(f"stale: {path}; run python -m gradnets_fast.activations.codegen", file=sys.stderr)
        return 1 if stale() else 0
    for kind, path in TARGETS.items():
        path.write_text(PRINTERS[kind](), encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
