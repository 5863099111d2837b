"""Writes the README's tables from the result files, between their markers; `--check` only compares.

python -m bench.tables
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from bench.environment import RESULTS, ROOT

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


def cpu_layers(result: dict[str, Any]) -> str:
    """Median times beside eager PyTorch's, and where they were measured."""
    where = result["environment"]
    lines = ["| network, float32 | batch, d, h | eager forward / step | ours | gain |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        eager, ours = (row["milliseconds"][backend] for backend in ("reference", "cpp"))
        times = [f"{_short(t['forward'])} / {_short(t['step'])} ms" for t in (eager, ours)]
        gain = f"{row['gain']['forward']:.1f}× / {row['gain']['step']:.1f}×"
        lines.append(
            f"| {row['network']} | {row['batch']}, {row['d']}, {row['h']} | {times[0]} | {times[1]} | {gain} |"
        )
    place = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}, torch {where['torch']}"
    note = (
        "Medians of interleaved runs; a step is forward and backward; eager is the reference backend. "
        f"Measured on {place}, commit {where['commit']}, by `{where['command']}` "
        "([result file](bench/results/cpu_layers.json)). Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"published_2d": published_2d, "cpu_layers": cpu_layers}


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
