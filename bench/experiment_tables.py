"""The tables of the calculus, of derivatives and of training, each a function of a result file; see tables.py."""

from __future__ import annotations

import statistics
from typing import Any

from gradnets_fast.apps.readable import duration, times


def _source(where: dict[str, Any], name: str) -> str:
    """By what a result file was written, and where it is."""
    return f"By `{where['command']}` on {machine_of(where)} ([result file](bench/results/{name}.json))"


def calculus(result: dict[str, Any]) -> str:
    """Determinants, Monge–Ampère steps and inverse maps beside plain PyTorch."""
    lines = ["| what | gradnets_fast | plain PyTorch | gain |", "|---|---|---|---|"]
    for row in result["rows"]:
        ours, *others = row["milliseconds"].values()
        slowest = [*row["gain"]][-1]
        gain = times(row["gain"][slowest])
        lines.append(f"| {row['what']} | {duration(ours)} | {slowest}: {duration(others[-1])} | {gain} |")
    where = result["environment"]
    note = f"Medians of interleaved runs, each result first compared; float32. {_source(where, 'calculus')}."
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
        f"By `{where['command']}` on {machine_of(where)}{jax} ([result file](bench/results/fit.json)). "
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
        f"{_source(where, 'potential')}."
    )
    return "\n".join([*lines, "", note])


def derivatives(result: dict[str, Any]) -> str:
    """How many times as long the fastest closed form takes as the operator: forward / step."""
    best = {(*row["size"], row["quantity"], row["pass"]): row["best"] for row in result["rows"]}
    quantities = list(dict.fromkeys(row["quantity"] for row in result["rows"]))
    lines = [f"| B, d, h | {' | '.join(quantities)} |", "|---" * (1 + len(quantities)) + "|"]
    for B, d, h in dict.fromkeys(tuple(row["size"]) for row in result["rows"]):
        pairs = ([best.get((B, d, h, quantity, of)) for of in ("forward", "step")] for quantity in quantities)
        cells = (" / ".join("–" if gain is None else times(gain) for gain in pair) for pair in pairs)
        lines.append(f"| {B}, {d}, {h} | {' | '.join(cells)} |")
    where = result["environment"]
    note = (
        "f(x) = Wᵀ tanh(Wx), float32; a step is the quantity and the gradients of x and W. Medians of interleaved "
        f"runs, each result first compared. {_source(where, 'derivatives')}."
    )
    return "\n".join([*lines, "", note])


def one_pass(result: dict[str, Any]) -> str:
    """A training step of deep networks by three ways to the loss."""
    lines = ["| batch, d, widths | mse_loss | keep=True | squared_error | values kept |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        spent, gain = row["milliseconds"], row["gain"]
        usual, kept, first = (spent[name] for name in ("mse_loss", "keep=True", "squared_error"))
        sizes = f"{row['batch']}, {row['d']}, {' '.join(map(str, row['widths']))}"
        lines.append(
            f"| {sizes} | {usual:.2f} ms | {kept:.2f} ms, {times(usual / kept)} | "
            f"{first:.2f} ms, {times(gain['mse_loss'])} | {row['kept_values'] * 4 / 2**20:.1f} MiB |"
        )
    where = result["environment"]
    note = (
        "f, the squared error and the gradients in all parameters; float32, tanh. Medians of interleaved runs, each "
        f"result first compared. {_source(where, 'one_pass')}."
    )
    return "\n".join([*lines, "", note])


def image_bands(result: dict[str, Any]) -> str:
    """The time and the extra memory of a step of one large image, whole and by bands."""
    lines = ["| image | way | step | memory in use | peak of the process |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        for name, spent in row["milliseconds"].items():
            sizes = [row[key][name] / 2**20 for key in ("memory_bytes_in_use", "memory_bytes")]
            cells = " | ".join(f"{size:.1f} MiB" for size in sizes)
            lines.append(f"| {' × '.join(map(str, row['size']))} | {name} | {duration(spent)} | {cells} |")
    where = result["environment"]
    note = (
        "f and the gradients of the image and all parameters, convolutions 1→4→8→64 of 5 × 5, tanh, float32; medians "
        "of interleaved runs, each result first compared. Memory is by how much a fresh process grows: in use where "
        "what is freed goes back to the system at once (`MALLOC_MMAP_THRESHOLD_=65536`), and as glibc's allocator "
        f"works by itself. {_source(where, 'image_bands')}."
    )
    return "\n".join([*lines, "", note])


def launch_cost(result: dict[str, Any]) -> str:
    """What Python takes to launch a forward pass, a backward pass and a step, by parts."""
    lines = ["| pass | Python's time | fastest tenth | its parts |", "|---|---|---|---|"]
    labels = {"forward": "`ridge`, forward", "backward": "`ridge`, backward"}
    labels |= {"gradients": "mGradNetC, a step: f, loss, gradients", "step": "the same step with Adam"}
    for name, total in result["microseconds"].items():
        parts = ", ".join(f"{part} {us:.0f} µs" for part, us in result["parts"].get(name, {}).items())
        lines.append(f"| {labels[name]} | {total:.0f} µs | {result['fastest_tenth'][name]:.0f} µs | {parts} |")
    batch, d, h = result["batch, d, h"]
    note = (
        f"{result['layers']} layers, B = {batch}, d = {d}, h = {h}, float32, the gradients in all parameters. Measured "
        "without a GPU: CPU tensors in the place of the GPU's, with a driver that does nothing. So the time of the "
        "NVIDIA driver itself is not counted, and of PyTorch's own kernels what they compute on the CPU is; "
        "`bench/launch_cost.py` says more. Medians of the processor's time, and what the fastest tenth of the samples "
        f"took at most, on {result['processors']} processors at a load of {result['load_average']:.1f}; more than one "
        f"for each makes everything slower. {_source(result['environment'], 'launch_cost')}."
    )
    return "\n".join([*lines, "", note])


def transport(result: dict[str, Any]) -> str:
    """The error of the map from a Gaussian to the standard normal one, by dimension."""
    kinds = {"mgradnet-c": "mGradNetC, 4 layers of 32", "mgradnet-m": "mGradNetM, 4 modules of 32"}
    error = {(row["arch"], row["d"]): row["errors"] for row in result["rows"]}
    dims = sorted({d for _, d in error})
    lines = [
        f"| mean squared error of the map | {' | '.join(f'd = {d}' for d in dims)} |",
        "|---" * (1 + len(dims)) + "|",
    ]
    for arch, label in kinds.items():
        lines.append(f"| {label} | {' | '.join(f'{statistics.mean(error[arch, d]):.1e}' for d in dims)} |")
    where, first = result["environment"], result["rows"][0]
    note = (
        f"A Gaussian carried to the standard normal one: means of {len(first['errors'])} seeds, {first['steps']} steps "
        "of 1000 points. Each by `gradnets-fast train --task transport --dim D --arch ARCH --embed-dim 32 --steps 300 "
        f"--samples 300000 --seed SEED`, on {machine_of(where)} ([result file](bench/results/transport.json))."
    )
    return "\n".join([*lines, "", note])


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
        f"Medians of {len(result['rows'][0]['seconds']['fastest'])} runs each, by turns, on {machine_of(where)}, by "
        "`make training-gain` ([result file](bench/results/training_gain.json))."
    )
    return "\n".join([*lines, "", note])


def largest_batch(result: dict[str, Any]) -> str:
    """The largest batches that fit into memory."""
    lines = ["| network | PyTorch | ours | gain |", "|---|---|---|---|"]
    for row in result["rows"]:
        eager, ours = (spaced(three_digits(row["largest"][name])) for name in ("eager", "ours"))
        lines.append(f"| {row['network']} | {eager} | {ours} | {times(row['gain'])} |")
    return "\n".join(lines)


def spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def three_digits(count: int) -> int:
    """Rounded down."""
    unit = 10 ** max(0, len(str(count)) - 3)
    return count // unit * unit


def backends(result: dict[str, Any]) -> str:
    """What kernels compute of each operator and what PyTorch, and the largest error of each backend."""
    found = {(row["operator"], row["backend"]): row["found"] for row in result["rows"]}
    seconds = ("second derivatives through the points", "second derivatives through the parameters")
    lines = [
        "| operator | C++: result, gradients | second, points | second, parameters | Triton: result, gradients | "
        "second, points | second, parameters |",
        "|---" * 7 + "|",
    ]
    for operator in dict.fromkeys(row["operator"] for row in result["rows"]):
        cells = []
        for backend in ("cpp", "triton"):
            first, gradients, *second = (found[operator, backend][name] for name in ("result", "gradients", *seconds))
            by = [" / ".join(dict.fromkeys((first["by"], gradients["by"]))), *(one["by"] for one in second)]
            cells += ["**wrong**" if one["fault"] else word for one, word in zip((first, *second), by)]
        lines.append(f"| `{operator}` | {' | '.join(cells)} |")
    checked: dict[str, list[float]] = {}
    for row in result["rows"]:
        checked.setdefault(row["backend"], []).extend(one["relative_error"] for one in row["found"].values())
    worst = "; ".join(f"{name} {len(errors)} cases, {max(errors):.1e}" for name, errors in checked.items())
    where = result["environment"]
    note = (
        "kernel: a kernel of that backend; PyTorch: its operators, in pieces of the batch. Cases, and the largest "
        f"error in units of the largest exact value, float32: {worst}. {_source(where, 'backends')}."
    )
    return "\n".join([*lines, "", note])


def machine_of(where: dict[str, Any]) -> str:
    processor = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}"
    return f"{processor}, torch {where['torch']}, commit {where['commit']}"
