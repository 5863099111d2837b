"""The table of the first page: each application with its number, its baseline, who is ahead, and its command."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from bench.environment import RESULTS
from bench.experiment_tables import spaced, three_digits
from gradnets_fast.apps.readable import duration
from gradnets_fast.apps.reproduce.comparison import AUTOGRAD, KERNELS
from gradnets_fast.apps.reproduce.contest import significant
from gradnets_fast.apps.reproduce.runner import read, rows_of

OURS = "gradnets_fast"
_POLYMAX = (
    "gradnets-fast train --field polymax --arch mgradnet-m --layers 3 --embed-dim 256 --activation identity "
    "--transform identity --combine logsumexp --loss nearest --batch-size 100 --steps 10000 --lr 3e-3 --schedule cosine"
)


class Row(NamedTuple):
    """One application.

    Attributes:
        job: what it is.
        measure: what the numbers are.
        ours: the number of this package, as text.
        others: the baselines' numbers as text, by their names.
        ahead: who has the better number, and where it says nothing, why.
        file: the result file below bench/results, without its ending.
        command: what wrote it; None for the one that the file names.
    """

    job: str
    measure: str
    ours: str
    others: dict[str, str]
    ahead: str
    file: str
    command: str | None = None


@lru_cache(maxsize=None)
def _result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def applications() -> str:
    """All rows, of learning first and of speed afterwards; a peer that is ahead is set in bold."""
    lines = ["| application | measure | gradnets_fast | beside it | ahead | command |", "|---|---|---|---|---|---|"]
    for row in (*_of_learning(), *_of_experiments(), *_of_speed()):
        others = "; ".join(f"{name} {value}" for name, value in row.others.items())
        ahead = row.ahead if row.ahead == OURS else f"**{row.ahead}**"
        where = _result(row.file)["environment"]
        # Where its results went does not matter to who runs it again.
        command = (row.command or where["command"]).removeprefix("OMP_WAIT_POLICY=passive ").partition(" --out ")[0]
        cells = [row.job, row.measure, row.ours, others, ahead]
        lines.append(f"| {' | '.join(cells)} | `{command}` ([file](bench/results/{row.file}.json)) |")
    return "\n".join(lines)


def _first(numbers: dict[str, float], most: bool = False) -> str:
    """Whose number is best: the least, or the largest."""
    return (max if most else min)(numbers, key=lambda name: numbers[name])


def _timed(job: str, measure: str, spent: dict[str, float], file: str, command: str | None = None) -> Row:
    """A row of milliseconds by name, ours among them."""
    others = {name: duration(value) for name, value in spent.items() if name != OURS}
    return Row(job, measure, duration(spent[OURS]), others, _first(spent), file, command)


def _of_learning() -> Iterator[Row]:
    """Errors of fields beside the paper's."""
    for row in _result("published_2d")["rows"]:
        yield _published(row)
    polymax = _result("polymax")
    errors = {OURS: statistics.mean(polymax["errors_db"]), **polymax["published"], "linear map": polymax["linear_db"]}
    others = {name: f"{value:.2f}" for name, value in errors.items() if name != OURS}
    job, best = "field PolyMax, d = 256", f"{errors[OURS]:.2f}"
    yield Row(job, "error, dB", best, others, _first(errors), "polymax", _POLYMAX)


def _of_experiments() -> Iterator[Row]:
    """Means of the seeds, of `gradnets-fast reproduce NAME`."""
    for name in ("two moons", "ring of eight Gaussians", "breast cancer, 10 measurements"):
        measure = "mean −log p of test points, nats"
        yield _experiment(f"density of {name}", measure, "density", "nats", text="{:.2f}".format, set=name)
    for d in (8, 64):
        job, measure = f"transport of a mixture, d = {d}, from unpaired samples", "unexplained variance of the map, %"
        yield _experiment(job, measure, "transport", "unexplained", task="mixture", d=d)
    jobs = {"noise": "noise taken from pictures", "blur": "blurred pictures", "holes": "pictures with holes"}
    for task, job in jobs.items():
        job, ratio = f"{job}, a learned regulariser", partial(_ratio, task)
        yield _experiment(job, "mean PSNR, dB", "denoise", ratio, text="{:.2f}".format, most=True)
    yield _experiment(
        "score of six Gaussians, d = 8, from points", "relative error", "score", "error", d=8, loss="exact"
    )
    for step, k in (("5", 5), ("60", 60)):
        job, measure = "random quadratics by learned steps", f"relative error after {step}"
        yield _experiment(job, measure, "optimise", lambda row, k=k: row["curve"][k], task="quadratic")
    job, measure = "block-sparse signals, learned proximal operator", "relative error in the limit"
    yield _experiment(job, measure, "optimise", "limit", task="lasso")
    job, measure = "minima of an objective known by slopes", "relative error of the minima"
    yield _experiment(job, measure, "optimise", "distance", task="potential")
    job = "flux linkages of a machine from currents"
    yield _experiment(job, "error in mVs, in 2.4 kB each", "machine", "flux_error", but=("table, 33 × 33 × 24",))
    yield _experiment(job, "error in mVs, any memory", "machine", "flux_error")
    job, measure = "colours of coffee for a rocket", "W2 to the target's pixels"
    yield _experiment(job, measure, "colour", "distance", source="rocket", target="coffee")


def _rows(name: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """What an experiment found in the cases of these settings."""
    rows = rows_of(read(RESULTS / "reproduce" / f"{name}.json"))
    return [row for row in rows if all(row.get(key) == value for key, value in case.items())]


def _ratio(task: str, row: dict[str, Any]) -> float:
    """The mean peak signal-to-noise ratio of the pictures that a network restored."""
    return statistics.mean(ratio for picture, ratio in row["psnr_db"][task].items() if "before" not in picture)


def _experiment(
    job: str,
    measure: str,
    name: str,
    key: str | Callable[[Any], float],
    but: Sequence[str] = (),
    text: Callable[[float], str] = significant,
    most: bool = False,
    **case: Any,
) -> Row:
    """The best of our networks beside the best of the others, and the one after it; most: whether more is better."""
    rows = _rows(name, case)
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["network"] not in (*but, "exact score"):
            found.setdefault(row["network"], []).append(row[key] if isinstance(key, str) else key(row))
    means = {network: statistics.mean(values) for network, values in found.items()}
    ranked = sorted(means, key=lambda network: means[network], reverse=most)
    own = next(network for network in ranked if _is_ours(network))
    others = [network for network in ranked if not _is_ours(network)][:2]
    ahead = OURS if ranked[0] == own else ranked[0]
    ours = f"{own.partition(',')[0]} {text(means[own])}"
    return Row(job, measure, ours, {of: text(means[of]) for of in others}, ahead, f"reproduce/{name}")


def _is_ours(network: str) -> bool:
    learned = {"learned step", "learned operator", "convex potential flow", "convex R", "weakly convex R"}
    return "GradNet" in network or network in learned


def _published(row: dict[str, Any]) -> Row:
    """One of the paper's fields in the plane, beside the paper's error."""
    ours, published, spread = row["mean_db"], row["published_db"], max(row["spread_db"], row["published_spread_db"])
    ahead = _first({OURS: ours, "the paper": published})
    even = f"{ahead}, by less than the seeds' spread" if abs(ours - published) < spread else ahead
    texts = (f"{ours:.2f} ± {row['spread_db']:.2f}", f"{published:.2f} ± {row['published_spread_db']:.2f}")
    job = f"field {row['field']}, {row['arch']}"
    command = f"gradnets-fast train --field {row['field']} --arch {row['arch']} --layers 4 --embed-dim 7 --epochs 200"
    return Row(job, "error, dB", texts[0], {"the paper": texts[1]}, even, "published_2d", command)


def _of_speed() -> Iterator[Row]:
    """Times and memory; of each comparison with a compiler the case that gains least beside one that gains much."""
    yield from _energies()
    for row in _result("calculus")["rows"]:
        if row["what"].startswith(("inverse", "Monge–Ampère step, mGradNetC, 4 layers of 32, d = 8")):
            *_, baseline = row["milliseconds"]
            spent = {name: row["milliseconds"][name] for name in (OURS, baseline)}
            yield _timed(row["what"], "time", spent, "calculus")
    yield from _training()
    rows = _result("derivatives")["rows"]
    least = min(rows, key=lambda row: float(row["best"]))
    measure = f"time, the least gain of {len(rows)} cases"
    yield _timed(f"derivatives: {least['what']}", measure, least["milliseconds"], "derivatives")
    memory = _result("largest_batch_cpu")
    best = max(memory["rows"], key=lambda row: float(row["gain"]))
    sizes = {OURS: best["largest"]["ours"], "PyTorch": best["largest"]["eager"]}
    ours, eager = (spaced(three_digits(size)) for size in sizes.values())
    measure = f"largest batch in {memory['bytes'] / 1e9:.0f} GB, the most gain of {len(memory['rows'])} cases"
    ahead = _first(sizes, most=True)
    yield Row(best["network"], measure, ours, {"PyTorch": eager}, ahead, "largest_batch_cpu", "make largest-batch")


_ENERGIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Müller–Brown potential from 100 gradients", "energies", {}),
    ("two bodies, a Hamiltonian from its field", "hamiltonian", {"system": "two bodies"}),
    ("signed distance of a torus, eikonal loss", "surface", {}),
    *(
        (f"transport of a Gaussian, Monge–Ampère loss, d = {d}", "transport", {"task": "Gaussian", "d": d})
        for d in (2, 16)
    ),
    ("Poisson's equation, loss of the Laplacian", "poisson", {}),
)


def _energies() -> Iterator[Row]:
    """One deep energy by these kernels and by autograd, trained to the same error."""
    for job, name, case in _ENERGIES:
        rows = [row["contenders"] for row in _rows(name, case)]
        spent = {
            of: statistics.median(row[network]["step_ms"] for row in rows)
            for of, network in ((OURS, KERNELS), ("autograd", AUTOGRAD))
        }
        yield _timed(job, "a step, to the same error", spent, f"reproduce/{name}")


def _training() -> Iterator[Row]:
    """Steps of training beside eager PyTorch, torch.compile and jax.jit."""
    rows = [row for row in _result("cpu")["rows"] if row["gain"] and row["dtype"] == "float32"]
    gains = {float(row["gain"]["ours"]["step"]): row for row in rows}
    for gain in (max(gains), min(gains)):
        row = gains[gain]
        job = f"a training step, {row['family']}, {row['batch']} points, d = {row['d']}, h = {row['h']}"
        which = f"time, the {'most' if gain == max(gains) else 'least'} gain of {len(rows)} cases"
        yield _timed(job, which, _steps(row, {"ours": OURS, "eager": "PyTorch"}), "cpu")
    rows = [row for row in _result("deep/cpu")["rows"] if row["contenders"].get("jax", {}).get("status") == "timed"]
    names = {"ours": OURS, "jax": "jax.jit", "eager": "autograd"}
    least = min((_steps(row, names) | {"row": i} for i, row in enumerate(rows)), key=lambda s: s["jax.jit"] / s[OURS])
    row = rows[int(least.pop("row"))]
    job = f"a training step, {row['family']}, {row['batch']} points, d = {row['d']}, h = {row['h']}"
    yield _timed(job, f"time, the least gain over jax.jit of {len(rows)} cases", least, "deep/cpu")
    fits = _result("fit")["rows"]
    least_fit = min(fits, key=lambda row: float(row["gain"]["jax.jit"]))
    spent = {OURS if name == "fit" else name: us / 1e3 for name, us in least_fit["microseconds"].items()}
    size = f"{least_fit['batch']} points, d = {least_fit['d']}, h = {least_fit['h']}"
    job = f"a step of `fit`, {least_fit['network']}, {size}"
    yield _timed(job, f"time, the least gain over jax.jit of {len(fits)} cases", spent, "fit")


def _steps(row: dict[str, Any], names: dict[str, str]) -> dict[str, float]:
    """Median milliseconds of a training step, by the table's names of the contenders."""
    return {name: row["contenders"][of]["milliseconds"]["step"]["median"] for of, name in names.items()}
