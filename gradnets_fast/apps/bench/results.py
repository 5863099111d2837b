"""What a run leaves in files: the JSON that holds everything, a CSV line for each time, a figure."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ..files import write_atomically, write_json
from ..readable import Row
from .contenders import is_ours
from .machine import rates
from .runner import UNAVAILABLE, WRONG
from .work import bounds

KINDS = ("json", "csv", "png")
"""The endings of the files of a result."""


def content(rows: list[Row], machine: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """The result file: `run` says where and how, `machine` what it could have done, `rows` what was measured."""
    return {**run, "machine": machine, "rows": [derived(row, machine) for row in rows]}


def derived(row: Row, machine: dict[str, Any]) -> Row:
    """The row with gains, and with how near each contender comes to the machine's rates.

    bound: for each job the milliseconds that the scarcest resource needs at the best tenth of the rates, and which that
    is.  gain: for each contender but eager and each job, eager's median over its own.  For each contender and job:
    gflops, gb_per_s, and of_bound, the bound as a fraction of its median.  For ours alone: of_mm, its gflops as a
    fraction of torch.mm's; of_bandwidth, the time in which copy_ would move the minimum bytes, as a fraction of its
    own.  memory_gain: eager's extra bytes over each other contender's.
    """
    if "flops" not in row:  # nothing came of it
        return {**row, "gain": {}}
    medians = {
        name: {job: spread["median"] for job, spread in c["milliseconds"].items()}
        for name, c in row["contenders"].items()
        if "milliseconds" in c
    }
    row = {**row, "gain": _gains(medians)}
    # A bound is what the machine can do, which on a busy one is more than it mostly does.
    needs, at_best = (
        {job: bounds(row, job, rates(machine, row["dtype"], quantile)) for job in row["flops"]}
        for quantile in ("median", "high")
    )
    row["bound"] = {job: _largest(of_job) for job, of_job in at_best.items()}
    row["contenders"] = {
        name: outcome | _rates(row, medians[name]) if name in medians else outcome
        for name, outcome in row["contenders"].items()
    }
    if "ours" in medians:
        own = medians["ours"]
        row["gflops"] = row["contenders"]["ours"]["gflops"]
        row["of_mm"] = {job: needs[job]["products"] / median for job, median in own.items()}
        row["of_bandwidth"] = {job: needs[job]["memory"] / median for job, median in own.items()}
    memory = {name: c["memory_bytes"] for name, c in row["contenders"].items() if c.get("memory_bytes")}
    if "eager" in memory:
        row["memory_gain"] = {name: memory["eager"] / size for name, size in memory.items() if name != "eager"}
    return row


def _gains(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Eager's medians over the others', of the jobs that both could do.

    >>> _gains({"eager": {"forward": 6.0, "step": 9.0}, "ours": {"forward": 2.0}})
    {'ours': {'forward': 3.0}}
    """
    if "eager" not in medians:
        return {}
    eager, others = medians["eager"], {name: own for name, own in medians.items() if name != "eager"}
    return {name: {job: eager[job] / own[job] for job in own if job in eager} for name, own in others.items()}


def _largest(needs: dict[str, float]) -> dict[str, Any]:
    by = max(needs, key=needs.__getitem__)
    return {"milliseconds": needs[by], "by": by}


def _rates(row: Row, medians: dict[str, float]) -> dict[str, dict[str, float]]:
    return {
        "gflops": {job: 1e-6 * row["flops"][job] / median for job, median in medians.items()},
        "gb_per_s": {job: 1e-6 * row["minimum_bytes"][job] / median for job, median in medians.items()},
        "of_bound": {job: row["bound"][job]["milliseconds"] / median for job, median in medians.items()},
    }


def over_compile(row: Row, job: str, name: str = "ours") -> float | None:
    """A contender's gain over torch.compile, the faster of its modes."""
    others = [gain[job] for mode, gain in row["gain"].items() if mode.startswith("compile") and job in gain]
    own = row["gain"].get(name, {}).get(job)
    return None if own is None or not others else own / max(others)


def wrong(result: dict[str, Any]) -> list[str]:
    """The results of ours that were wrong, case by case."""
    found = [(row, name, outcome) for row in result["rows"] for name, outcome in row["contenders"].items()]
    return [
        f"{row['label']}: {name}: {outcome['reason']}"
        for row, name, outcome in found
        if is_ours(name) and outcome["status"] == WRONG
    ]


def reasons(result: dict[str, Any]) -> list[str]:
    """Why a contender shows no time, once for each contender and cause."""
    found: dict[str, str] = {}
    for row in result["rows"]:
        for name, outcome in row["contenders"].items():
            if "skipped" not in row and outcome.get("status") in (WRONG, UNAVAILABLE):
                found.setdefault(f"{name} {outcome['status']}: {outcome['reason']}", row["label"])
    return [f"{label}: {reason}" for reason, label in found.items()]


def write(result: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Writes NAME.json, NAME.csv and NAME.png, each atomically; returns their paths."""
    from .figure import save_figure

    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    write_json(paths[0], result)
    text = _csv(result)
    write_atomically(paths[1], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    save_figure(result, paths[2])
    return paths


_COLUMNS = ("family", "variant", "batch", "d", "h", "dtype", "job", "contender", "backend", "status", "relative_error")
_MEASURED = ("median_ms", "q10_ms", "q90_ms", "gain", "over_compile", "target", "gflops", "gb_per_s", "of_bound")
_BOUNDS = ("bound_ms", "bound_by", "of_mm", "of_bandwidth", "memory_bytes", "reason")


def _csv(result: dict[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*_COLUMNS, *_MEASURED, *_BOUNDS], restval="", lineterminator="\n")
    writer.writeheader()
    for row in result["rows"]:
        for name, outcome in row["contenders"].items():
            for job in row["flops"]:
                writer.writerow(_csv_line(row, name, outcome, job))
    return buffer.getvalue()


def _csv_line(row: Row, name: str, outcome: dict[str, Any], job: str) -> Row:
    line = {key: row[key] for key in _COLUMNS if key in row}
    line |= {"job": job, "contender": name, "reason": outcome.get("reason") or outcome.get("missing") or ""}
    line |= {key: outcome[key] for key in ("backend", "status", "relative_error") if key in outcome}
    line |= {"bound_ms": row["bound"][job]["milliseconds"], "bound_by": row["bound"][job]["by"]}
    if job in outcome.get("milliseconds", {}):
        spread = outcome["milliseconds"][job]
        line |= {"median_ms": spread["median"], "q10_ms": spread["low"], "q90_ms": spread["high"]}
        line |= {key: outcome[key][job] for key in ("gflops", "gb_per_s", "of_bound")}
    if job in row["gain"].get(name, {}):
        line["gain"] = row["gain"][name][job]
        line["over_compile"] = "" if name.startswith("compile") else over_compile(row, job, name)
    if name == "ours" and job in row.get("of_mm", {}):
        line |= {key: row[key][job] for key in ("of_mm", "of_bandwidth")}
        line["target"] = (row["target"] or {}).get(job, "")
    if job == "step" and outcome.get("memory_bytes"):
        line["memory_bytes"] = outcome["memory_bytes"]
    return line
