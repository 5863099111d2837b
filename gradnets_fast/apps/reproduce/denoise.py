"""A regulariser of pictures, learned from noise, serves for blur and holes too: `gradnets-fast reproduce denoise`.

A picture y with Gaussian noise goes eight steps of gradient descent down ½|x − y|² + R(x).  The network ∇R, filters
and a spline for each, is trained so that these steps end near clean patches: once with a convex R, and once with one
that is only so concave that the sum is convex.  Then R is used unchanged: blurred pictures, and pictures of which half
the pixels are missing, are restored by gradient descent on ½|A x − y|² + λ R(x), whose step 1/(1 + λ L), with L from
`lipschitz_bound`, lets the objective fall at every step.  Total variation and wavelets, of scikit-image, stand beside
it: as denoisers, and as proximal maps of the same descent.  Their weights, and λ, are the best ones on each picture.

Pictures are those that scikit-image ships, in units of the standard deviation 25/255 of the noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import gradnets_fast
from gradnets_fast import convex

from ..readable import times
from .drawing import SERIES, packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 25 / 255
STEPS, STEEPEST = 8, 12.0
"""Steps of gradient descent, and the largest slope of a spline, which bounds how fast ∇R changes."""
TRAINING = (
    *("brick", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "rocket"),
    "stereo_motorcycle",
)
BATCH, PATCH, RATE = 8, 40, 1e-2
NETWORKS = {"convex R": gradnets_fast.mConvGradNet, "weakly convex R": gradnets_fast.ConvGradNet}
VARIATION, WAVELETS = "total variation", "wavelets"
TOLERANCE = 1e-4
"""How far the losses by PyTorch and by ours may be apart, relatively, in the steps that are timed."""
DRAWN = 128
"""The side of what is drawn of the first picture."""
NOISE = {"noise": 1.0, "blur": 0.1, "holes": 0.2}
"""The tasks, and the standard deviation of what is added, in units of SIGMA."""
Operator = Callable[[Tensor], Tensor]
"""A linear map of pictures that is its own adjoint and of norm at most 1."""


def picture(name: str) -> Tensor:
    """A picture of scikit-image in grey, (1, n₁, n₂), in units of SIGMA."""
    from skimage import color, data

    found = getattr(data, name)()
    pixels = found[0] if isinstance(found, tuple) else found
    grey = color.rgb2gray(pixels) if pixels.ndim == 3 else pixels / 255
    return torch.from_numpy(grey).float().unsqueeze(0) / SIGMA


def patches(pictures: list[Tensor]) -> Tensor:
    """Squares of pictures at random places, (BATCH, 1, PATCH, PATCH)."""
    chosen = [pictures[i] for i in torch.randint(len(pictures), (BATCH,)).tolist()]
    places = [[int(torch.randint(n - PATCH + 1, ())) for n in whole.shape[1:]] for whole in chosen]
    return torch.stack([whole[:, i : i + PATCH, j : j + PATCH] for whole, (i, j) in zip(chosen, places)])


def network(kind: str) -> gradnets_fast.ConvGradNet:
    """∇R: 48 filters of 7 × 7, with odd splines."""
    least = 0.0 if kind == "convex R" else -1.0
    profile = gradnets_fast.Spline(knots=41, radius=0.7, slopes=(least, STEEPEST), odd=True)
    net: gradnets_fast.ConvGradNet = NETWORKS[kind](1, 48, 7, profile, centred="all", normalized=True)
    for shift in (net.b, net.bias):
        torch.nn.init.zeros_(shift)
    return net


def denoised(net: gradnets_fast.ConvGradNet, y: Tensor) -> Tensor:
    """x after the steps of accelerated gradient descent from y, of y's shape."""
    x = before = y
    for k in range(STEPS):
        ahead = x + k / (k + 3) * (x - before)
        before, x = x, ahead - (ahead - y + net(ahead)) / (1 + STEEPEST)
    return x


def loss(net: gradnets_fast.ConvGradNet, clean: Tensor) -> Tensor:
    """The mean squared error of what is left of the noise, whose own is 1."""
    return (denoised(net, clean + torch.randn_like(clean)) - clean).square().mean()


def trained(kind: str, pictures: list[Tensor], steps: int) -> gradnets_fast.ConvGradNet:
    """A network after Adam on patches."""
    net = network(kind)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, patches(pictures)).backward()
        optimizer.step()
        schedule.step()
    return net


def step_times(net: gradnets_fast.ConvGradNet, clean: Tensor, turns: int) -> dict[str, float]:
    """Milliseconds of a step of training by the reference and by ours, in turns, and the median of their ratios.

    Raises:
        RuntimeError: their losses differ by more than rounding explains.
    """
    spent: dict[str, list[float]] = {"eager": [], "ours": []}
    for turn in range(turns + 1):
        losses = []
        for name in spent:
            torch.manual_seed(turn)
            with gradnets_fast.use_backend("reference") if name == "eager" else nullcontext():
                start = time.perf_counter()
                value = loss(net, clean)
                value.backward()
                spent[name].append(1e3 * (time.perf_counter() - start))
            losses.append(value.item())
        if abs(losses[0] / losses[1] - 1) > TOLERANCE:
            raise RuntimeError(f"losses by PyTorch and by ours are {losses[0]} and {losses[1]}")
    eager, ours = (of[1:] for of in spent.values())
    gain = statistics.median(theirs / own for theirs, own in zip(eager, ours))
    return {"eager_ms": statistics.median(eager), "ours_ms": statistics.median(ours), "gain_of_ms": gain}


def measured(task: str, clean: Tensor) -> tuple[Operator, Tensor]:
    """What is done to a picture, and what is seen of it: A, and y = A x + noise."""
    generator = torch.Generator().manual_seed(0)
    kept = (torch.rand(clean.shape, generator=generator) < 0.5).float()
    line = torch.exp(-torch.arange(-4.0, 5.0).square() / (2 * 1.6**2))
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None]
    operators: dict[str, Operator] = {
        "noise": lambda x: x,
        "blur": lambda x: conv2d(x.unsqueeze(0), kernel, padding=4).squeeze(0),
        "holes": lambda x: kept * x,
    }
    A = operators[task]
    noise = NOISE[task] * torch.randn(clean.shape, generator=generator)
    return A, A(clean) + (kept * noise if task == "holes" else noise)


def start_of(task: str, A: Operator, y: Tensor) -> Tensor:
    """Where the descent begins: what is seen, holes filled with the mean of the rest."""
    return torch.where(A(torch.ones_like(y)) > 0, y, y[y != 0].mean()) if task == "holes" else y


def descended(net: Any, weight: float, A: Operator, y: Tensor, x: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """Gradient descent on ½|A x − y|² + λ R(x) with the step of the bound; the objective at some 20 steps."""
    rate = 1 / (1 + weight * float(convex.lipschitz_bound(net)))
    curve = []
    for step in range(steps + 1):
        residual = A(x) - y
        if step % max(1, steps // 20) == 0:
            curve.append(float(residual.square().sum() / 2 + weight * net.potential(x.unsqueeze(0)).sum()))
        if step < steps:
            x = x - rate * (A(residual) + weight * net(x))
    return x, curve


def classical(name: str, weight: float) -> Callable[[Tensor], Tensor]:
    """The proximal map of total variation, or the soft thresholds of wavelets."""
    from skimage.restoration import denoise_tv_chambolle, denoise_wavelet

    def variation(x: Tensor) -> Tensor:
        found: Any = denoise_tv_chambolle(x[0].numpy(), weight=weight, eps=1e-5, max_num_iter=60)  # type: ignore[no-untyped-call]
        return torch.from_numpy(found)[None]

    def wavelets(x: Tensor) -> Tensor:
        # skimage clips what is outside [0, 1], so that pictures go there and back.
        found = denoise_wavelet(x[0].double().numpy() * SIGMA, sigma=weight * SIGMA, wavelet="db2", mode="soft")
        return torch.from_numpy(found).to(x)[None] / SIGMA

    return variation if name == VARIATION else wavelets


def psnr(x: Tensor, clean: Tensor) -> float:
    """The peak signal-to-noise ratio in dB."""
    return float(-10 * ((x - clean) * SIGMA).square().mean().log10())


def cases(settings: Settings) -> list[Case]:
    """The ways to restore a picture."""
    return [{"network": name} for name in (*NETWORKS, VARIATION, WAVELETS)]


def run(case: Case, settings: Settings) -> Row:
    """Trains the network, if there is one, and restores every picture of the test from everything."""
    name, net, row = case["network"], None, {}
    if name in NETWORKS:
        pictures = [picture(of) for of in TRAINING]
        net = trained(name, pictures, settings["training_steps"])
        row = {"parameters": parameters(net), "step": step_times(net, patches(pictures), settings["turns"])}
    found: dict[str, dict[str, float]] = {task: {} for task in NOISE}
    for of in settings["pictures"]:
        clean = middle(picture(of), settings["side"])
        for task in NOISE:
            A, y = measured(task, clean)
            x, more = restored(name, net, task, A, y, clean, settings)
            found[task][of] = psnr(x, clean)
            found[task].setdefault(f"{of}, before", psnr(start_of(task, A, y), clean))
            if of == settings["pictures"][0]:
                row |= {f"{task}: {key}": value for key, value in {"picture": grey(x), **more}.items()}
    return {**row, "psnr_db": found}


@torch.no_grad()
def restored(
    name: str, net: Any, task: str, A: Operator, y: Tensor, clean: Tensor, settings: Settings
) -> tuple[Tensor, Row]:
    """A picture by the weight that is best on it, with that weight and the objective's curve."""
    start, best, found = start_of(task, A, y), None, {}
    if net is not None and task == "noise":
        return denoised(net, y), {}
    for weight in settings["learned_weights" if net is not None else f"{name} weights"][task]:
        if net is not None:
            x, curve = descended(net, weight, A, y, start, settings["steps"])
            more: Row = {"weight": weight, "objective": curve}
        else:
            proximal, x, more = classical(name, weight), start, {"weight": weight}
            for _ in range(1 if task == "noise" else settings["proximal_steps"]):
                x = proximal(x - A(A(x) - y) if task != "noise" else x)
        if best is None or psnr(x, clean) > psnr(best, clean):
            best, found = x, more
    assert best is not None
    return best, found


def grey(x: Tensor) -> dict[str, Any]:
    """The part of a picture that is drawn, in 256 shades."""
    return packed((255 * SIGMA * middle(x, min(DRAWN, x.shape[1]))).round().clamp(0, 255), torch.uint8)


def middle(x: Tensor, side: int) -> Tensor:
    """The square in the middle of a picture."""
    i, j = ((n - side) // 2 for n in x.shape[1:])
    return x[:, i : i + side, j : j + side]


def table(rows: Sequence[Row]) -> str:
    """The ratios of each task, mean of the pictures and each one; and what a step of training takes."""
    pictures = [of for of in rows[0]["psnr_db"]["noise"] if "before" not in of]
    lines = [f"| PSNR in dB of | way | mean | {' | '.join(pictures)} |", "|---" * (3 + len(pictures)) + "|"]
    for task in NOISE:
        ways = {row["network"]: [row["psnr_db"][task][of] for of in pictures] for row in rows}
        ways = {"before": [rows[0]["psnr_db"][task][f"{of}, before"] for of in pictures], **ways}
        for name, ratios in ways.items():
            cells = (f"{ratio:.2f}" for ratio in (statistics.mean(ratios), *ratios))
            lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    learned = [row for row in rows if "step" in row]
    taken = "; ".join(f"{row['network']} {times(row['step']['gain_of_ms'])} as long" for row in learned)
    return "\n".join([*lines, "", f"A step of training by the reference, which is plain PyTorch, takes: {taken}."])


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """A picture before and after, by each way; and the objective of the learned regularisers."""
    from matplotlib.figure import Figure

    pictures = Figure(figsize=(11, 6.8), layout="constrained")
    shades = {"cmap": "gray", "vmin": 0, "vmax": 255}
    names = [row["network"] for row in rows]
    of, first = settings["pictures"][0], {row["network"]: row for row in rows}
    clean = middle(picture(of), settings["side"])
    for line, task in zip(pictures.subplots(len(NOISE), len(rows) + 1), NOISE):
        line[0].imshow(unpacked(grey(measured(task, clean)[1]))[0].numpy(), **shades)
        line[0].set_title(f"{task}, {rows[0]['psnr_db'][task][f'{of}, before']:.1f} dB", fontsize="medium")
        for axis, name in zip(line[1:], names):
            axis.imshow(unpacked(first[name][f"{task}: picture"])[0].numpy(), **shades)
            axis.set_title(f"{name}, {first[name]['psnr_db'][task][of]:.1f} dB", fontsize="medium")
        for axis in line:
            axis.set(xticks=[], yticks=[])
    curves = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, task in zip(curves.subplots(1, 2), ("blur", "holes")):
        for colour, row in zip(SERIES, (row for row in rows if "step" in row)):
            values = torch.tensor(row[f"{task}: objective"])
            steps = torch.arange(len(values)) * max(1, settings["steps"] // 20)
            axis.plot(steps, values / values[0], color=colour, marker=".", label=row["network"])
        axis.set(title=task, xlabel="step of gradient descent", ylabel="objective, of its first value", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(frameon=False)
    return {"denoise": pictures, "denoise-objective": curves}


EXPERIMENT = Experiment(
    name="denoise",
    title="Pictures restored by a regulariser that was learned from noise alone, beside total variation and wavelets.",
    source="Goujon, Neumayer, Unser, Learning Weakly Convex Regularizers for Convergent Image-Reconstruction "
    "Algorithms, SIAM Journal on Imaging Sciences, 2024, for the network and its training",
    settings={
        "training_steps": 1000,
        "turns": 15,
        "pictures": ["astronaut", "camera", "chelsea", "coffee"],
        "side": 256,
        "steps": 200,
        "proximal_steps": 50,
        "learned_weights": {"blur": [0.01, 0.02, 0.05, 0.1], "holes": [0.02, 0.05, 0.1, 0.2]},
        "total variation weights": {
            "noise": [0.6, 0.7, 0.8, 0.9, 1.0],
            "blur": [0.005, 0.01, 0.02, 0.05],
            "holes": [0.05, 0.1, 0.2, 0.4],
        },
        "wavelets weights": {
            "noise": [0.6, 0.8, 1.0, 1.2],
            "blur": [0.005, 0.01, 0.02, 0.05],
            "holes": [0.05, 0.1, 0.2, 0.4],
        },
    },
    quick={
        "training_steps": 10,
        "turns": 1,
        "pictures": ["astronaut"],
        "side": 96,
        "steps": 5,
        "proximal_steps": 5,
        "learned_weights": {"blur": [0.02], "holes": [0.05]},
        "total variation weights": {"noise": [0.8], "blur": [0.02], "holes": [0.1]},
        "wavelets weights": {"noise": [1.0], "blur": [0.02], "holes": [0.1]},
    },
    cases=cases,
    run=run,
    table=table,
    figures=figures,
    extra="reproduce",
)
