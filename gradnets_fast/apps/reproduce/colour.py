"""Colours of one picture given to another: `gradnets-fast reproduce colour`.

A picture's pixels are points of the unit cube, and a map of the cube that carries the pixels of one picture to the
distribution of another's gives it these colours.  The optimal one, which changes colours least, is the gradient of a
convex potential; it is learned from pixels of both by Kantorovich's dual.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import convex

from .contest import grouped, markdown, of_seeds, sized, trained
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters
from .peers import Map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXACT, GAUSSIAN = "exact plan of samples, POT", "map between Gaussians"
NETWORKS: dict[str, Callable[[int], gradnets_fast.nn.GradNet]] = {
    "mGradNetM, 8 modules": lambda h: gradnets_fast.mGradNetM(8, 3, h, "softmax", linear="psd"),
    "mGradNetC, 4 layers": lambda h: gradnets_fast.mGradNetC(4, 3, h, "tanh", linear="psd"),
}
LARGER, THIN = 5, 3
"""By what pixels are multiplied for networks; and every so manieth row and column is in the figure."""


def picture(name: str) -> Tensor:
    """A picture of scikit-image, (rows, columns, 3), from 0 to 1."""
    from skimage import data

    return torch.from_numpy(getattr(data, name)()).float() / 255


def learned(net: gradnets_fast.nn.GradNet, x: Tensor, y: Tensor, settings: Settings) -> Map:
    """The map of least cost from x to the distribution of y, learned from that between Gaussians on."""
    x, y = (LARGER * (points - 0.5) for points in (x, y))
    gradnets_fast.init_gaussian_map_(net, x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))

    def loss() -> Tensor:
        """The mean of F(x) + F*(y), F*(y) = <x̂, y> − F(x̂) with f(x̂) = y; no gradient goes through x̂."""
        some_x, some_y = (points[torch.randint(len(points), (settings["batch"],))] for points in (x, y))
        with torch.no_grad():
            best = convex.inverse(net, some_y).x
        at_x, at_best = net.potential(torch.cat([some_x, best])).chunk(2)
        dual: Tensor = at_x - at_best + (best * some_y).sum(-1)
        return dual.mean()

    trained(net, loss, settings["steps"], settings["rate"])
    return lambda points: net(LARGER * (points - 0.5)) / LARGER + 0.5


def gaussian(x: Tensor, y: Tensor) -> Map:
    """The optimal map between the Gaussians of the samples' means and covariances."""

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        result: Tensor = (vectors * values.clamp(min=1e-12) ** exponent) @ vectors.T
        return result

    root, inverse = (power(torch.cov(x.T), exponent) for exponent in (0.5, -0.5))
    A = inverse @ power(root @ torch.cov(y.T) @ root, 0.5) @ inverse
    return lambda points: (points - x.mean(0)) @ A + y.mean(0)


def exact_plan(x: Tensor, y: Tensor, count: int) -> Map:
    """What the exact plan between so many samples does, in the mean, to the nearest colour of them."""
    ot = import_module("ot")
    known, counts = torch.unique(x[:count], dim=0, return_counts=True)  # many pixels are of one colour
    weights, y = counts.double() / count, y[:count].double()
    uniform = torch.full((count,), 1 / count, dtype=torch.float64)
    plan = ot.emd(weights, uniform, torch.cdist(known.double(), y).square(), numItermax=10_000_000)
    moved = (plan @ y / weights.unsqueeze(1)).float() - known

    def apply(points: Tensor) -> Tensor:
        return torch.cat([part + moved[torch.cdist(part, known).argmin(1)] for part in points.split(4000)])

    return apply


def distance(x: Tensor, y: Tensor) -> float:
    """The 2-Wasserstein distance between as many points."""
    ot = import_module("ot")
    weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    squared = ot.emd2(weights, weights, torch.cdist(x.double(), y.double()).square(), numItermax=10_000_000)
    root: float = float(squared) ** 0.5
    return root


def cases(settings: Settings) -> Sequence[Case]:
    """Every map for every pair of pictures."""
    return [
        {"source": source, "target": target, "network": name, "seed": seed}
        for source, target in settings["pairs"]
        for name in (*NETWORKS, GAUSSIAN, EXACT)
        for seed in range(settings["seeds"])
    ]


def run(case: Case, settings: Settings) -> Row:
    """Learn the map from pixels, apply it to the picture, and compare with other pixels."""
    pictures, n = [picture(case[end]) for end in ("source", "target")], settings["test"]
    pixels = [p.flatten(0, 1)[torch.randperm(p.shape[0] * p.shape[1])] for p in pictures]
    (test_x, test_y, other_y), (x, y) = (
        (pixels[0][:n], pixels[1][:n], pixels[1][n : 2 * n]),
        (p[2 * n :] for p in pixels),
    )
    row: Row = {}
    began = time.perf_counter()
    if case["network"] in NETWORKS:
        net = sized(NETWORKS[case["network"]], settings["parameters"])
        row["parameters"] = parameters(net)
        found: Map = learned(net, x, y, settings)
    else:
        found = gaussian(x, y) if case["network"] == GAUSSIAN else exact_plan(x, y, settings["plan"])
    learning = time.perf_counter() - began
    with torch.no_grad():
        began = time.perf_counter()
        whole = found(pictures[0].flatten(0, 1)).view_as(pictures[0])
        row |= {"learn_seconds": learning, "apply_ms": 1e3 * (time.perf_counter() - began)}
        moved = found(test_x)
    row["cost"] = float((moved - test_x).square().sum(-1).mean())
    row["distance"], row["between"] = distance(moved, test_y), distance(other_y, test_y)
    row["optimal"] = distance(test_x, test_y) ** 2
    if case["seed"] == 0:
        row["picture"] = _encoded(whole)
    return row


def _encoded(image: Tensor) -> str:
    """A small JPEG, as text."""
    from matplotlib.image import imsave

    with io.BytesIO() as buffer:
        imsave(buffer, image[::THIN, ::THIN].clamp(0, 1).numpy(), format="jpg")
        return base64.b64encode(buffer.getvalue()).decode()


def table(rows: Sequence[Row]) -> str:
    """A line for each pair and map."""
    lines = []
    by_pair = [row for of_pair in grouped(rows, "source", "target").values() for row in of_pair]
    for (source, target, name), of in grouped(by_pair, "source", "target", "network").items():
        ratios = [row["cost"] / row["optimal"] for row in of]
        numbers = (ratios, *([row[key] for row in of] for key in ("distance", "between")))
        times = (of_seeds([row[key] for row in of][:1]) for key in ("learn_seconds", "apply_ms"))
        size = str(of[0].get("parameters", "–"))
        lines.append([f"{source} → {target}", name, size, *(of_seeds(each, 3) for each in numbers), *times])
    header = ["pictures", "map", "parameters", "cost", "distance to the target", "of the target to itself"]
    return markdown([*header, "seconds to learn", "ms for the picture"], lines) + (
        "\n\nPixels that were not learned from.  Cost: the mean squared change, over that of the exact plan to pixels "
        "of the target.  Distances: Wasserstein-2 between as many pixels; the last of them between two sets of the "
        "target's own.  Mean of the seeds (least – largest); times are those of the first."
    )


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The pictures."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    shown = grouped([row for row in rows if "picture" in row], "source", "target")
    count = 2 + max(map(len, shown.values()))
    figure = Figure(figsize=(2.6 * count, 2.2 * len(shown)), layout="constrained")
    for line, ((source, target), of) in zip(figure.subplots(len(shown), count, squeeze=False), shown.items()):
        images = {
            name: picture(of_picture)[::THIN, ::THIN].numpy()
            for name, of_picture in ((source, source), (f"colours of {target}", target))
        }
        images |= {row["network"]: imread(io.BytesIO(base64.b64decode(row["picture"])), format="jpg") for row in of}
        for axes, (name, image) in zip(line, images.items()):
            axes.imshow(image)
            axes.set_title(name, fontsize="small")
        for axes in line:
            axes.axis("off")
    return {"colour": figure}


EXPERIMENT = Experiment(
    name="colour",
    title="The colours of one picture given to another by monotone networks, a linear map and exact plans.",
    source="arXiv 2507.13191, of transport by monotone gradient networks; the pictures are those of scikit-image",
    settings={
        "pairs": [["rocket", "coffee"], ["astronaut", "chelsea"]],
        "parameters": 600,
        "batch": 300,
        "steps": 800,
        "rate": 1e-2,
        "plan": 2000,
        "test": 1000,
        "seeds": 2,
    },
    quick={"pairs": [["rocket", "coffee"]], "steps": 10, "batch": 100, "plan": 200, "test": 100, "seeds": 1},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
    extra="reproduce",
)
