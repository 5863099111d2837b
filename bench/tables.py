"""Writes the documents' tables from the result files, between their markers; `--check` only compares.

python -m bench.tables
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.environment import RESULTS, ROOT
from gradnets_fast.apps.bench.figure import save_figure
from gradnets_fast.apps.bench.readable import duration, size, times, title
from gradnets_fast.apps.bench.results import over_compile
from gradnets_fast.apps.bench.work import JOBS


def published_2d(result: dict[str, Any]) -> str:
    """Errors in dB beside the published ones."""
    lines = ["| network | field | learning rate | ours, dB | published, dB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        ours = f"{row['mean_db']:.2f} ± {row['spread_db']:.2f}"
        published = f"{row['published_db']:.2f} ± {row['published_spread_db']:.2f}"
        rate = f"{row['lr']:g}, {row['schedule']}"
        lines.append(f"| {row['arch']} | {row['field']} | {rate} | {ours} | {published} |")
    return "\n".join(lines)


def polymax(result: dict[str, Any]) -> str:
    """Errors in dB beside the published ones and that of a linear map."""
    lines = ["| map | parameters | error, dB |", "|---|---|---|"]
    lines += [f"| {name} | about 261 000 | {error:.2f} |" for name, error in result["published"].items()]
    linear = f"linear, positive semidefinite, least squares | {256 * 257 // 2}"
    lines.append(f"| {linear} | {result['linear_db']:.2f} |")
    errors = ", ".join(f"{error:.2f}" for error in result["errors_db"])
    seeds = f"seeds 0 to {len(result['errors_db']) - 1}"
    ours = f'mGradNetM, {result["settings"]["layers"]} quadratics, `combine="logsumexp"`, {seeds}'
    lines.append(f"| {ours} | {result['parameters']} | {errors} |")
    return "\n".join(lines)


def training_gain(result: dict[str, Any]) -> str:
    """Seconds of whole training runs, the gain, and how far apart the losses are."""
    lines = [
        "| training run | steps of | PyTorch | ours | gain | losses differ by at most |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        batch = row["options"].split("--batch-size ")[1].split()[0]
        reference, fastest = (row["median_seconds"][name] for name in ("reference", "fastest"))
        cells = [row["label"], f"{row['steps']} × {batch}", f"{reference:.1f} s", f"{fastest:.1f} s"]
        cells += [times(row["gain"]), f"{row['largest_difference_db']:.1g} dB"]
        lines.append("| " + " | ".join(cells) + " |")
    where = result["environment"]
    note = (
        f"Medians of {len(result['rows'][0]['seconds']['fastest'])} runs each, by turns, on {_machine(where)}, by "
        "`make training-gain` ([result file](bench/results/training_gain.json))."
    )
    return "\n".join([*lines, "", note])


def largest_batch(result: dict[str, Any]) -> str:
    """The largest batches that fit into memory."""
    lines = ["| network | PyTorch | ours | gain |", "|---|---|---|---|"]
    for row in result["rows"]:
        eager, ours = (_spaced(_three_digits(row["largest"][name])) for name in ("eager", "ours"))
        lines.append(f"| {row['network']} | {eager} | {ours} | {times(row['gain'])} |")
    return "\n".join(lines)


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


def _spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _three_digits(count: int) -> int:
    """Rounded down."""
    unit = 10 ** max(0, len(str(count)) - 3)
    return count // unit * unit


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
        f"{_machine(where)}, by `{where['command']}` ([result file](bench/results/small/cpu.json)). "
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
        f"Measured on {_machine(where)}, by `{where['command']}` ([result file](bench/results/imaging/cpu.json)). "
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
        + f"Measured on {_machine(where)}, by `{where['command']}` "
        "([result file](bench/results/deep/cpu.json)). Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def calculus(result: dict[str, Any]) -> str:
    """Determinants, Monge–Ampère steps and inverse maps beside plain PyTorch."""
    lines = ["| what | gradnets_fast | plain PyTorch | gain |", "|---|---|---|---|"]
    for row in result["rows"]:
        ours, *others = row["milliseconds"].values()
        slowest = [*row["gain"]][-1]
        gain = times(row["gain"][slowest])
        lines.append(f"| {row['what']} | {duration(ours)} | {slowest}: {duration(others[-1])} | {gain} |")
    where = result["environment"]
    note = (
        "Medians of interleaved runs, each result first compared; float32. "
        f"By `{where['command']}` on {_machine(where)} ([result file](bench/results/calculus.json))."
    )
    return "\n".join([*lines, "", note])


def fit(result: dict[str, Any]) -> str:
    """Microseconds of a step of training by `fit`, and how many times that PyTorch's loop and jax.jit take."""
    others = [*result["rows"][0]["gain"]]
    lines = [f"| network | B, d, h | fit | {' | '.join(others)} |", "|---|---|---|" + "---|" * len(others)]
    for row in result["rows"]:
        mine, *theirs = (f"{microseconds:.0f} µs" for microseconds in row["microseconds"].values())
        cells = [f"{time}, {times(gain)}" for time, gain in zip(theirs, row["gain"].values())]
        lines.append(f"| {row['network']} | {row['batch']}, {row['d']}, {row['h']} | {mine} | {' | '.join(cells)} |")
    where = result["environment"]
    jax = f", JAX {where['jax']}" if "jax" in where else ""
    note = (
        "A whole step: f, the squared error, all gradients and Adam, float32. Medians of interleaved runs of the same "
        "steps, whose parameters and losses are compared first; each gain is the median of the ratios. "
        f"By `{where['command']}` on {_machine(where)}{jax} ([result file](bench/results/fit.json)). "
        "Absolute times vary; compare the gains."
    )
    return "\n".join([*lines, "", note])


def potential(result: dict[str, Any]) -> str:
    """Potentials of cascades and their steps beside f."""
    lines = ["| network | potential | times f | potential's step | times f's step |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = (f"{duration(row['milliseconds'][name])} | {times(row['ratio'][name])}" for name in ("F", "F step"))
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    where = result["environment"]
    note = (
        "Medians of interleaved runs, each result first compared; float32; a step is the gradients in all parameters. "
        f"By `{where['command']}` on {_machine(where)} ([result file](bench/results/potential.json))."
    )
    return "\n".join([*lines, "", note])


def denoising(result: dict[str, Any]) -> str:
    """The ratios of each picture, and what the training took."""
    rows = [(row["picture"], row["psnr_db"]) for row in result["rows"]]
    names = list(rows[0][1])
    rows.append(("mean", {name: statistics.mean(ratios[name] for _, ratios in rows) for name in names}))
    heads = [f"{name} R" if name in result["training"] else name for name in names]
    lines = [f"| peak signal-to-noise ratio, dB | {' | '.join(heads)} |", "|---" * (1 + len(names)) + "|"]
    lines += [f"| {of} | {' | '.join(f'{ratios[name]:.2f}' for name in names)} |" for of, ratios in rows]
    where, settings = result["environment"], result["settings"]
    training = "; ".join(
        f"{kind} R, {found['parameters']} parameters, in {found['seconds']:.0f} s, "
        f"where a step by the reference, which is plain PyTorch, takes {times(found['step']['gain'])} as long"
        for kind, found in result["training"].items()
    )
    note = (
        f"Noise of standard deviation 25/255; total variation has the best weight on each picture. Trained by "
        f"{settings['training_steps']} steps: {training}. By `{where['command']}` on {_machine(where)} "
        "([result file](bench/results/denoising.json))."
    )
    return "\n".join([*lines, "", note])


DEMONSTRATIONS = {
    "muller_brown": "Müller–Brown potential from 100 gradients",
    "two_body": "two bodies, a Hamiltonian from its field",
    "torus": "signed distance of a torus, eikonal loss",
    "transport": "transport of a Gaussian, Monge–Ampère loss",
    "poisson": "Poisson's equation, loss of the Laplacian",
}
"""The scripts of bench/deep, by the names of their result files, in the order of the table."""


def demonstrations(folder: Path = RESULTS / "deep") -> str:
    """Errors and times of what deep networks are good for: each script's networks after the same training."""
    lines = ["| task | network | parameters | error | a step, of ours |", "|---|---|---|---|---|"]
    where: list[str] = []
    for name, task in DEMONSTRATIONS.items():
        result = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for row in result["rows"]:
            of = f"{task}, d = {row['d']}" if "d" in row else task
            for network, found in row["contenders"].items():
                quantity, errors = next(iter(found["errors"].items()))
                error = f"{quantity} {', '.join(f'{e:.2g}' for e in errors)}"
                ratio = times(found["of_ours"]) if network != "ours" else duration(found["step_ms"])
                lines.append(f"| {of} | {network} | {found['parameters']} | {error} | {ratio} |")
        where.append(f"[{name}](bench/results/deep/{name}.json)")
    machine = result["environment"]
    note = (
        "Errors of each seed after the same number of steps on the same batches. The last column is the median time of "
        "a step, over ours of the same turns; for ours itself the time. By `python -m bench.deep.NAME` on "
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}; result files with their "
        f"commits: {', '.join(where)}."
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
    eager, ours = (_spaced(_three_digits(batch["largest"][name])) for name in ("eager", "ours"))
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


def _machine(where: dict[str, Any]) -> str:
    processor = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}"
    return f"{processor}, torch {where['torch']}, commit {where['commit']}"


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
        + f"Measured on {_machine(where)}, by `{where['command']}` "
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
    ways = list(rows[0]["seconds"])
    lines = [f"| first step of a process | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
    for row in rows:
        network, d, h, half = row["case"]
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
        "| operator | B, d, h | eager | ours | gain over eager | over torch.compile | of the bound |",
        "|---|---|---|---|---|---|---|",
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
        ]
        texts = (jobs[0] if len({*jobs}) == 1 else " / ".join(job or "–" for job in jobs) for jobs in cells)
        lines.append(f"| {title(row)} | {size(row)} | {' | '.join(text or '–' for text in texts)} |")
    where = result["environment"]
    note = (
        "Forward / backward / step, medians of interleaved runs, each result first verified against float64. Eager is "
        "plain PyTorch with W x computed once; torch.compile the faster of its modes, where it was tried. The bound is "
        "the largest of the matrix products at torch.mm's rate, memory at a copy's rate, and tanh or exponentials at "
        f"the special-function units' rate, on the same GPU. Measured on {where['device']}, driver {where['driver']}, "
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


DOCS = ROOT / "docs"
DOCUMENTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"summary": lambda: summary(*map(_result, ("cpu", "training_gain", "largest_batch_cpu")))},
    DOCS / "benchmarks.md": {
        "cpu": _of_result(cpu, "cpu"),
        "small": _of_result(small, "small/cpu"),
        "deep": _of_result(deep, "deep/cpu"),
        "imaging": _of_result(imaging, "imaging/cpu"),
        "training_gain": _of_result(training_gain, "training_gain"),
        "gpu": lambda: gpus(),
    },
    DOCS / "calculus.md": {
        "calculus": _of_result(calculus, "calculus"),
        "potential": _of_result(potential, "potential"),
    },
    DOCS / "deep.md": {"demonstrations": lambda: demonstrations()},
    DOCS / "imaging.md": {"denoising": _of_result(denoising, "denoising")},
    DOCS / "reproduction.md": {
        "published_2d": _of_result(published_2d, "published_2d"),
        "polymax": _of_result(polymax, "polymax"),
    },
    DOCS / "scaling.md": {"largest_batch_cpu": _of_result(largest_batch, "largest_batch_cpu")},
    DOCS / "training.md": {"fit": _of_result(fit, "fit")},
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
