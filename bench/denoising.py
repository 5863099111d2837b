"""Denoises pictures that scikit-image ships by a regulariser R that is learned from others of them in minutes.

    python -m bench.denoising

A picture y with Gaussian noise goes eight steps of gradient descent down ½|x − y|² + R(x).  The network ∇R, filters
and a spline for each, is trained so that these steps end near clean patches: once with a convex R, and once with one
that is only so concave that the sum is convex.  Beside it stands total variation, with the best weight on each picture.
Source: Goujon, Neumayer, Unser, "Learning Weakly Convex Regularizers for Convergent Image-Reconstruction Algorithms",
SIAM Journal on Imaging Sciences, 2024.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import gradnets_fast
from bench.environment import RESULTS, ROOT, environment
from gradnets_fast.apps.files import write_atomically, write_json

SIGMA = 25 / 255
"""The noise's standard deviation, which pictures are in units of."""
STEPS, STEEPEST = 8, 12.0
"""Steps of gradient descent, and the largest slope of a spline, which bounds how fast ∇R changes."""
TRAINING = ("brick", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry")
TRAINING += ("moon", "rocket", "stereo_motorcycle")
TEST = ("astronaut", "camera", "chelsea", "coffee")
BATCH, PATCH, RATE = 8, 40, 1e-2
WEIGHTS = [round(0.06 + 0.005 * k, 3) for k in range(9)]
"""Of total variation."""
NETWORKS = {"convex": gradnets_fast.mConvGradNet, "weakly convex": gradnets_fast.ConvGradNet}
TURNS, TOLERANCE = 15, 1e-4
"""Steps of training that are timed, and how far the losses by PyTorch and by ours may be apart, relatively."""
CORNER, CUT = (60, 170), 120
"""The part of the first picture that is drawn larger."""
QUICK = 10


def picture(name: str) -> Tensor:
    """A picture of scikit-image in grey, (1, n₁, n₂), in units of the noise.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        from skimage import color, data
    except ImportError as error:
        fix = "pip install 'gradnets_fast[images]'"
        raise ImportError(f"bench.denoising: import: expected scikit-image, got {error}; {fix}") from error
    found = getattr(data, name)()
    pixels = found[0] if isinstance(found, tuple) else found
    grey = color.rgb2gray(pixels) if pixels.ndim == 3 else pixels / 255
    return torch.from_numpy(grey).float().unsqueeze(0) / SIGMA


def patches(pictures: list[Tensor]) -> Tensor:
    """Squares of pictures at random places, (BATCH, 1, PATCH, PATCH)."""
    chosen = [pictures[i] for i in torch.randint(len(pictures), (BATCH,))]
    places = [[int(torch.randint(n - PATCH + 1, ())) for n in whole.shape[1:]] for whole in chosen]
    return torch.stack([whole[:, i : i + PATCH, j : j + PATCH] for whole, (i, j) in zip(chosen, places)])


def network(kind: str) -> gradnets_fast.ConvGradNet:
    """∇R: 48 filters of 7 × 7, with odd splines."""
    least = 0.0 if kind == "convex" else -1.0
    profile = gradnets_fast.Spline(knots=41, radius=0.7, slopes=(least, STEEPEST), odd=True)
    net = NETWORKS[kind](1, 48, 7, profile, centred="all", normalized=True)
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


def trained(kind: str, pictures: list[Tensor], steps: int) -> tuple[gradnets_fast.ConvGradNet, float]:
    """The network, and the seconds of its training."""
    torch.manual_seed(0)
    net = network(kind)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, patches(pictures)).backward()
        optimizer.step()
        schedule.step()
    return net, time.perf_counter() - start


def step_times(net: gradnets_fast.ConvGradNet, clean: Tensor, turns: int) -> dict[str, float]:
    """Milliseconds of a step of training by the reference and by ours, in turns, and the median of their ratios.

    Raises:
        RuntimeError: their losses differ by more than rounding explains.
    """
    seconds: dict[str, list[float]] = {"eager": [], "ours": []}
    for turn in range(turns + 1):
        losses = []
        for name in seconds:
            torch.manual_seed(turn)
            with gradnets_fast.use_backend("reference") if name == "eager" else nullcontext():
                start = time.perf_counter()
                value = loss(net, clean)
                value.backward()
                seconds[name].append(time.perf_counter() - start)
            losses.append(value.item())
        if abs(losses[0] / losses[1] - 1) > TOLERANCE:
            raise RuntimeError(f"losses by PyTorch and by ours are {losses[0]} and {losses[1]}")
    eager, ours = (of[1:] for of in seconds.values())
    gain = statistics.median(theirs / own for theirs, own in zip(eager, ours))
    return {"eager_ms": 1e3 * statistics.median(eager), "ours_ms": 1e3 * statistics.median(ours), "gain": gain}


def psnr(x: Tensor, clean: Tensor) -> float:
    """The peak signal-to-noise ratio in dB."""
    return float(-10 * ((x - clean) * SIGMA).square().mean().log10())


def least_variation(y: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """What total variation makes of a picture with the weight that is best on it, and that weight."""
    from skimage.restoration import denoise_tv_chambolle

    denoise = partial(denoise_tv_chambolle, (y[0] * SIGMA).numpy(), eps=1e-5, max_num_iter=300)
    found = {weight: torch.from_numpy(denoise(weight=weight)).unsqueeze(0) / SIGMA for weight in WEIGHTS}
    best = max(found, key=lambda weight: psnr(found[weight], clean))
    return found[best], best


@torch.no_grad()
def results(nets: dict[str, gradnets_fast.ConvGradNet], clean: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A picture with noise and without it, by each way, and the ratios."""
    y = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    variation, weight = least_variation(y, clean)
    images = {"noisy": y, "total variation": variation} | {kind: denoised(net, y) for kind, net in nets.items()}
    return images, {"psnr_db": {name: psnr(x, clean) for name, x in images.items()}, "weight": weight}


def draw(images: dict[str, Tensor], ratios: dict[str, float], clean: Tensor, path: Path) -> None:
    """Draws a picture and a part of it: noisy, by total variation, by the weakly convex R, and as it was."""
    names = ("noisy", "total variation", "weakly convex")
    panels = {f"{name}, {ratios[name]:.1f} dB": images[name] for name in names} | {"the picture": clean}
    figure = Figure(figsize=(9.6, 5.1), layout="constrained")
    (i, j), grey = CORNER, {"cmap": "gray", "vmin": 0, "vmax": 1 / SIGMA}
    for (whole, part), (title, x) in zip(figure.subplots(2, 4).T, panels.items()):
        whole.imshow(x[0].numpy(), **grey)
        part.imshow(x[0, i : i + CUT, j : j + CUT].numpy(), **grey)
        whole.set_title(title)
        for axes in (whole, part):
            axes.set(xticks=[], yticks=[])

    def save(temporary: Path) -> None:
        figure.savefig(temporary, dpi=90)
        with Image.open(temporary) as drawn:
            drawn.convert("L").save(temporary, optimize=True)

    write_atomically(path, save)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, compares, and writes denoising.json and denoising.png."""
    parser = argparse.ArgumentParser(prog="python -m bench.denoising", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} steps, and one picture")
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    given = parser.parse_args(arguments)
    steps, turns, test = (QUICK, 1, TEST[:1]) if given.quick else (given.steps, TURNS, TEST)
    where, pictures = environment(), [picture(name) for name in TRAINING]
    nets, training = {}, {}
    for kind in NETWORKS:
        nets[kind], seconds = trained(kind, pictures, steps)
        times = step_times(nets[kind], patches(pictures), turns)
        count = sum(p.numel() for p in nets[kind].parameters())
        training[kind] = {"parameters": count, "seconds": seconds, "step": times}
        print(f"{kind}: {steps} steps in {seconds:.0f} s, {times}", flush=True)
    rows = []
    for name in test:
        clean = picture(name)
        images, row = results(nets, clean)
        rows.append({"picture": name, **row})
        print(rows[-1], flush=True)
        if name == TEST[0]:
            draw(images, row["psnr_db"], clean, (given.out or ROOT / "docs") / "denoising.png")
    settings = {"sigma": SIGMA, "steps": STEPS, "training_steps": steps, "batch": BATCH, "patch": PATCH, "seed": 0}
    content = {"environment": where, "settings": settings, "training": training, "rows": rows}
    write_json((given.out or RESULTS) / "denoising.json", content)


if __name__ == "__main__":
    main()
