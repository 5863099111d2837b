"""Writes the documents' tables from the result files, between their markers; `--check` only compares.

python -m bench.tables
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import experiment_tables as of
from bench.application_table import applications
from bench.environment import RESULTS, ROOT
from bench.experiment_tables import machine_of, spaced, three_digits
from bench.model import beside
from bench.model import table as model_table
from gradnets_fast.apps.bench.figure import save_figure
from gradnets_fast.apps.bench.results import over_compile
from gradnets_fast.apps.bench.work import JOBS
from gradnets_fast.apps.readable import duration, size, times, title
from gradnets_fast.apps.reproduce import EXPERIMENTS
from gradnets_fast.apps.reproduce.runner import read, rows_of


def wheel_sizes(result: dict[str, Any]) -> str:
    """How large wheels are."""
    lines = ["| wheel | size | extension, unpacked | kernels compiled ahead of time |", "|---|---|---|---|"]
    for row in result["rows"]:
        targets = row.get("kernels", {})
        counts = ", ".join(f"{targets[name]} for {name}" for name in sorted(targets, key=lambda name: name == "ptx"))
        counts = counts.replace("for ptx", "as PTX")
        kernels = f"{_megabytes(row['kernels_bytes'])}: {counts}; Triton {row['triton']}" if counts else "none"
        sizes = f"{_megabytes(row['bytes'])} | {_megabytes(row['extension_bytes'])}"
        lines.append(f"| {row['wheel']} | {sizes} | {kernels} |")
    return "\n".join([*lines, "", f"Of commit {result['environment']['commit']}, by `python -m bench.wheel_sizes`."])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def cpu(result: dict[str, Any]) -> str:
    """Median times and gains, forward / step, and where they were measured."""
    rows = [row for row in result["rows"] if row["gain"] and row["dtype"] == "float32"]
    lines = [
        "| network, float32 | B, d, h | eager | ours | gain over eager | over torch.compile | of torch.mm's rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [_pair(partial(_median, row, name)) for name in ("eager", "ours")]
        gains = [lambda job, r=row: r["gain"]["ours"][job], partial(over_compile, row)]
        cells += [_pair(lambda job, gain=gain: times(gain(job))) for gain in gains]
        cells.append(_pair(lambda job, r=row: f"{r['of_mm'][job]:.0%}"))
        variant = f", {row['variant'].replace('_', ' ')}" if row["variant"] else ""
        lines.append(f"| {row['family']}{variant} | {size(row)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _cpu_note(result)])


def small(result: dict[str, Any]) -> str:
    """Median times and gains of small batches, forward / step, and where they were measured."""
    lines = ["| float32 | B, d, h | eager | ours | gain over eager |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        variant = f", {row['variant'].replace('_', ' ')}" if row["variant"] else ""
        cells = [_pair(partial(_median, row, name)) for name in ("eager", "ours")]
        cells.append(_pair(partial(_over, row, "eager")))
        lines.append(f"| {row['family']}{variant} | {size(row)} | {' | '.join(cells)} |")
    where = result["environment"]
    note = (
        "Forward / step. Medians of interleaved runs, each result first verified against float64. Measured on "
        f"{machine_of(where)}, by `{where['command']}` ([result file](bench/results/small/cpu.json)). "
        "Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def imaging(result: dict[str, Any]) -> str:
    """Median times and gains of convolutional networks, forward / step, and where they were measured."""
    lines = [
        "| channels, filters, activation, image | batch | eager | ours | gain over eager | over torch.compile "
        "| of torch.mm's rate |",
        "|---|---|---|---|---|---|---|",
    ]
    convolved = [row for row in result["rows"] if row["family"] == "ConvGradNet"]
    for row in convolved:
        cells = [_pair(partial(_median, row, name)) for name in ("eager", "ours")]
        cells += [_pair(partial(_over, row, "eager")), _pair(lambda job, r=row: times(over_compile(r, job)))]
        cells.append(_pair(lambda job, r=row: f"{r['of_mm'][job]:.0%}"))
        lines.append(f"| {row['variant']} | {row['batch']} | {' | '.join(cells)} |")
    where, mm = result["environment"], f"{result['machine']['mm_gflops']['median']:.0f} GFLOP/s"
    memory = "; ".join(
        f"{row['variant']}, batch {row['batch']}: {row['memory_gain']['ours']:.0f} times less"
        for row in convolved
        if row.get("memory_gain")
    )
    note = (
        "Forward / step. Medians of interleaved runs, each result first verified against float64; torch.mm made "
        f"{mm} in the same run. "
        + (f"Extra memory of a step, beside eager's: {memory}. " if memory else "")
        + _splines(result["rows"])
        + "A dash: torch.compile's result was further from float64 than twice eager's. "
        f"Measured on {machine_of(where)}, by `{where['command']}` ([result file](bench/results/imaging/cpu.json)). "
        "Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def _splines(rows: list[dict[str, Any]]) -> str:
    """What splines cost beside tanh in the dense network of the same run, if it is there."""
    dense = {row["variant"]: row for row in rows if row["family"] == "RidgeGradNet"}
    if len(dense) != 2:
        return ""
    tanh, spline = (row["contenders"]["ours"]["milliseconds"] for row in dense.values())
    ratios = _pair(lambda job: times(spline[job]["median"] / tanh[job]["median"]))
    _, last = dense.values()
    return f"With {last['variant']}, RidgeGradNet at B, d, h = {size(last)} takes {ratios} tanh's time. "


def deep(result: dict[str, Any]) -> str:
    """Median times of deep networks, forward / step, beside autograd's and jax.jit's, and where they were measured."""
    lines = [
        "| float32, tanh | B, d, h | autograd | jax.jit | ours | over autograd | over jax.jit | of torch.mm's rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        timed = [name for name in ("eager", "jax", "ours") if row["contenders"].get(name, {}).get("status") == "timed"]
        cells = [_pair(partial(_median, row, name)) if name in timed else "" for name in ("eager", "jax", "ours")]
        cells += [_pair(partial(_over, row, name)) if name in timed else "" for name in ("eager", "jax")]
        cells.append(_pair(lambda job, r=row: f"{r['of_mm'][job]:.0%}"))
        lines.append(f"| {row['family']} | {size(row)} | {' | '.join(cells)} |")
    where, mm = result["environment"], f"{result['machine']['mm_gflops']['median']:.0f} GFLOP/s"
    memory = "; ".join(
        f"{row['family']}, {size(row)}: {row['memory_gain']['ours']:.0f} times less"
        for row in result["rows"]
        if row["contenders"]["ours"].get("status") == "timed" and row.get("memory_gain")
    )
    note = (
        "Forward / step; a step is the result and the gradients of x and all parameters. Medians of interleaved runs, "
        f"each result first verified against float64; torch.mm made {mm} in the same run. "
        + (f"Extra memory of a step, beside autograd's: {memory}. " if memory else "")
        + f"Measured on {machine_of(where)}, by `{where['command']}` "
        "([result file](bench/results/deep/cpu.json)). Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def _over(row: dict[str, Any], name: str, job: str) -> str:
    """How many times as fast as a contender ours is."""
    theirs, ours = (row["contenders"][of]["milliseconds"][job]["median"] for of in (name, "ours"))
    return times(theirs / ours)


_HIGHLIGHTS = ("mGradNetC, 4 layers 65536x64x1024", "mGradNetM, 4 modules softmax 16384x8x256")
"""The steps that the summary names besides the one with the least gain."""
_SMALL = "mGradNetC, 4 layers, d = 2, h = 64"
"""The network of its training run and of its largest batch."""


def summary(cpu: dict[str, Any], training: dict[str, Any], memory: dict[str, Any]) -> str:
    """Two typical steps and the one that gains least, a training run and a batch size, beside plain PyTorch."""
    rows = [row for row in cpu["rows"] if row["gain"] and row["dtype"] == "float32"]
    least = min(rows, key=lambda row: float(row["gain"]["ours"]["step"]))
    chosen = [next(row for row in rows if row["label"] == label) for label in _HIGHLIGHTS]
    lines = ["| on a CPU, float32 | PyTorch | gradnets_fast | gain |", "|---|---|---|---|"]
    for row in (*chosen, least):
        note = f", the least gain of {len(rows)} cases" if row is least else ""
        label = f"training step, {row['family']}, {row['batch']} points, d = {row['d']}, h = {row['h']}{note}"
        cells = [_median(row, name, "step") for name in ("eager", "ours")] + [times(row["gain"]["ours"]["step"])]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    run = next(row for row in training["rows"] if row["label"] == _SMALL)
    batch = next(row for row in memory["rows"] if row["network"] == _SMALL)
    reference, fastest = (run["median_seconds"][name] for name in ("reference", "fastest"))
    lines.append(f"| training run, {run['label']} | {reference:.1f} s | {fastest:.1f} s | {times(run['gain'])} |")
    eager, ours = (spaced(three_digits(batch["largest"][name])) for name in ("eager", "ours"))
    label = f"largest batch in {memory['bytes'] / 1e9:.0f} GB, {batch['network']}"
    lines.append(f"| {label} | {eager} | {ours} | {times(batch['gain'])} |")
    where = cpu["environment"]
    note = (
        f"Measured on {where['processor']}, {where['threads']} threads, torch {where['torch']}, each step first "
        "verified against float64. A step is f and all its gradients; PyTorch is the same network in plain, eager "
        "PyTorch. How and by which commands, beside torch.compile too: [benchmarks](docs/benchmarks.md)."
    )
    return "\n".join([*lines, "", note])


def _median(row: dict[str, Any], name: str, job: str) -> str:
    return duration(row["contenders"][name]["milliseconds"][job]["median"])


def _pair(cell: Callable[[str], str]) -> str:
    return " / ".join(cell(job) or "–" for job in JOBS)


def _cpu_note(result: dict[str, Any]) -> str:
    where, machine = result["environment"], result["machine"]
    mm = f"{machine['mm_gflops']['median']:.0f} GFLOP/s"
    memory = "; ".join(
        f"{row['family']}, {size(row)}: {row['memory_gain']['ours']:.0f} times less"
        for row in result["rows"]
        if (row["target"] or {}).get("memory") and "memory_gain" in row
    )
    return (
        "Forward / step; a step is f and the gradients of x and all parameters. Medians of interleaved runs, each "
        "result first verified against float64. Eager is plain PyTorch with W x computed once; the last column counts "
        f"the products' operations against torch.mm's {mm} in the same run. "
        + (f"Extra memory of a step, beside eager's: {memory}. " if memory else "")
        + f"Measured on {machine_of(where)}, by `{where['command']}` "
        "([result file](bench/results/cpu.json), [figure](bench/results/cpu.png)). "
        "Absolute times vary; compare the gains."
    )


def gpus(folder: Path = RESULTS) -> str:
    """Times, gains and shares of the bound of each GPU with measurements; nothing where there are none."""
    tables = []
    for path in sorted(folder.glob("*/measurements.json")):
        tables.append(gpu(json.loads(path.read_text(encoding="utf-8")), path.parent.name))
        beside = path.with_name("prebuilt.json")
        if beside.is_file():
            tables.append(first_steps(json.loads(beside.read_text(encoding="utf-8")), path.parent.name))
    return "\n\n".join(tables)


def first_steps(result: dict[str, Any], name: str) -> str:
    """How long the first step of a process takes with kernels compiled ahead of time, and by Triton."""
    rows = result["first_steps"]
    ways = list(next((row["seconds"] for row in rows if "seconds" in row), {}))
    lines = [f"| first step of a process | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
    for row in rows:
        network, d, h, half = row["case"]
        if row.get("fault"):
            continue
        times = (f"{1e3 * row['seconds'][way]['median']:.0f} ms" for way in ways)
        lines.append(f"| {network}, d = {d}, h = {h}, {'bfloat16' if half else 'float32'} | {' | '.join(times)} |")
    where = result["environment"]
    note = (
        f"Medians; imports and the start of the GPU left out. On {where['device']}, torch {where['torch']}, Triton "
        f"{where['triton']}, commit {where['commit']}, by `{where['command']}` "
        f"([result file](bench/results/{name}/prebuilt.json))."
    )
    return "\n".join([*lines, "", note])


_SHOWN = {"h": (64, 256, 1024), "dtype": ("bfloat16", "tf32")}
"""What docs/benchmarks.md has of a GPU's rows; the result file and the figure have all."""


def gpu(result: dict[str, Any], name: str) -> str:
    """The rows of one GPU, forward / backward / step, and where they were measured."""
    lines = [
        "| operator | B, d, h | eager | ours | gain over eager | over torch.compile | of the bound | predicted "
        "| over the prediction |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ours, eager = (row["contenders"].get(who, {}) for who in ("ours", "eager"))
        if "milliseconds" not in ours or any(row[key] not in shown for key, shown in _SHOWN.items()):
            continue
        jobs, gains = list(row["flops"]), row["gain"].get("ours", {})
        cells = [
            [_time(eager, job) for job in jobs],
            [_time(ours, job) for job in jobs],
            [times(gains.get(job)) for job in jobs],
            [times(over_compile(row, job)) for job in jobs],
            [f"{ours['of_bound'][job]:.0%}" if job in ours["of_bound"] else "" for job in jobs],
            [duration(row["predicted"][job]) if job in row.get("predicted", {}) else "" for job in jobs],
            [times(beside.ratios(row).get(job)) for job in jobs],
        ]
        texts = (jobs[0] if len({*jobs}) == 1 else " / ".join(job or "–" for job in jobs) for jobs in cells)
        lines.append(f"| {title(row)} | {size(row)} | {' | '.join(text or '–' for text in texts)} |")
    where = result["environment"]
    note = (
        "Forward / backward / step, medians of interleaved runs, each result first verified against float64. Eager is "
        "plain PyTorch with W x computed once; torch.compile the faster of its modes, where it was tried. The bound is "
        "the largest of the matrix products at torch.mm's rate, memory at a copy's rate, and tanh or exponentials at "
        "the special-function units' rate, on the same GPU. Predicted is what `python -m bench.model` says of the chip "
        "that stands for the architecture; the last column is the measured time over that. "
        f"Measured on {where['device']}, driver {where['driver']}, "
        f"torch {where['torch']}, triton {where['triton']}, commit {where['commit']}, by `{where['command']}` "
        f"([result file](bench/results/{name}/measurements.json), [figure](bench/results/{name}/measurements.png))."
    )
    return "\n".join([*lines, "", note])


def _time(outcome: dict[str, Any], job: str) -> str:
    spread = outcome.get("milliseconds", {}).get(job)
    return duration(spread["median"]) if spread else outcome.get("missing") or outcome.get("reason") or "–"


def _result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _of_result(table: Callable[[dict[str, Any]], str], name: str) -> Callable[[], str]:
    """A table that is made of one result file."""
    return lambda: table(_result(name))


def experiment(path: Path) -> str:
    """The table of one run of `gradnets-fast reproduce`, and where it was measured."""
    content = read(path)
    rows, where = rows_of(content), content["environment"]
    parts = [part["commit"] for part in content.get("resumed", [])]
    later = f", continued at {', '.join(parts)}" if parts else ""
    note = (
        f"By `{where['command']}`, {len(rows)} cases in {sum(row['seconds'] for row in rows) / 60:.0f} minutes, on "
        f"{machine_of(where)}{later} ([result file](bench/results/reproduce/{path.name}))."
    )
    return "\n".join([EXPERIMENTS[content["experiment"]].table(rows), "", note])


DOCS = ROOT / "docs"
DOCUMENTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"summary": lambda: summary(*map(_result, ("cpu", "training_gain", "largest_batch_cpu")))},
    DOCS / "benchmarks.md": {
        "cpu": _of_result(cpu, "cpu"),
        "small": _of_result(small, "small/cpu"),
        "deep": _of_result(deep, "deep/cpu"),
        "imaging": _of_result(imaging, "imaging/cpu"),
        "derivatives": _of_result(of.derivatives, "derivatives"),
        "training_gain": _of_result(of.training_gain, "training_gain"),
        "gpu": lambda: gpus(),
        "gpu_model": _of_result(model_table.of_result, "gpu_model"),
    },
    DOCS / "README.md": {"applications": applications},
    DOCS / "backends.md": {"backends": _of_result(of.backends, "backends")},
    DOCS / "calculus.md": {
        "calculus": _of_result(of.calculus, "calculus"),
        "potential": _of_result(of.potential, "potential"),
    },
    DOCS / "experiments.md": {
        path.stem: partial(experiment, path) for path in sorted((RESULTS / "reproduce").glob("*.json"))
    },
    DOCS / "deep.md": {"one_pass": _of_result(of.one_pass, "one_pass")},
    DOCS / "reproduction.md": {
        "published_2d": _of_result(of.published_2d, "published_2d"),
        "polymax": _of_result(of.polymax, "polymax"),
    },
    DOCS / "scaling.md": {
        "image_bands": _of_result(of.image_bands, "image_bands"),
        "largest_batch_cpu": _of_result(of.largest_batch, "largest_batch_cpu"),
        "launch_cost": _of_result(of.launch_cost, "launch_cost"),
    },
    DOCS / "training.md": {
        "fit": _of_result(of.fit, "fit"),
        "transport": _of_result(of.transport, "transport"),
    },
    DOCS / "release.md": {"wheel_sizes": _of_result(wheel_sizes, "wheel_sizes")},
}
"""Where tables stand, by the names between their markers."""


def rendered(document: Path, text: str) -> str:
    """The document with every table printed anew."""
    to_root = "../" * (len(document.relative_to(ROOT).parts) - 1)
    for name, table in DOCUMENTS[document].items():
        text = _placed(text, name, table().replace("](bench/", f"]({to_root}bench/"))
    return text


def _placed(text: str, name: str, table: str) -> str:
    pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)"
    content = f"{table}\n" if table else ""
    text, count = re.subn(pattern, lambda m: f"{m[1]}{content}{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"bench.tables: documents: expected one place for {name}, got {count}; restore its markers")
    return text


def write() -> None:
    """The documents' tables, and a figure beside each GPU's measurements."""
    for path in sorted(RESULTS.glob("*/measurements.json")):
        save_figure(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".png"))
    for document in DOCUMENTS:
        document.write_text(rendered(document, document.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    """Writes, or compares and exits 1 on a difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    if check:
        for document in DOCUMENTS:
            present = document.read_text(encoding="utf-8")
            if rendered(document, present) != present:
                sys.exit(
                    f"bench.tables: {document.name}: its tables are not those of the result files; run it to write"
                )
    if not check:
        write()


if __name__ == "__main__":
    main()
