"""Densities learned by convex potential flows beside coupling flows and Gaussian mixtures: `python -m bench.densities`.

- convex potential flow: two maps mGradNetC, 4 layers, from the map to a normal distribution of the training points.
- affine coupling flow: zuko's, of four couplings, whose hidden layers are as wide as give no fewer parameters.
- Gaussian mixture: scikit-learn's, of 1 to 24 components with full covariances.

A flow is trained by maximum likelihood, Adam with a cosine, batches of 300; its learning rate, the step whose
parameters are kept, and the number of components are those with the least loss of the validation points.  Needs zuko
and scikit-learn, which no other part of the project does.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast as gf
from bench.environment import RESULTS, ROOT, environment
from bench.initialisers import moons
from gradnets_fast.apps.files import write_atomically, write_json
from gradnets_fast.flows import ConvexPotentialFlow

BATCH, EVERY, COMPONENTS = 300, 20, 24
RATES = (3e-3, 1e-2, 3e-2)
Score = Callable[[Tensor], Tensor]
"""x (n, d) -> log p(x), (n,)."""


def ring_of_eight(count: int) -> Tensor:
    """Eight normal distributions of standard deviation 0.15 about a circle, of about mean 0 and variance 1."""
    angle = math.pi / 4 * torch.randint(8, (count,))
    return 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * torch.randn(count, 2)


def cells(count: int) -> Tensor:
    """Ten sizes and shapes of the cells' nuclei of 569 tumours (Wisconsin), whatever the count, standardised."""
    from sklearn.datasets import load_breast_cancer

    x = torch.tensor(load_breast_cancer().data[:, :10]).float()
    return ((x - x.mean(0)) / x.std(0))[torch.randperm(len(x))]


SETS: dict[str, tuple[Callable[[int], Tensor], int]] = {
    "two moons": (lambda count: moons(count)[0], 10_000),
    "ring of eight Gaussians": (ring_of_eight, 10_000),
    "breast cancer, 10 measurements": (cells, 0),
}
"""Points by name: what draws them, and how many."""


def parts_of(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three fifths for training, and a fifth each for validation and the test."""
    a, b = 3 * len(x) // 5, 4 * len(x) // 5
    return x[:a], x[a:b], x[b:]


def convex_flow(train: Tensor) -> ConvexPotentialFlow:
    """A flow that starts as a normal distribution."""
    flow = ConvexPotentialFlow([gf.mGradNetC(4, train.shape[1], 32, linear="psd") for _ in range(2)])
    first, second = flow.nets
    gf.init_gaussian_map_(first, train.mean(0), torch.cov(train.T))  # type: ignore[arg-type]
    gf.init_identity_(second)  # type: ignore[arg-type]
    return flow


class CouplingFlow(nn.Module):
    """zuko's affine coupling flow with at least so many parameters."""

    def __init__(self, d: int, least: int) -> None:
        super().__init__()
        from zuko.flows import NICE

        width = 8
        while self._size(flow := NICE(d, transforms=4, hidden_features=(width, width))) < least:
            width += 1
        self.flow = flow

    @staticmethod
    def _size(flow: nn.Module) -> int:
        return sum(p.numel() for p in flow.parameters())

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (n,)."""
        found: Tensor = self.flow().log_prob(x)
        return found


def trained(flow: Any, train: Tensor, valid: Tensor, steps: int, rate: float) -> tuple[float, Any, float]:
    """The least loss of the validation points, the flow that has it, and the milliseconds of a step."""
    optimizer = torch.optim.Adam(flow.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept, spent = math.inf, flow, 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        batch = train[torch.randint(len(train), (BATCH,))]
        optimizer.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        spent += time.perf_counter() - began
        if step % EVERY == 0:
            with torch.no_grad():
                loss = float(-flow.log_prob(valid).mean())
            if loss < best:
                best, kept = loss, copy.deepcopy(flow)
    return best, kept, 1e3 * spent / steps


def chosen(make: Callable[[], nn.Module], train: Tensor, valid: Tensor, steps: int) -> tuple[Score, dict[str, Any]]:
    """The flow of the best learning rate."""
    runs = [(*trained(make(), train, valid, steps, rate), rate) for rate in RATES]
    _, flow, milliseconds, rate = min(runs, key=lambda run: run[0])
    parameters = sum(p.numel() for p in flow.parameters())
    return flow.log_prob, {"parameters": parameters, "rate": rate, "step_ms": milliseconds}


def mixture(train: Tensor, valid: Tensor, seed: int) -> tuple[Score, dict[str, Any]]:
    """The mixture of the best number of components."""
    from sklearn.mixture import GaussianMixture

    began = time.perf_counter()
    fits = [GaussianMixture(k, random_state=seed, reg_covar=1e-4).fit(train.numpy()) for k in range(1, COMPONENTS + 1)]
    best = max(fits, key=lambda fit: fit.score(valid.numpy()))
    seconds = (time.perf_counter() - began) / len(fits)
    d = train.shape[1]
    parameters = best.n_components * (1 + d + d * (d + 1) // 2) - 1
    found = {"parameters": parameters, "components": best.n_components, "fit_ms": 1e3 * seconds}
    return lambda x: torch.from_numpy(best.score_samples(x.numpy())).float(), found


def scores_of(name: str, seed: int, steps: int) -> dict[str, tuple[Score, dict[str, Any]]]:
    """Each contender after training from this seed, with −log p of the test points."""
    torch.manual_seed(seed)
    draw, count = SETS[name]
    train, valid, test = parts_of(draw(count))
    ours = chosen(lambda: convex_flow(train), train, valid, steps)
    least = ours[1]["parameters"]
    found = {
        "convex potential flow": ours,
        "affine coupling flow": chosen(lambda: CouplingFlow(train.shape[1], least), train, valid, steps),
        "Gaussian mixture": mixture(train, valid, seed),
    }
    with torch.no_grad():
        for contender, (score, about) in found.items():
            about["nats"] = float(-score(test).mean())
            print(f"{name}, {contender}: {about}", flush=True)
    return found


def row(name: str, seeds: int, steps: int) -> tuple[dict[str, Any], dict[str, Score]]:
    """A set's figures, and the scores of the first seed for the picture."""
    runs = [scores_of(name, seed, steps) for seed in range(seeds)]
    contenders = {of: [run[of][1] for run in runs] for of in runs[0]}
    means = {of: statistics.mean(about["nats"] for about in abouts) for of, abouts in contenders.items()}
    d = SETS[name][0](1).shape[1]
    return {"set": name, "d": d, "mean": means, "contenders": contenders}, {
        of: score for of, (score, _) in runs[0].items()
    }


def picture(scores: dict[str, dict[str, Score]], path: Path) -> None:
    """Samples of the sets of two dimensions, and the densities."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    names = [name for name, (_, count) in SETS.items() if count]
    grid = torch.linspace(-2.6, 2.6, 200)
    points = torch.cartesian_prod(grid, grid)
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 4), names):
        draw, _ = SETS[name]
        axes[0].scatter(*draw(2000).T, s=1, color="#1b3a4b")
        axes[0].set_title(f"{name}: samples", fontsize="medium")
        for axis, (contender, score) in zip(axes[1:], scores[name].items()):
            with torch.no_grad():
                density = score(points).exp().view(200, 200).T
            axis.imshow(density, origin="lower", extent=(-2.6, 2.6, -2.6, 2.6), cmap="viridis", vmax=density.max())
            axis.set_title(contender, fontsize="medium")
        for axis in axes:
            axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=[], yticks=[])
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/densities.json and docs/densities.png."""
    parser = argparse.ArgumentParser(prog="python -m bench.densities", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    options = parser.parse_args(arguments)
    where = environment()
    results = {name: row(name, options.seeds, options.steps) for name in SETS}
    rows = [figures for figures, _ in results.values()]
    versions = {name: version(package) for name, package in (("zuko", "zuko"), ("sklearn", "scikit-learn"))}
    found = {"environment": where, **versions, "steps": options.steps, "rows": rows}
    write_json((options.out or RESULTS) / "densities.json", found)
    picture({name: scores for name, (_, scores) in results.items()}, (options.out or ROOT / "docs") / "densities.png")


if __name__ == "__main__":
    main()
