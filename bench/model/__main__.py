"""The command of this package."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

import triton

import bench.model
from bench.environment import environment
from bench.model import attention, beside, rows
from bench.model.chips import CHIPS
from bench.model.kernel import BATCH, HIDDEN
from gradnets_fast.apps.files import write_json
from gradnets_fast.kernels.compiler import toolkit


def line(row: dict[str, Any]) -> str:
    """One case in a line."""
    case = rows.Case(*(row[name] for name in ("architecture", "kind", "d", "layers", "job")))
    waits = " ".join(
        f"{program['instructions']} instructions, waits {sum(program['waited'].values())} of a turn"
        + ("" if program["prefetched"] is None or program["prefetched"] > 0 else ", prefetches nothing")
        for program in row["programs"]
    )
    return (
        f"{case.label:38} {'×'.join(map(str, row['tiles'].values())):22} {row['registers']:3} registers "
        f"{row['warps_a_scheduler']:3.0f} warps  predicted {row['predicted_milliseconds']:6.2f} ms, "
        f"{row['predicted_of_bound']:4.0%} of the bound ({row['bound_by']}), at most {row['predicted_ceiling']:4.0%} "
        f"by {' and '.join(row['scarcest'])}; {waits}"
    )


def made(cases: Iterable[rows.Case]) -> list[dict[str, Any]]:
    """Rows of cases, printed one by one."""
    found = []
    with ProcessPoolExecutor() as pool:
        for row in pool.map(rows.row, cases):
            if row is not None:
                found.append(row)
                print(line(row), flush=True)
    return found


def main() -> None:
    """Prints and writes predictions."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.model",
        description=bench.model.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", default="", help="only cases whose label contains this; writes nothing")
    arguments = parser.parse_args()
    made_by = {"command": "python -m bench.model", "triton": triton.__version__, "toolkit": toolkit()}
    where = environment() | made_by
    found = made(case for case in rows.cases() if arguments.case in case.label)
    if arguments.case:
        return
    chips = {str(architecture): asdict(chip) for architecture, chip in CHIPS.items()}
    measured = attention.rows()
    for row in measured:
        rates = f"measured {row['teraflops']:.0f}, predicted {row['predicted_teraflops']:.0f} TFLOP/s"
        print(f"attention, d = {row['d']}: {rates}")
    result = {"environment": where, "kind": "predicted", "batch": BATCH, "h": HIDDEN, "chips": chips}
    write_json(beside.FILE, result | {"attention": measured, "rows": found})


if __name__ == "__main__":
    main()
