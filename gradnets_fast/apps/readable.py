"""Numbers to read: times, ratios, rates, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
"""What a result file has of one case: see `results.derived`."""

_UNITS = ((1e3, "µs"), (1.0, "ms"), (1e-3, "s"))


def size(row: Row) -> str:
    """B, d, h."""
    return f"{row['batch']}, {row['d']}, {row['h']}"


def title(row: Row) -> str:
    """Family, variant and dtype.

    >>> title({"family": "ridge, 4 layers", "variant": "tanh", "dtype": "float32"})
    'ridge, 4 layers, tanh, float32'
    """
    dtype = "" if row["dtype"] in row["family"] else row["dtype"]
    return ", ".join(filter(None, (row["family"], row["variant"].replace("_", " "), dtype)))


def times(ratio: float | None) -> str:
    """A ratio, or nothing.

    >>> times(1.234), times(2.345), times(23.4), times(None)
    ('1.23×', '2.3×', '23×', '')
    """
    if ratio is None:
        return ""
    return f"{ratio:.{2 if ratio < 1.995 else 1 if ratio < 19.95 else 0}f}×"


def duration(milliseconds: float) -> str:
    """A time.

    >>> duration(0.01234), duration(1.234), duration(123.4), duration(1234.0)
    ('12.3 µs', '1.23 ms', '123 ms', '1.23 s')
    """
    factor, unit = _unit(milliseconds)
    return f"{_digits(milliseconds * factor, 3)} {unit}"


def quantiles(spread: Mapping[str, float]) -> str:
    """The 10 % and 90 % quantiles, in the unit of the median.

    >>> quantiles({"median": 1.2, "low": 0.95, "high": 12.34})
    '0.95–12.3'
    """
    factor, _ = _unit(spread["median"])
    return f"{_digits(spread['low'] * factor, 3)}–{_digits(spread['high'] * factor, 3)}"


def _unit(milliseconds: float) -> tuple[float, str]:
    return next((pair for pair in _UNITS if milliseconds * pair[0] < 999.5), _UNITS[-1])


def _digits(value: float, count: int) -> str:
    """As many digits, of which two at most are decimals.

    >>> _digits(12.34, 3), _digits(0.123, 3), two_digits(0.123), two_digits(1.23), two_digits(123.4)
    ('12.3', '0.12', '0.12', '1.2', '123')
    """
    # A value that rounds up to the next power of ten has a decimal less.
    decimals = sum(value < 10 ** (count - n) * (1 - 0.5 * 10**-count) for n in (1, 2))
    return f"{value:.{decimals}f}"


def two_digits(value: float) -> str:
    """A rate."""
    return _digits(value, 2)


def flop_rate(gflops: float) -> str:
    """A rate, in TFLOP/s from 1000 GFLOP/s on.

    >>> flop_rate(2.34), flop_rate(123.4), flop_rate(1234.0)
    ('2.3 GFLOP/s', '123 GFLOP/s', '1.23 TFLOP/s')
    """
    return f"{_digits(1e-3 * gflops, 3)} TFLOP/s" if gflops >= 999.5 else f"{two_digits(gflops)} GFLOP/s"


def amount(number: float, unit: str) -> str:
    """A count of operations or bytes, with a prefix.

    >>> amount(1.23e9, "FLOP"), amount(4096, "B"), amount(12.0, "B")
    ('1.23 GFLOP', '4.10 kB', '12.0 B')
    """
    prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}
    factor = next((factor for factor in prefixes if number >= factor), 1.0)
    return f"{_digits(number / factor, 3)} {prefixes.get(factor, '')}{unit}"


def percent(fraction: float) -> str:
    """A fraction.

    >>> percent(0.004), percent(0.0456), percent(1.023)
    ('0.4%', '5%', '102%')
    """
    return f"{fraction:.1%}" if fraction < 0.0095 else f"{fraction:.0%}"
