"""What the terminal shows: a row for each contender and job, a summary of gains, memory, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..environment import place
from ..readable import Row, amount, duration, flop_rate, percent, quantiles, size, times, title, two_digits
from .contenders import is_ours
from .results import over_compile, reasons
from .runner import TIMED, UNAVAILABLE

_REACHED, _MISSED, _BAD, _OURS = "green", "yellow", "bold red", "bold"
_BYTES_PER_MB = 1e6
_MOST_DETAILED = 30
"""Cases with a table each; of more, which nobody would read, the CSV file has the rows."""
_MEANING = (
    "medians and 10 % and 90 % quantiles; step: the result and the gradients of points and all parameters; rate: "
    "of the products' operations; GB/s: of the bytes that must be read and written; of bound: the least time that "
    "products, memory or special functions need at the rates above, as a fraction of the median; /eager, /compile: "
    "times as fast as these; extra MB: peak memory of a step"
)
_MEANING_OF_GAINS = (
    "gain: eager / ours; of mm, of copy: ours as a fraction of what torch.mm's rate and the bandwidth allow"
)


def tables(result: dict[str, Any]) -> Iterator[Table | Text]:
    """Details case by case, of a preset gains family by family and memory, and the notes."""
    shown = [row for row in result["rows"] if "skipped" not in row]
    detailed = len(shown) <= _MOST_DETAILED
    for row in shown if detailed else ():
        # Not the table's title, which would be wrapped to its width.
        yield Text.assemble(
            (f"{title(row)}, batch, d, h = {size(row)}", "bold"),
            *((f"\n{_needs(row, job)}", "dim") for job in row["flops"]),
        )
        yield _details(row)
    if result["preset"] is not None:
        for family in dict.fromkeys(row["family"] for row in shown):
            yield _gains([row for row in shown if row["family"] == family])
        measured = [row for row in shown if "memory_gain" in row]
        if measured:
            yield _memory(measured)
    yield _notes(result, detailed)


def table_of(texts: Iterable[str], numbers: Iterable[str], title: str | None = None) -> Table:
    """A table with columns of texts, then of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in texts:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _details(row: Row) -> Table:
    compiled = "compile" in row["contenders"]
    memory = any(outcome.get("memory_bytes") is not None for outcome in row["contenders"].values())
    headings = ["median", "10–90 %", "rate", "GB/s", "of bound", "/eager"]
    headings += ["/compile"] * compiled + ["extra MB"] * memory
    table = table_of(("job", "contender"), headings)
    for job in row["flops"]:
        for position, (name, outcome) in enumerate(row["contenders"].items()):
            cells = _measured(row, name, outcome, job, compiled)
            if memory:
                cells.append(_megabytes(outcome.get("memory_bytes")) if job == "step" else "")
            table.add_row("" if position else job, name, *cells, style=_OURS if is_ours(name) else "")
        table.add_section()
    return table


def _needs(row: Row, job: str) -> str:
    """What a job takes at least."""
    least = row["bound"][job]
    needed = f"{amount(row['flops'][job], 'FLOP')}, {amount(row['minimum_bytes'][job], 'B')}"
    return f"{job}: {needed}, at least {duration(least['milliseconds'])} for {least['by']}"


def _measured(row: Row, name: str, outcome: dict[str, Any], job: str, compiled: bool) -> list[str | Text]:
    if job not in outcome.get("milliseconds", {}):
        return [_time(outcome, job), *[""] * (5 + compiled)]
    spread = outcome["milliseconds"][job]
    return [
        duration(spread["median"]),
        quantiles(spread),
        flop_rate(outcome["gflops"][job]),
        two_digits(outcome["gb_per_s"][job]),
        percent(outcome["of_bound"][job]),
        times(row["gain"].get(name, {}).get(job)),
        *[times(None if name.startswith("compile") else over_compile(row, job, name))] * compiled,
    ]


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / _BYTES_PER_MB:.{0 if size >= 10 * _BYTES_PER_MB else 1}f}"


def _names(rows: list[Row]) -> list[str]:
    """The contenders of any of these cases."""
    return list(dict.fromkeys(name for row in rows for name in row["contenders"]))


def _gains(rows: list[Row]) -> Table:
    """The cases of one family."""
    names, sizes = _names(rows), list(map(size, rows))
    family, dtype = rows[0]["family"], rows[0]["dtype"]
    heading = family if dtype in family else f"{family}, {dtype}"
    targets, compiled, one_size = any(row["target"] for row in rows), "compile" in names, len({*sizes}) == 1
    if one_size:
        heading += f", batch, d, h = {sizes[0]}"
    # Variant above size in one column: side by side they would not fit.
    first = "variant" if all(row["variant"] for row in rows) else "batch, d, h"
    headings = [*names, "gain", *["target"] * targets, *["/compile"] * compiled, "GFLOP/s", "of mm", "of copy"]
    table = table_of((first, "job"), headings, heading)
    for row, below in zip(rows, sizes):
        above = row["variant"].replace("_", " ") or below
        places = {"forward": above, "step": "" if one_size or above == below else below}
        for job in row["flops"]:
            table.add_row(places.get(job, ""), job, *_cells(row, job, names, targets))
    return table


def _cells(row: Row, job: str, names: list[str], targets: bool) -> Iterator[str | Text]:
    for name in names:
        yield _time(row["contenders"].get(name, {}), job)
    gain = row["gain"].get("ours", {}).get(job)
    target = (row["target"] or {}).get(job)
    yield _judged(gain, target)
    if targets:
        yield "" if target is None else f"{target:g}×"
    if "compile" in names:
        yield times(over_compile(row, job))
    for key, form in (("gflops", "{:.0f}"), ("of_mm", "{:.0%}"), ("of_bandwidth", "{:.0%}")):
        yield form.format(row[key][job]) if job in row.get(key, {}) else ""


def _judged(gain: float | None, target: float | None) -> Text:
    style = "" if gain is None or target is None else _REACHED if gain >= target else _MISSED
    return Text(times(gain), style=style)


def _time(outcome: dict[str, Any], job: str) -> str | Text:
    status = outcome.get("status")
    if job in outcome.get("milliseconds", {}):
        return duration(outcome["milliseconds"][job]["median"])
    return Text("" if status is None else "none" if status in (TIMED, UNAVAILABLE) else status, style=_BAD)


def _memory(rows: list[Row]) -> Table:
    names = _names(rows)
    table = table_of(("network", "batch, d, h"), (*names, "gain", "target"), "Extra memory of a step, MB")
    for row in rows:
        sizes = [row["contenders"].get(name, {}).get("memory_bytes") for name in names]
        target = (row["target"] or {}).get("memory")
        numbers = ["" if s is None else f"{s / _BYTES_PER_MB:.0f}" for s in sizes]
        last = (_judged(row["memory_gain"].get("ours"), target), "" if target is None else f"{target:g}×")
        table.add_row(f"{row['family']} {row['variant']}".strip(), size(row), *numbers, *last)
    return table


def _notes(result: dict[str, Any], details: bool) -> Text:
    lines = [
        f"{place(result['environment'])}, torch {result['environment']['torch']}",
        "the best tenth of the same run: " + ", ".join(_machine(result["machine"])),
        _MEANING,
        *[_MEANING_OF_GAINS] * (result["preset"] is not None),
        *["a row for each contender is in the CSV file"] * (not details),
        *(f"skipped {row['label']}: {row['skipped']}" for row in result["rows"] if "skipped" in row),
    ]
    text = Text("\n".join(lines), style="dim")
    for reason in reasons(result):
        text.append(f"\n{reason}", style=_BAD)
    return text


def _machine(machine: dict[str, dict[str, float]]) -> Iterator[str]:
    for name, rates in machine.items():
        if name.startswith("mm_"):
            dtype = name.removeprefix("mm_").removesuffix("gflops").strip("_") or "float32"
            yield f"torch.mm {flop_rate(rates['high'])} in {dtype}"
    yield f"copy_ {machine['copy_gb_per_s']['high']:.1f} GB/s"
    yield f"torch.tanh {machine['tanh_g_per_s']['high']:.2f} G/s"
    yield f"special functions {machine['special_g_per_s']['high']:.2f} G/s"
