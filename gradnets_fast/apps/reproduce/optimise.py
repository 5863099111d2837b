"""Optimisation by learned convex potentials: steps, proximal operators and objectives, beside hand-made methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import _objective, _quadratics, _sparse
from .contest import grouped, markdown, of_seeds
from .experiment import Case, Experiment, Row, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"quadratic": _quadratics.METHODS, "lasso": _sparse.METHODS, "potential": _objective.METHODS}


def cases(settings: Settings) -> Sequence[Case]:
    """Every method of every task."""
    return [
        {"task": task, "network": method, "seed": seed}
        for task, methods in METHODS.items()
        for method in methods
        for seed in range(settings["seeds"])
    ]


def run(case: Case, settings: Settings) -> Row:
    """One method on one task."""
    tasks = {"quadratic": _quadratics.quadratic, "lasso": _sparse.lasso, "potential": _objective.potential}
    return tasks[case["task"]](case, settings)


def table(rows: Sequence[Row]) -> str:
    """A table for each task."""
    found = grouped(rows, "task", "network")
    return "\n\n".join(text for task in METHODS if (text := _TABLES[task]({m: found[task, m] for m in METHODS[task]})))


def _numbers(of: Sequence[Row], *keys: str | int) -> list[str]:
    """The seeds' mean of each key; an integer is a place of the curve."""
    return [of_seeds([row["curve"][key] if isinstance(key, int) else row.get(key) for row in of]) for key in keys]


def _size(of: Sequence[Row]) -> str:
    return str(of[0].get("parameters", "–"))


def _quadratic_table(found: Mapping[str, Sequence[Row]]) -> str:
    places = (2, 5, 20, -1)
    lines = []
    for method, of in found.items():
        worse = of_seeds([100 * row["diverged"] for row in of])
        lines.append([method, _size(of), *_numbers(of, *places), worse, *_numbers(of, "rate")])
    last = len(next(iter(found.values()))[0]["curve"]) - 1
    header = [
        "step, quadratics",
        "parameters",
        *(f"error after {k}" for k in (*places[:-1], last)),
        "worse than at 0, %",
        "certified rate",
    ]
    learned = found["learned step"]
    certified, closest = min(row["certified"] for row in learned), max(row["of_the_rate"] for row in learned)
    return markdown(header, lines) + (
        "\n\nError: of x in the norm of Q, relative to that at 0, median of new problems; of how many it "
        "is larger at the end.  The rate is certified to be "
        f"below 1 for {100 * certified:.0f} % of the problems; the slowest step that was seen is {closest:.2f} of it."
    )


def _lasso_table(found: Mapping[str, Sequence[Row]]) -> str:
    places = (5, 20, -1)
    lines = [[method, _size(of), *_numbers(of, *places, "limit", "moves", "bound")] for method, of in found.items()]
    last = len(next(iter(found.values()))[0]["curve"]) - 1
    counts = (*places[:-1], last, _sparse.MOST)
    header = [
        "operator, sparse signals",
        "parameters",
        *(f"error after {k}" for k in counts),
        "last move",
        "bound of ‖J‖",
    ]
    return markdown(header, lines) + (
        "\n\nError: of new signals, relative.  Hand-made thresholds are those that are best after as many iterations.  "
        "The last move is that of the last iteration, relative to x."
    )


def _potential_table(found: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for method, of in found.items():
        gaps = of_seeds([100 * row["gap"] / row["above"] for row in of])
        lines.append([method, _size(of), *_numbers(of, "error"), gaps, *_numbers(of, "distance", "solved")])
    header = ["learned objective", "parameters", "error of ∇F", "gap, %", "error of x", "solved"]
    return markdown(header, lines) + (
        "\n\nGap: how far the objective itself is above its minimum where the learned one has its own, over how far "
        "it is at 0.  Minima of gradient networks are by `convex.inverse`, the others' by Newton's method with "
        "Jacobians by autograd; of points that were solved.  Mean of the seeds (least – largest)."
    )


_TABLES: Mapping[str, Callable[[Mapping[str, Sequence[Row]]], str]] = {
    "quadratic": _quadratic_table,
    "lasso": _lasso_table,
    "potential": _potential_table,
}
_COLOURS = ("#1b6b93", "#c1440e", "#8d99ae", "#e0a458", "#2a9d6f", "#5c4d7d")


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """How the errors fall, of the first seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {"quadratic": "quadratics", "lasso": "signals from few measurements"}
    for axes, (task, title) in zip(figure.subplots(1, 2), titles.items()):
        first = [row for row in rows if row["task"] == task and row["seed"] == 0]
        for colour, row in zip(_COLOURS, first):
            wide = row["network"].startswith("learned")
            axes.semilogy(row["curve"], color=colour, label=row["network"], linewidth=2.4 if wide else 1.3)
        low = 1e-6 if task == "quadratic" else None
        axes.set(title=title, xlabel="iterations", ylabel="relative error")
        axes.set_ylim(bottom=low, top=3 if low else None)
        axes.legend(fontsize="x-small", frameon=False)
    return {"optimise": figure}


EXPERIMENT = Experiment(
    name="optimise",
    title="Learned steps and proximal operators with certificates by hand-made ones; a learned objective, minimised.",
    source="arXiv 2404.07361, outlook; Beck, Teboulle, SIAM Journal on Imaging Sciences 2 (2009), of ISTA and FISTA",
    settings={
        "quadratic_d": 20,
        "condition": 100.0,
        "lasso_d": 24,
        "measurements": 14,
        "block": 4,
        "unrolled": 6,
        "warm": 40,
        "threshold": 0.05,
        "iterations": 60,
        "problems": 300,
        "potential_d": 5,
        "samples": 1000,
        "unrolled_batch": 100,
        "unrolled_steps": 800,
        "unrolled_rate": 5e-3,
        "parameters": 1500,
        "batch": 200,
        "steps": 3000,
        "rate": 1e-2,
        "seeds": 3,
    },
    quick={"steps": 60, "unrolled_steps": 20, "warm": 5, "problems": 40, "seeds": 1},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
