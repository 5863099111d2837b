"""The predictions as a table of the documents."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from gradnets_fast.apps.readable import duration

_KINDS = {"half": "bfloat16", "tf32": "TF32", "tf32x3": "float32, three TF32 products"}
_ARCHITECTURE = 90
"""The one that the documents show; the file has all."""

Row = dict[str, Any]


def of_result(result: dict[str, Any]) -> str:
    """Forward / backward of each network, with what was assumed and how far off a known kernel is."""
    lines = [
        "| products | layers | d | predicted time | bound | predicted, of the bound | with perfect overlap "
        "| scarcest unit | warps a scheduler |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = [row for row in result["rows"] if row["architecture"] == _ARCHITECTURE]
    for (kind, layers, d), jobs in groupby(shown, key=lambda row: (row["kind"], row["layers"], row["d"])):
        of = {row["job"]: row for row in jobs}
        cells = [
            _pair(of, lambda row: duration(row["predicted_milliseconds"])),
            _pair(of, lambda row: duration(row["bound_milliseconds"])),
            _pair(of, lambda row: f"{row['predicted_of_bound']:.0%}"),
            _pair(of, lambda row: f"{row['predicted_ceiling']:.0%}"),
            _pair(of, lambda row: " and ".join(dict.fromkeys(row["scarcest"]))),
            _pair(of, lambda row: f"{row['warps_a_scheduler']:.0f}"),
        ]
        lines.append(f"| {_KINDS[kind]} | {layers} | {d} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _note(result)])


def _pair(of: dict[str, Row], cell: Callable[[Row], str]) -> str:
    return " / ".join(cell(of[job]) if job in of else "–" for job in ("forward", "backward"))


def _note(result: dict[str, Any]) -> str:
    where, chip = result["environment"], result["chips"][str(_ARCHITECTURE)]
    measured = " and ".join(f"[{row['teraflops']:.0f}]({row['source']})" for row in result["attention"])
    beside = f"{result['attention'][0]['predicted_teraflops']:.0f} TFLOP/s, where others measured {measured}"
    where_to = f"{chip['name']} with {chip['multiprocessors']} multiprocessors at {chip['gigahertz']} GHz"
    return (
        "Predictions, not measurements: nothing here ran on a GPU. Forward / backward, a dash where a library takes "
        f"over; B = {result['batch']}, h = {result['h']}, tanh, on {where_to}. The bound is the largest of the "
        "products at the matrix units' peak, one special function for each tanh, and the tensors at the memory's rate. "
        f"Of attention in Triton, a kernel of the same build, the model says {beside}. Machine code by Triton "
        f"{where['triton']} and CUDA {where['toolkit']}, commit {where['commit']}, by `{where['command']}` "
        "([result file](bench/results/gpu_model.json), which has 8.0 and 10.0 too)."
    )
