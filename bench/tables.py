"""Writes the README's tables from the result files, between their markers; `--check` only compares.

python -m bench.tables
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.environment import RESULTS, ROOT
from gradnets_fast.benchmark import report
from gradnets_fast.benchmark.contenders import JOBS

README = ROOT / "README.md"


def published_2d(result: dict[str, Any]) -> str:
    """Errors in dB beside the published ones."""
    lines = ["| network | field | learning rate | ours, dB | published, dB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        ours = f"{row['mean_db']:.2f} ± {row['spread_db']:.2f}"
        published = f"{row['published_db']:.2f} ± {row['published_spread_db']:.2f}"
        rate = f"{row['lr']:g}, {row['schedule']}"
        lines.append(f"| {row['arch']} | {row['field']} | {rate} | {ours} | {published} |")
    return "\n".join(lines)


def cpu(result: dict[str, Any]) -> str:
    """Median times and gains, forward / step, and where they were measured."""
    rows = [row for row in result["rows"] if row["gain"] and row["dtype"] == "float32"]
    lines = [
        "| network, float32 | B, d, h | eager | ours | gain over eager | over torch.compile | of torch.mm's rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [_pair(partial(_median, row, name)) for name in ("eager", "ours")]
        gains = [lambda job, r=row: r["gain"]["ours"][job], partial(report.over_compile, row)]
        cells += [_pair(lambda job, gain=gain: report.times(gain(job))) for gain in gains]
        cells.append(_pair(lambda job, r=row: f"{r['of_mm'][job]:.0%}"))
        variant = f", {row['variant'].replace('_', ' ')}" if row["variant"] else ""
        lines.append(f"| {row['family']}{variant} | {report.size(row)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _cpu_note(result)])


def _median(row: dict[str, Any], name: str, job: str) -> str:
    return report.duration(row["contenders"][name]["milliseconds"][job]["median"])


def _pair(cell: Callable[[str], str]) -> str:
    return " / ".join(cell(job) or "–" for job in JOBS)


def _cpu_note(result: dict[str, Any]) -> str:
    where, machine = result["environment"], result["machine"]
    place = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}, torch {where['torch']}"
    mm = f"{machine['mm_gflops']['median']:.0f} GFLOP/s"
    memory = "; ".join(
        f"{row['family']}, {report.size(row)}: {row['memory_gain']['ours']:.0f} times less"
        for row in result["rows"]
        if (row["target"] or {}).get("memory") and "memory_gain" in row
    )
    return (
        "Forward / step; a step is f and the gradients of x and all parameters. Medians of interleaved runs, each "
        "result first verified against float64. Eager is plain PyTorch with W x computed once; the last column counts "
        f"the products' operations against torch.mm's {mm} in the same run. "
        + (f"Extra memory of a step, beside eager's: {memory}. " if memory else "")
        + f"Measured on {place}, commit {where['commit']}, by `{where['command']}` "
        "([result file](bench/results/cpu.json), [figure](bench/results/cpu.png)). "
        "Absolute times vary; compare the gains."
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"published_2d": published_2d, "cpu": cpu}


def rendered(text: str) -> str:
    """The document with every table printed anew."""
    for name, table in TABLES.items():
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)"
        text, count = re.subn(pattern, lambda m, t=table, r=result: f"{m[1]}{t(r)}\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"bench.tables: README: expected one place for {name}, got {count}; restore its markers")
    return text


def main() -> None:
    """Writes, or compares and exits 1 on a difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    present = README.read_text(encoding="utf-8")
    wanted = rendered(present)
    if check and present != wanted:
        sys.exit("bench.tables: the README's tables are not those of the result files; run python -m bench.tables")
    if not check:
        README.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
