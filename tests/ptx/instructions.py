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

TYPES: dict[str, Any] = {
    **{f"u{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"b{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"s{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
    **{"f32": np.dtype("f4"), "f64": np.dtype("f8"), "f16": np.dtype("f2"), "bf16": np.dtype("u2")},
    "pred": np.dtype(bool),
}
_F4, _F8, _U4, _U2 = TYPES["f32"], TYPES["f64"], TYPES["u32"], TYPES["u16"]


def widened(bits: Array) -> Array:
    """bfloat16 as float32."""
    return (bits.astype(_U4) << np.uint32(16)).view(_F4)


def narrowed(numbers: Array) -> Array:
    """float32 as bfloat16, rounded to the nearest, to even."""
    bits = numbers.view(_U4)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(numbers), _U2.type(0x7FFF), rounded.astype(_U2))


def halves(bits: Array, kind: str) -> tuple[Array, Array]:
    """The two 16-bit numbers of 32 bits, the lower first, as float32."""
    parts = (bits & np.uint32(0xFFFF)).astype(_U2), (bits >> np.uint32(16)).astype(_U2)
    lower, upper = map(widened, parts) if kind.startswith("bf16") else (p.view("f2").astype(_F4) for p in parts)
    return lower, upper


def rounded_tf32(bits: Array) -> Array:
    """What a matrix unit takes of a float32 number."""
    return (bits & np.uint32(0xFFFFE000)).view(_F4)


def bind(core: Core, one: Instruction) -> Bound:
    """An instruction for the registers of a core."""
    rule = _RULES.get(one.name[0])
    if rule is None:
        raise UnsupportedError(f"line {one.line}: {'.'.join(one.name)}")
    try:
        run = rule(core, one)
    except (KeyError, ValueError, IndexError) as error:
        raise UnsupportedError(
            f"line {one.line}: {'.'.join(one.name)} {', '.join(one.operands)} ({error!r})"
        ) from error
    if not one.predicate:
        return run
    predicate = core.registers[one.predicate]
    counts = np.logical_not if one.negated else np.positive
    scratch = np.empty_like(predicate)

    def predicated(mask: Mask) -> None:
        chosen = counts(predicate, out=scratch) if one.negated else predicate
        chosen = chosen & mask
        if chosen.any():
            run(chosen)

    return predicated


_ELEMENTWISE: dict[str, Any] = {
    **{"add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    **{"neg": np.negative, "abs": np.absolute, "not": np.invert},
}
_BIT_KINDS = ("and", "or", "xor", "not")


def _elementwise(core: Core, one: Instruction) -> Bound:
    base, kind = one.name[0], one.name[-1]
    if kind in ("bf16", "f16", "bf16x2", "f16x2"):
        return _of_halves(core, one)
    if "cc" in one.name or base == "addc":
        return _carrying(core, one)
    dtype = TYPES[kind]
    function = _ELEMENTWISE.get(base) or _extremum(one, dtype)
    out, *inputs = (core.operand(text, dtype) for text in one.operands)

    def run(mask: Mask) -> None:
        function(*inputs, out=out, where=mask)

    return run


def _extremum(one: Instruction, dtype: Any) -> Any:
    largest = one.name[0] == "max"
    if dtype.kind != "f" or "NaN" in one.name:
        return np.maximum if largest else np.minimum
    return np.fmax if largest else np.fmin


def _of_halves(core: Core, one: Instruction) -> Bound:
    """Arithmetic of 16-bit numbers, rounded once."""
    base, kind = one.name[0], one.name[-1]
    bits = _U4 if kind.endswith("x2") else _U2
    out, *inputs = (core.operand(text, bits) for text in one.operands)
    function: Any = {"fma": lambda a, b, c: a * b + c, "mul": np.multiply, **_ELEMENTWISE}.get(base) or _extremum(
        one, _F4
    )

    def packed(numbers: Array) -> Array:
        return narrowed(numbers.astype(_F4)) if kind.startswith("bf16") else numbers.astype("f2").view(_U2)

    def run(mask: Mask) -> None:
        if bits == _U2:
            numbers = (widened(a) if kind == "bf16" else a.view("f2").astype(_F4) for a in inputs)
            np.copyto(out, packed(function(*(n.astype(_F8) for n in numbers))), where=mask)
            return
        parts = zip(*(halves(a, kind) for a in inputs))
        lower, upper = (packed(function(*(n.astype(_F8) for n in part))) for part in parts)
        np.copyto(out, lower.astype(_U4) | (upper.astype(_U4) << np.uint32(16)), where=mask)

    return run


def _carrying(core: Core, one: Instruction) -> Bound:
    """Sums and products of 32 bits that leave a carry, take one, or both."""
    out, *inputs = (core.operand(text, _U4) for text in one.operands)

    def run(mask: Mask) -> None:
        wide = [np.asarray(a).astype("u8") for a in inputs]
        if one.name[0] in ("add", "addc"):
            total = wide[0] + wide[1]
        else:
            product = wide[0] * wide[1]
            total = (product >> np.uint64(32) if "hi" in one.name else product & np.uint64(0xFFFFFFFF)) + wide[2]
        if one.name[0] in ("addc", "madc"):
            total = total + core.carry
        if "cc" in one.name:
            np.copyto(core.carry, total >> np.uint64(32), where=mask)
        np.copyto(out, (total & np.uint64(0xFFFFFFFF)).astype(_U4), where=mask)

    return run


def _multiply(core: Core, one: Instruction) -> Bound:
    """mul, mad and fma."""
    base, kind = one.name[0], one.name[-1]
    if kind in ("bf16", "f16", "bf16x2", "f16x2"):
        return _of_halves(core, one)
    if "cc" in one.name or base == "madc":
        return _carrying(core, one)
    dtype = TYPES[kind]
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}") if "wide" in one.name or "hi" in one.name else dtype
    result = wide if "wide" in one.name else dtype
    out, a, b = core.operand(one.operands[0], result), *(core.operand(t, dtype) for t in one.operands[1:3])
    c = core.operand(one.operands[3], result) if len(one.operands) > 3 else None
    if dtype.kind == "f" and c is not None:
        wide = _F8
    elif c is None and "hi" not in one.name:
        return lambda mask: np.multiply(a, b, out=out, where=mask, dtype=result)

    def run(mask: Mask) -> None:
        product = np.multiply(a, b, dtype=wide)
        if "hi" in one.name:
            product = (product >> wide.type(8 * dtype.itemsize)).astype(dtype)
        np.copyto(out, product if c is None else product + c, where=mask, casting="same_kind")

    return run


def _divide(core: Core, one: Instruction) -> Bound:
    """Quotients; of integers towards zero, and remainders."""
    dtype = TYPES[one.name[-1]]
    out, a, b = (core.operand(text, dtype) for text in one.operands)
    if dtype.kind == "f":
        return lambda mask: np.divide(a, b, out=out, where=mask)

    def run(mask: Mask) -> None:
        divisor = np.where(np.equal(b, 0), dtype.type(1), b)
        quotient = a // divisor
        if dtype.kind == "i":
            quotient = quotient + ((quotient < 0) & (quotient * divisor != a))
        np.copyto(out, quotient if one.name[0] == "div" else a - quotient * divisor, where=mask)

    return run


def _shift(core: Core, one: Instruction) -> Bound:
    dtype = TYPES[one.name[-1]]
    bits, left = 8 * dtype.itemsize, one.name[0] == "shl"
    out, a = (core.operand(text, dtype) for text in one.operands[:2])
    count = core.operand(one.operands[2], _U4)
    function = np.left_shift if left else np.right_shift

    def run(mask: Mask) -> None:
        shifted = function(a, np.minimum(count, bits - 1).astype(dtype))
        beyond = shifted if dtype.kind == "i" and not left else dtype.type(0)
        np.copyto(out, np.where(np.less(count, bits), shifted, beyond), where=mask)

    return run


def _funnel(core: Core, one: Instruction) -> Bound:
    out, low, high, count = (core.operand(text, _U4) for text in one.operands)

    def run(mask: Mask) -> None:
        wide = np.asarray(low).astype("u8") | (np.asarray(high).astype("u8") << np.uint64(32))
        by = (np.asarray(count) & np.uint32(31)).astype("u8")
        shifted = wide >> by if one.name[1] == "r" else (wide << by) >> np.uint64(32)
        np.copyto(out, shifted.astype(_U4), where=mask)

    return run


def _extract(core: Core, one: Instruction) -> Bound:
    dtype = TYPES[one.name[-1]]
    out, a = (core.operand(text, dtype) for text in one.operands[:2])
    at, length = (int(text, 0) for text in one.operands[2:])
    above = dtype.type(8 * dtype.itemsize - at - length)
    down = dtype.type(8 * dtype.itemsize - length)
    return lambda mask: np.right_shift(np.left_shift(a, above), down, out=out, where=mask)


def _permute(core: Core, one: Instruction) -> Bound:
    out, a, b, selector = (core.operand(text, _U4) for text in one.operands)

    def run(mask: Mask) -> None:
        both = np.asarray(a).astype("u8") | (np.asarray(b).astype("u8") << np.uint64(32))
        total = np.zeros(len(out), "u8")
        for i in range(4):
            which = (np.asarray(selector) >> np.uint32(4 * i)).astype("u8")
            byte = (both >> ((which & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            byte = np.where(which & np.uint64(8), (byte >> np.uint64(7)) * np.uint64(255), byte)
            total |= byte << np.uint64(8 * i)
        np.copyto(out, total.astype(_U4), where=mask)

    return run


def _logic(core: Core, one: Instruction) -> Bound:
    """lop3: any function of three bits."""
    out, *inputs = (core.operand(text, _U4) for text in one.operands[:4])
    table = int(one.operands[4], 0)

    def run(mask: Mask) -> None:
        total = np.zeros(len(out), _U4)
        for i in (i for i in range(8) if table >> i & 1):
            term = [a if i >> (2 - place) & 1 else np.invert(a) for place, a in enumerate(inputs)]
            total |= term[0] & term[1] & term[2]
        np.copyto(out, total, where=mask)

    return run


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    **{"ex2": np.exp2, "lg2": np.log2, "tanh": np.tanh, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos},
    **{"rcp": np.reciprocal, "rsqrt": lambda a: 1 / np.sqrt(a)},
}


def _function(core: Core, one: Instruction) -> Bound:
    """Functions of float32, which are exact here up to one rounding."""
    function, dtype = _FUNCTIONS[one.name[0]], TYPES[one.name[-1]]
    out, a = (core.operand(text, dtype) for text in one.operands)
    return lambda mask: np.copyto(out, function(np.asarray(a).astype(_F8)), where=mask, casting="same_kind")


_COMPARISONS = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater},
    **{"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}


def _compare(core: Core, one: Instruction) -> Bound:
    how, kind = one.name[1], one.name[-1]
    dtype = TYPES[kind]
    a, b = (core.operand(text, dtype) for text in one.operands[1:3])
    out = core.operand(one.operands[0], TYPES["pred"])
    unordered = len(how) == 3 and how.endswith("u")
    if dtype.kind != "f" and kind != "bf16":
        function = _COMPARISONS[how]
        return lambda mask: function(a, b, out=out, where=mask)

    def run(mask: Mask) -> None:
        x, y = (widened(np.asarray(a)), widened(np.asarray(b))) if kind == "bf16" else (a, b)
        nan = np.isnan(x) | np.isnan(y)
        if how in ("num", "nan"):
            result = nan if how == "nan" else ~nan
        else:
            result = _COMPARISONS[how[:2]](x, y)
            result = result | nan if unordered else result & ~nan
        np.copyto(out, result, where=mask)

    return run


def _select(core: Core, one: Instruction) -> Bound:
    out, a, b = (core.operand(text, TYPES[one.name[-1]]) for text in one.operands[:3])
    chosen = core.operand(one.operands[3], TYPES["pred"])
    return lambda mask: np.copyto(out, np.where(chosen, a, b), where=mask)


def _move(core: Core, one: Instruction) -> Bound:
    """Copies, and those that put numbers together or take them apart."""
    target, source = one.operands
    if target.startswith("{"):
        return _unpack(core, core.listed(target), source, one.name[-1])
    if source.startswith("{"):
        parts = core.listed(source)
        out = core.operand(target, TYPES[one.name[-1]])
        size = out.itemsize // len(parts)
        inputs = [core.operand(text, np.dtype(f"u{size}")) for text in parts]

        def pack(mask: Mask) -> None:
            total = np.zeros(len(out), out.dtype)
            for i, part in enumerate(inputs):
                total |= np.asarray(part).astype(out.dtype) << out.dtype.type(8 * size * i)
            np.copyto(out, total, where=mask)

        return pack
    dtype = core.registers[target].dtype
    out, a = core.operand(target, dtype), core.operand(source, dtype)
    return lambda mask: np.copyto(out, a, where=mask)


def _unpack(core: Core, targets: list[str], source: str, kind: str) -> Bound:
    a = core.operand(source, TYPES[kind])
    size = TYPES[kind].itemsize // len(targets)
    dtype = np.dtype(f"u{size}")
    outs = [None if name == "_" else core.operand(name, dtype) for name in targets]

    def run(mask: Mask) -> None:
        for i, out in enumerate(outs):
            if out is not None:
                np.copyto(out, (a >> a.dtype.type(8 * size * i)).astype(dtype), where=mask)

    return run


_ROUNDINGS = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}


def _convert(core: Core, one: Instruction) -> Bound:
    to, of = one.name[-2:]
    if to in ("bf16x2", "f16x2"):
        out, high, low = core.operand(one.operands[0], _U4), *(core.operand(t, _F4) for t in one.operands[1:])
        cast = narrowed if to == "bf16x2" else lambda a: a.astype("f2").view(_U2)
        return lambda mask: np.copyto(
            out, cast(low).astype(_U4) | (cast(high).astype(_U4) << np.uint32(16)), where=mask
        )
    if to == "tf32":
        out, a = (core.operand(text, _U4) for text in one.operands)
        return lambda mask: np.copyto(out, (a + np.uint32(0x1000)) & np.uint32(0xFFFFE000), where=mask)
    dtype, source = TYPES[to], TYPES[of]
    a = core.operand(one.operands[1], source)
    out = core.operand(one.operands[0], dtype)
    rounding = next((_ROUNDINGS[word] for word in one.name if word in _ROUNDINGS), None)

    def run(mask: Mask) -> None:
        value = widened(a) if of == "bf16" else np.asarray(a)
        value = value if rounding is None else rounding(value)
        if to == "bf16":
            value = narrowed(value.astype(_F4))
        elif dtype.kind in "iu" and value.dtype.kind == "f":
            limits = np.iinfo(dtype)
            value = np.clip(np.nan_to_num(value.astype(_F8)), limits.min, limits.max)
        np.copyto(out, value.astype(dtype), where=mask)

    return run


def _shuffle(core: Core, one: Instruction) -> Bound:
    target = one.operands[0].partition("|")[0]
    out, a, b = (core.operand(text, _U4) for text in (target, *one.operands[1:3]))
    lane, first = core.lanes & 31, core.lanes & ~31

    def run(mask: Mask) -> None:
        by = np.asarray(b).astype(np.int64)
        source = {
            "bfly": lambda: lane ^ by,
            "idx": lambda: by & 31,
            "down": lambda: np.minimum(lane + by, 31),
            "up": lambda: np.maximum(lane - by, 0),
        }[one.name[2]]()
        np.copyto(out, np.broadcast_to(a, out.shape)[first + source], where=mask)

    return run


def _reduce(core: Core, one: Instruction) -> Bound:
    dtype = TYPES[one.name[-1]]
    out, a = (core.operand(text, dtype) for text in one.operands[:2])
    functions: dict[str, Any] = {**_ELEMENTWISE, "max": np.maximum, "min": np.minimum}
    function = functions[one.name[2]]
    return lambda mask: np.copyto(out, np.repeat(function.reduce(a.reshape(-1, 32), 1), 32), where=mask)


def _nothing(core: Core, one: Instruction) -> Bound:
    return lambda mask: None


def _address(core: Core, one: Instruction) -> Bound:
    """cvta: memory has one kind of address here."""
    dtype = core.registers[one.operands[0]].dtype
    out, a = (core.operand(text, dtype) for text in one.operands)
    return lambda mask: np.copyto(out, a, where=mask)


_RULES: dict[str, Callable[[Core, Instruction], Bound]] = {
    **dict.fromkeys((*_ELEMENTWISE, "min", "max", "addc"), _elementwise),
    **dict.fromkeys(("mul", "mad", "madc", "fma"), _multiply),
    **dict.fromkeys(("div", "rem"), _divide),
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(_FUNCTIONS, _function),
    **{"shf": _funnel, "bfe": _extract, "prmt": _permute, "lop3": _logic, "setp": _compare, "selp": _select},
    **{"mov": _move, "cvt": _convert, "shfl": _shuffle, "redux": _reduce, "cvta": _address},
    **dict.fromkeys(("fence", "membar", "nanosleep", "griddepcontrol"), _nothing),
}


def rule(*names: str) -> Callable[[Callable[[Core, Instruction], Bound]], Callable[[Core, Instruction], Bound]]:
    """Names the instructions that a function binds."""

    def add(function: Callable[[Core, Instruction], Bound]) -> Callable[[Core, Instruction], Bound]:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return add
