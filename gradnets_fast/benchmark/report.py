"""What a run leaves: tables on the terminal, JSON, CSV, and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..tasks.checkpoint import write_atomically, write_json
from .contenders import JOBS
from .runner import TIMED, UNAVAILABLE, WRONG

Row = dict[str, Any]
_REACHED, _MISSED, _BAD = "green", "yellow", "bold red"
_BYTES_PER_MB = 1e6


def derived(row: Row, machine: dict[str, Any]) -> Row:
    """The row with gains over eager, and with how near ours comes to the machine's rates.

    gain: for each other contender and job, eager's median over its own.  gflops: of ours.  of_mm: that as a fraction of
    torch.mm's rate.  of_bandwidth: the time in which copy_ would move the minimum bytes, as a fraction of ours.
    memory_gain: eager's extra bytes over each other contender's.
    """
    timed = {name: c for name, c in row["contenders"].items() if "milliseconds" in c}
    medians = {name: {job: c["milliseconds"][job]["median"] for job in JOBS} for name, c in timed.items()}
    others = [name for name in medians if name != "eager" and "eager" in medians]
    row = {**row, "gain": {n: {job: medians["eager"][job] / medians[n][job] for job in JOBS} for n in others}}
    if "ours" in medians:
        seconds = {job: 1e-3 * medians["ours"][job] for job in JOBS}
        row["gflops"] = {job: 1e-9 * row["flops"][job] / seconds[job] for job in JOBS}
        row["of_mm"] = {job: row["gflops"][job] / machine["mm_gflops"]["median"] for job in JOBS}
        rate = 1e9 * machine["copy_gb_per_s"]["median"]
        row["of_bandwidth"] = {job: row["minimum_bytes"][job] / rate / seconds[job] for job in JOBS}
    memory = {name: c["memory_bytes"] for name, c in row["contenders"].items() if c.get("memory_bytes")}
    if "eager" in memory:
        row["memory_gain"] = {name: memory["eager"] / size for name, size in memory.items() if name != "eager"}
    return row


def content(rows: list[Row], machine: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """The result file: `run` says where and how, `machine` what it could have done, `rows` what was measured."""
    return {**run, "machine": machine, "rows": [derived(row, machine) for row in rows]}


def wrong(result: dict[str, Any], contender: str = "ours") -> list[str]:
    """What was wrong, case by case."""
    found = [(row["label"], row["contenders"].get(contender, {})) for row in result["rows"]]
    return [f"{label}: {outcome['reason']}" for label, outcome in found if outcome.get("status") == WRONG]


def write(result: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Writes NAME.json, NAME.csv and NAME.png, each atomically; returns their paths."""
    from .figure import save_figure

    paths = [folder / f"{name}.{kind}" for kind in ("json", "csv", "png")]
    write_json(paths[0], result)
    text = _csv(result)
    write_atomically(paths[1], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    save_figure(result, paths[2])
    return paths


_COLUMNS = ("family", "variant", "batch", "d", "h", "dtype", "job", "contender", "status", "relative_error")
_MEASURED = ("median_ms", "q10_ms", "q90_ms", "gain", "target", "gflops", "of_mm", "of_bandwidth", "memory_bytes")


def _csv(result: dict[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*_COLUMNS, *_MEASURED, "reason"], restval="", lineterminator="\n")
    writer.writeheader()
    for row in result["rows"]:
        for name, outcome in row["contenders"].items():
            for job in JOBS:
                writer.writerow(_csv_line(row, name, outcome, job))
    return buffer.getvalue()


def _csv_line(row: Row, name: str, outcome: dict[str, Any], job: str) -> Row:
    line = {key: row[key] for key in _COLUMNS if key in row}
    line |= {"job": job, "contender": name, "reason": outcome.get("reason") or ""}
    line |= {key: outcome[key] for key in ("status", "relative_error") if key in outcome}
    if "milliseconds" in outcome:
        spread = outcome["milliseconds"][job]
        line |= {"median_ms": spread["median"], "q10_ms": spread["low"], "q90_ms": spread["high"]}
    if name in row["gain"]:
        line["gain"] = row["gain"][name][job]
    if name == "ours" and "gflops" in row:
        line |= {key: row[key][job] for key in ("gflops", "of_mm", "of_bandwidth")}
        line["target"] = "" if row["target"] is None else row["target"][job]
    if job == "step" and outcome.get("memory_bytes"):
        line["memory_bytes"] = outcome["memory_bytes"]
    return line


def tables(result: dict[str, Any]) -> Iterator[Table | Text]:
    """What the terminal shows: times family by family, memory, and the notes."""
    families: dict[str, list[Row]] = {}
    for row in result["rows"]:
        if "skipped" not in row:
            families.setdefault(row["family"], []).append(row)
    for family, rows in families.items():
        yield _times(family, rows)
    measured = [row for row in result["rows"] if "memory_gain" in row]
    if measured:
        yield _memory(measured)
    yield _notes(result)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _times(family: str, rows: list[Row]) -> Table:
    dtype = "" if rows[0]["dtype"] in family else f", {rows[0]['dtype']}"
    table = _table(family + dtype)
    names = list(dict.fromkeys(name for row in rows for name in row["contenders"]))
    targets, compiled = any(row["target"] for row in rows), "compile" in names
    # Variant above size in one column: side by side they would not fit.
    one_size = len({size(row) for row in rows}) == 1
    if one_size:
        table.title = f"{family}{dtype}, batch, d, h = {size(rows[0])}"
    table.add_column("variant" if all(row["variant"] for row in rows) else "batch, d, h", no_wrap=True)
    table.add_column("job", no_wrap=True)
    headings = [*names, "gain", *["target"] * targets, *["/compile"] * compiled, "GFLOP/s", "of mm", "of copy"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        above, below = (row["variant"].replace("_", " "), size(row)) if row["variant"] else (size(row), "")
        below = "" if one_size else below
        table.add_row(above, "forward", *_cells(row, "forward", names, targets))
        table.add_row(below, "step", *_cells(row, "step", names, targets))
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
        yield form.format(row[key][job]) if key in row else ""


def _judged(gain: float | None, target: float | None) -> Text:
    style = "" if gain is None or target is None else _REACHED if gain >= target else _MISSED
    return Text(times(gain), style=style)


def _time(outcome: dict[str, Any], job: str) -> str | Text:
    status = outcome.get("status")
    if status == TIMED:
        return duration(outcome["milliseconds"][job]["median"])
    return Text("" if status is None else "none" if status == UNAVAILABLE else status, style=_BAD)


def _memory(rows: list[Row]) -> Table:
    table = _table("Extra memory of a step, MB")
    names = list(dict.fromkeys(name for row in rows for name in row["contenders"]))
    for heading in ("network", "batch, d, h"):
        table.add_column(heading, no_wrap=True)
    for heading in (*names, "gain", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        sizes = [row["contenders"].get(name, {}).get("memory_bytes") for name in names]
        target = (row["target"] or {}).get("memory")
        gain = row["memory_gain"].get("ours")
        numbers = ["" if s is None else f"{s / _BYTES_PER_MB:.0f}" for s in sizes]
        last = (_judged(gain, target), "" if target is None else f"{target:g}×")
        table.add_row(f"{row['family']} {row['variant']}".strip(), size(row), *numbers, *last)
    return table


def _notes(result: dict[str, Any]) -> Text:
    machine = {name: rates["median"] for name, rates in result["machine"].items()}
    where = result["environment"]
    lines = [
        f"{where['processor']}, {where['threads']} thread(s), {where['instruction_set']}, torch {where['torch']}",
        f"in the same run: torch.mm {machine['mm_gflops']:.0f} GFLOP/s, copy_ {machine['copy_gb_per_s']:.1f} GB/s, "
        f"torch.tanh {machine['tanh_g_per_s']:.2f} G/s",
        "medians; gain: eager / ours; step: f and the gradients of x and all parameters; of mm, of copy: ours as a "
        "fraction of what torch.mm's rate and the bandwidth would allow",
    ]
    lines += [f"skipped {row['label']}: {row['skipped']}" for row in result["rows"] if "skipped" in row]
    text = Text("\n".join(lines), style="dim")
    for reason in reasons(result):
        text.append(f"\n{reason}", style=_BAD)
    return text


def reasons(result: dict[str, Any]) -> list[str]:
    """Why a column shows no time, once for each contender and cause."""
    found: dict[str, str] = {}
    for row in result["rows"]:
        for name, outcome in row["contenders"].items():
            if "skipped" not in row and outcome.get("status") in (WRONG, UNAVAILABLE):
                found.setdefault(f"{name} {outcome['status']}: {outcome['reason']}", row["label"])
    return [f"{label}: {reason}" for reason, label in found.items()]


def size(row: Row) -> str:
    """B, d, h."""
    return f"{row['batch']}, {row['d']}, {row['h']}"


def over_compile(row: Row, job: str) -> float | None:
    """The gain over torch.compile."""
    if not {"compile", "ours"} <= row["gain"].keys():
        return None
    ratio: float = row["gain"]["ours"][job] / row["gain"]["compile"][job]
    return ratio


def times(ratio: float | None) -> str:
    """A ratio to read, or nothing.

    >>> times(1.234), times(2.345), times(23.4), times(None)
    ('1.23×', '2.3×', '23×', '')
    """
    if ratio is None:
        return ""
    return f"{ratio:.{2 if ratio < 1.995 else 1 if ratio < 19.95 else 0}f}×"


def duration(milliseconds: float) -> str:
    """A time to read.

    >>> duration(0.01234), duration(1.234), duration(123.4), duration(1234.0)
    ('12.3 µs', '1.23 ms', '123 ms', '1.23 s')
    """
    for factor, unit in ((1e3, "µs"), (1.0, "ms"), (1e-3, "s")):
        value = milliseconds * factor
        if value < 999.5 or unit == "s":
            break
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
