"""What each instruction does to the registers of many threads at once.

An instruction is bound to the registers of a core: a function of the threads that run it, True for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Array
from .program import Instruction, UnsupportedError

if TYPE_CHECKING:
    from .machine import Core

Mask = Any
"""Which threads: True, or an array of bools."""

Bound = Callable[[Mask], None]
Rule = Callable[["Core", Instruction], Bound]

TYPES: dict[str, Any] = {
    **{f"{kind}{8 * n}": np.dtype(f"{'i' if kind == 's' else 'u'}{n}") for kind in "ubs" for n in (1, 2, 4, 8)},
    **{"f32": np.dtype("f4"), "f64": np.dtype("f8"), "f16": np.dtype("u2"), "bf16": np.dtype("u2")},
    **{"f16x2": np.dtype("u4"), "bf16x2": np.dtype("u4"), "f32x2": np.dtype("u8"), "pred": np.dtype(bool)},
}
_F4, _F8, _U2, _U4, _U8 = (np.dtype(name) for name in ("f4", "f8", "u2", "u4", "u8"))


def widened(bits: Array, kind: str) -> Array:
    """16-bit numbers, bf16 or f16, as float32."""
    return (bits.astype(_U4) << np.uint32(16)).view(_F4) if kind[0] == "b" else bits.view("f2").astype(_F4)


def narrowed(numbers: Array, kind: str) -> Array:
    """Numbers as 16-bit ones, rounded to the nearest, to even."""
    if kind[0] != "b":
        return numbers.astype("f2").view(_U2)
    bits = np.asarray(numbers, _F4).view(_U4)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(numbers), _U2.type(0x7FFF), rounded.astype(_U2))


def halves(bits: Array, kind: str) -> list[Array]:
    """The two 16-bit numbers of 32 bits, the lower first, as float32."""
    return [widened((bits >> np.uint32(shift) & np.uint32(0xFFFF)).astype(_U2), kind) for shift in (0, 16)]


def joined(lower: Array, upper: Array) -> Array:
    """Two 16-bit numbers as one of 32 bits."""
    return lower.astype(_U4) | (upper.astype(_U4) << np.uint32(16))


def rounded_tf32(bits: Array) -> Array:
    """What a matrix unit takes of a float32 number."""
    return (bits & np.uint32(0xFFFFE000)).view(_F4)


_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Names the instructions that a function binds."""

    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return add


def bind(core: Core, one: Instruction) -> Bound:
    """An instruction for the registers of a core."""
    try:
        run = _RULES[one.name[0]](core, one)
    except (KeyError, ValueError, IndexError) as error:
        text = f"{'.'.join(one.name)} {', '.join(one.operands)}"
        raise UnsupportedError(f"line {one.line}: {text} ({error!r})") from error
    if not one.predicate:
        return run
    predicate = core.registers[one.predicate]

    def predicated(mask: Mask) -> None:
        chosen = (~predicate if one.negated else predicate) & mask
        if chosen.any():
            run(chosen)

    return predicated


def computed(core: Core, one: Instruction, function: Callable[..., Any], out: Any, *inputs: Any) -> Bound:
    """An instruction whose result is a function of its operands, with the types of the result and of these."""
    target = core.operand(one.operands[0].partition("|")[0], out)
    values = [core.operand(text, dtype) for text, dtype in zip(one.operands[1:], inputs, strict=True)]
    return lambda mask: np.copyto(target, function(*values), where=mask, casting="same_kind")


def _of_parts(function: Callable[..., Any], kind: str) -> Callable[..., Array]:
    """A function of floats, of numbers of 16 bits or of pairs: as if it were exact, and rounded once."""

    def of_halves(*bits: Array) -> Array:
        return narrowed(function(*(widened(np.atleast_1d(b), kind).astype(_F8) for b in bits)), kind)

    def of_pairs(*bits: Array) -> Array:
        parts = zip(*(halves(np.atleast_1d(b), kind) for b in bits))
        return joined(*(narrowed(function(*(p.astype(_F8) for p in part)), kind) for part in parts))

    def of_singles(*bits: Array) -> Array:
        return function(*(b.view(_F4).astype(_F8) for b in bits)).astype(_F4).view(_U8)

    return {"f32x2": of_singles}.get(kind, of_pairs if kind.endswith("x2") else of_halves)


_SIMPLE: dict[str, Any] = {
    **{"add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    **{"neg": np.negative, "abs": np.absolute, "not": np.invert, "div": np.divide, "mul": np.multiply},
    **{"min": np.fmin, "max": np.fmax, "fma": lambda a, b, c: a * b + c},
}


@rule("add", "sub", "and", "or", "xor", "neg", "abs", "not", "min", "max", "addc", "mul", "mad", "madc", "fma")
def _arithmetic(core: Core, one: Instruction) -> Bound:
    base, kind, count = one.name[0], one.name[-1], len(one.operands) - 1
    dtype, function = TYPES[kind], _SIMPLE.get(base)
    if "cc" in one.name or base in ("addc", "madc"):
        return _carrying(core, one)
    if kind in ("f16", "bf16") and one.name[-2] == "f32":  # a number of 16 bits and one of 32
        return computed(core, one, lambda a, b: _SIMPLE[base](widened(np.asarray(a), kind), b), _F4, dtype, _F4)
    if kind in ("f16", "bf16", "f16x2", "bf16x2", "f32x2"):
        return computed(core, one, _of_parts(_SIMPLE[base], kind), *[dtype] * (count + 1))
    if base in ("min", "max") and (dtype.kind != "f" or "NaN" in one.name):
        function = np.minimum if base == "min" else np.maximum
    if base == "fma":
        return computed(core, one, lambda a, b, c: np.multiply(a, b, dtype=_F8) + c, *[dtype] * 4)
    if base in ("mul", "mad") and dtype.kind != "f":
        return _multiply(core, one)
    out, *inputs = (core.operand(text, dtype) for text in one.operands)

    def run(mask: Mask) -> None:
        function(*inputs, out=out, where=mask)

    return run


def _multiply(core: Core, one: Instruction) -> Bound:
    """Products of integers: their lower half, their upper half or all of them, and sums of these."""
    dtype = TYPES[one.name[-1]]
    wide = dtype if "lo" in one.name else np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    result = wide if "wide" in one.name else dtype

    def function(a: Array, b: Array, *c: Array) -> Array:
        product = np.multiply(a, b, dtype=wide)
        product = (product >> wide.type(8 * dtype.itemsize)).astype(dtype) if "hi" in one.name else product
        return product + c[0] if c else product

    return computed(core, one, function, result, dtype, dtype, *[result] * (len(one.operands) - 3))


def _carrying(core: Core, one: Instruction) -> Bound:
    """Sums and products of 32 bits that leave a carry, take one, or both."""
    out, *inputs = (core.operand(text, _U4) for text in one.operands)

    def run(mask: Mask) -> None:
        first, *more = (np.asarray(a).astype(_U8) for a in inputs)
        if one.name[0] in ("mad", "madc"):
            first = first * more.pop(0)
            first = first >> np.uint64(32) if "hi" in one.name else first & np.uint64(0xFFFFFFFF)
        total = first + more[0] + (core.carry if one.name[0] in ("addc", "madc") else np.uint64(0))
        if "cc" in one.name:
            np.copyto(core.carry, total >> np.uint64(32), where=mask)
        np.copyto(out, (total & np.uint64(0xFFFFFFFF)).astype(_U4), where=mask)

    return run


@rule("div", "rem")
def _divide(core: Core, one: Instruction) -> Bound:
    """Quotients; of integers towards zero, and remainders."""
    dtype = TYPES[one.name[-1]]

    def function(a: Array, b: Array) -> Array:
        divisor = np.where(np.equal(b, 0), dtype.type(1), b)
        quotient = a // divisor
        if dtype.kind == "i":
            quotient = quotient + ((quotient < 0) & (quotient * divisor != a))
        return quotient if one.name[0] == "div" else a - quotient * divisor

    return computed(core, one, np.divide if dtype.kind == "f" else function, dtype, dtype, dtype)


@rule("shl", "shr")
def _shift(core: Core, one: Instruction) -> Bound:
    dtype, left = TYPES[one.name[-1]], one.name[0] == "shl"
    bits, shift = 8 * dtype.itemsize, np.left_shift if left else np.right_shift

    def function(a: Array, count: Array) -> Array:
        shifted = shift(a, np.minimum(count, bits - 1).astype(dtype))
        return np.where(np.less(count, bits), shifted, shifted if dtype.kind == "i" and not left else dtype.type(0))

    return computed(core, one, function, dtype, dtype, _U4)


@rule("shf")
def _funnel(core: Core, one: Instruction) -> Bound:
    def function(low: Array, high: Array, count: Array) -> Array:
        wide = np.asarray(low).astype(_U8) | (np.asarray(high).astype(_U8) << np.uint64(32))
        by = (np.asarray(count) & np.uint32(31)).astype(_U8)
        return (wide >> by if one.name[1] == "r" else (wide << by) >> np.uint64(32)).astype(_U4)

    return computed(core, one, function, *[_U4] * 4)


@rule("prmt")
def _permute(core: Core, one: Instruction) -> Bound:
    """Four of the bytes of two numbers, or their signs."""

    def function(a: Array, b: Array, selector: Array) -> Array:
        both = np.asarray(a).astype(_U8) | (np.asarray(b).astype(_U8) << np.uint64(32))
        total = np.zeros_like(both)
        for i in range(4):
            which = (np.asarray(selector) >> np.uint32(4 * i)).astype(_U8)
            byte = (both >> ((which & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            byte = np.where(which & np.uint64(8), (byte >> np.uint64(7)) * np.uint64(255), byte)
            total |= byte << np.uint64(8 * i)
        return total.astype(_U4)

    return computed(core, one, function, *[_U4] * 4)


@rule("bfe")
def _extract(core: Core, one: Instruction) -> Bound:
    dtype = TYPES[one.name[-1]]

    def function(a: Array, at: Any, length: Any) -> Array:
        bits = 8 * dtype.itemsize
        return np.left_shift(a, dtype.type(bits - at - length)) >> dtype.type(bits - length)

    return computed(core, one, function, dtype, dtype, np.dtype("i8"), np.dtype("i8"))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    **{"ex2": np.exp2, "lg2": np.log2, "tanh": np.tanh, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos},
    **{"rcp": np.reciprocal, "rsqrt": lambda a: 1 / np.sqrt(a)},
}


@rule(*_FUNCTIONS)
def _function(core: Core, one: Instruction) -> Bound:
    """Functions of floats, which are exact here up to one rounding."""
    function, dtype = _FUNCTIONS[one.name[0]], TYPES[one.name[-1]]
    return computed(core, one, lambda a: function(np.asarray(a).astype(_F8)), dtype, dtype)


_COMPARISONS = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater},
    **{"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}


@rule("setp")
def _compare(core: Core, one: Instruction) -> Bound:
    how, kind = one.name[1], one.name[-1]
    dtype, unordered = TYPES[kind], len(how) == 3

    def function(a: Array, b: Array) -> Array:
        if kind == "bf16":
            a, b = widened(np.asarray(a), kind), widened(np.asarray(b), kind)
        nan = np.isnan(a) | np.isnan(b)
        if how in ("num", "nan"):
            return nan if how == "nan" else ~nan
        result = _COMPARISONS[how[:2]](a, b)
        return result | nan if unordered else result & ~nan

    floats = dtype.kind == "f" or kind == "bf16"
    return computed(core, one, function if floats else _COMPARISONS[how], TYPES["pred"], dtype, dtype)


@rule("selp")
def _select(core: Core, one: Instruction) -> Bound:
    dtype = TYPES[one.name[-1]]
    return computed(core, one, lambda a, b, chosen: np.where(chosen, a, b), dtype, dtype, dtype, TYPES["pred"])


@rule("mov")
def _move(core: Core, one: Instruction) -> Bound:
    """Copies, and those that put numbers together or take them apart."""
    target, source = one.operands
    if target.startswith("{"):
        return _unpack(core, core.listed(target), core.operand(source, TYPES[one.name[-1]]))
    if not source.startswith("{"):
        return _copy(core, one)
    parts, out = core.listed(source), core.operand(target, TYPES[one.name[-1]])
    size = out.itemsize // len(parts)
    inputs = [core.operand(text, np.dtype(f"u{size}")) for text in parts]

    def pack(mask: Mask) -> None:
        total = np.zeros(len(out), out.dtype)
        for i, part in enumerate(inputs):
            total |= np.asarray(part).astype(out.dtype) << out.dtype.type(8 * size * i)
        np.copyto(out, total, where=mask)

    return pack


def _unpack(core: Core, targets: list[str], a: Array) -> Bound:
    size = a.itemsize // len(targets)
    dtype = np.dtype(f"u{size}")
    outs = [None if name == "_" else core.operand(name, dtype) for name in targets]

    def run(mask: Mask) -> None:
        for i, out in enumerate(outs):
            if out is not None:
                np.copyto(out, (a >> a.dtype.type(8 * size * i)).astype(dtype), where=mask)

    return run


@rule("cvta")
def _copy(core: Core, one: Instruction) -> Bound:
    """Memory has one kind of address here."""
    dtype = core.registers[one.operands[0]].dtype
    return computed(core, one, lambda a: a, dtype, dtype)


_ROUNDINGS = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}


@rule("cvt")
def _convert(core: Core, one: Instruction) -> Bound:
    to, of = one.name[-2:]
    if to in ("bf16x2", "f16x2"):
        return computed(core, one, lambda high, low: joined(narrowed(low, to), narrowed(high, to)), _U4, _F4, _F4)
    if to == "tf32":
        return computed(core, one, lambda a: (a + np.uint32(0x1000)) & np.uint32(0xFFFFE000), _U4, _U4)
    dtype = TYPES[to]
    rounding = next((_ROUNDINGS[word] for word in one.name if word in _ROUNDINGS), None)

    def function(a: Array) -> Array:
        value = widened(np.asarray(a), of) if of in ("bf16", "f16") else np.asarray(a)
        value = value if rounding is None else rounding(value)
        if to in ("bf16", "f16"):
            return narrowed(value.astype(_F4), to)
        if dtype.kind in "iu" and value.dtype.kind == "f":
            limits = np.iinfo(dtype)
            value = np.clip(np.nan_to_num(value.astype(_F8)), limits.min, limits.max)
        return value.astype(dtype)

    return computed(core, one, function, dtype, TYPES[of])


@rule("shfl")
def _shuffle(core: Core, one: Instruction) -> Bound:
    lane, first = core.lanes & 31, core.lanes & ~31
    sources: dict[str, Callable[[Array], Array]] = {
        "bfly": lambda by: lane ^ by,
        "idx": lambda by: by & 31,
        "down": lambda by: np.minimum(lane + by, 31),
        "up": lambda by: np.maximum(lane - by, 0),
    }

    def function(a: Array, by: Array, *_: Array) -> Array:
        return np.broadcast_to(a, lane.shape)[first + sources[one.name[2]](np.asarray(by).astype(np.int64))]

    return computed(core, one, function, *[_U4] * len(one.operands))


@rule("redux")
def _reduce(core: Core, one: Instruction) -> Bound:
    dtype, function = TYPES[one.name[-1]], {**_SIMPLE, "max": np.maximum, "min": np.minimum}[one.name[2]]
    return computed(core, one, lambda a, _: np.repeat(function.reduce(a.reshape(-1, 32), 1), 32), dtype, dtype, _U4)


@rule("membar", "nanosleep", "griddepcontrol")
def _nothing(core: Core, one: Instruction) -> Bound:
    return lambda mask: None
