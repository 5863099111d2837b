"""Optimal transport maps as gradients of convex potentials: `gradnets-fast reproduce transport`.

- Gaussian: a Gaussian, whose covariance has the Wishart distribution of d + 1 degrees of freedom, is carried to the
  standard normal one by the Monge–Ampère loss, the mean of |log det J − log p(x) + log q(f(x))|, at batches of 1000,
  from the identity.  The map Σ^(−½) x is known, and linear.
- mixture: a mixture of eight Gaussians is carried to its image under the gradient of a known convex potential, which is
  not one of the networks.  Only samples of both ends are seen, unpaired; the loss is Kantorovich's dual, the mean
  of F(x) + F*(y), with F* by the inverse map.  The linear map is that between Gaussians of the samples' moments.
- ring: a ring is carried to two Gaussians, from samples alone; POT has the exact plan between points of the test.

Errors are those of the map: the mean squared error over points and coordinates; the unexplained variance, which is the
mean of |f − T|² over the variance of T(x); and the cosine of the angle between f(x) − x and T(x) − x as functions.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradnets_fast
from gradnets_fast import convex
from gradnets_fast.nn import GradNet

from .comparison import AUTOGRAD, KERNELS, Task, Training, compared
from .comparison import table as table_of_turns
from .drawing import INK, MARK, OTHER, packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters
from .peers import ByAutograd, Map
from .runner import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH, TEST_POINTS, HIDDEN = 1000, 10_000, 32
LINEAR = "linear, between Gaussians"
NETWORKS = ("mGradNetC, 4 layers of 32", "mGradNetM, 4 modules of 32", "mDeepGradNet, 2 layers of 32")
QUANTITIES = {"unexplained": "unexplained variance, %", "cosine": "cosine", "mse": "mean squared error of the map"}


def network(name: str, d: int) -> GradNet:
    """One of NETWORKS, each with a positive semidefinite linear part."""
    if name.startswith("mGradNetC"):
        return gradnets_fast.mGradNetC(4, d, HIDDEN, "tanh", linear="psd")
    if name.startswith("mGradNetM"):
        return gradnets_fast.mGradNetM(4, d, HIDDEN, "softmax", linear="psd")
    return gradnets_fast.mDeepGradNet(d, (HIDDEN, HIDDEN))


def cases(settings: Settings) -> list[Case]:
    """Gaussians by dimension, all networks by turns; mixtures by dimension and network; the ring."""
    seeds = range(settings["seeds"])
    gaussians = [{"task": "Gaussian", "d": d, "seed": s} for d, s in product(settings["gaussian_d"], seeds)]
    names = (LINEAR, *NETWORKS)
    mixtures = [
        {"task": "mixture", "d": d, "network": name, "seed": s}
        for d, name, s in product(settings["mixture_d"], names, seeds)
    ]
    return [*gaussians, *mixtures, *({"task": "ring", "d": 2, "network": name, "seed": 0} for name in NETWORKS[:2])]


def run(case: Case, settings: Settings) -> Row:
    """Trains what the case asks for, and measures its map."""
    if case["task"] == "Gaussian":
        training = Training(settings["gaussian_steps"], 1e-2, clip=2.0)
        return compared(lambda: gaussian(case["d"], case["seed"]), training)
    return mixture(case, settings) if case["task"] == "mixture" else ring_to_pair(case, settings)


def errors(f: Tensor, T: Tensor, x: Tensor) -> dict[str, float]:
    """The errors of a map's values f at points x whose optimal images are T, all (n, d)."""
    squares = (f - T).square()
    unexplained = squares.sum(-1).mean() / (T - T.mean(0)).square().sum(-1).mean()
    cosine = F.cosine_similarity((f - x).flatten(), (T - x).flatten(), dim=0)
    return {"mse": float(squares.mean()), "unexplained": 100 * float(unexplained), "cosine": float(cosine)}


class PlainEnergy(nn.Module):
    """The energy of an mDeepGradNet, in plain PyTorch, of its parameters."""

    def __init__(self, net: gradnets_fast.mDeepGradNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """F(x), (…,)."""
        net: Any = self.net
        a = F.softplus(F.linear(x, net.A[0], net.b[0]))
        for V, A, b in zip(net.V, net.A[1:], net.b[1:]):
            a = F.softplus(F.linear(a, F.softplus(V)) + F.linear(x, A, b))
        energy: Tensor = a @ F.softplus(net.c) + F.linear(x, net.linear.V).square().sum(-1) / 2
        return energy


def monge_ampere(net: Any, x: Tensor, log_p: Tensor) -> Tensor:
    """The mean of |log det J − log p(x) + log q(f(x))|."""
    f, J = net.gradient_and_jacobian(x) if isinstance(net, ByAutograd) else (net(x), net.jacobian(x))
    loss: Tensor = (torch.linalg.slogdet(J).logabsdet - log_p - f.square().sum(-1) / 2).abs().mean()
    return loss


def gaussian(d: int, seed: int) -> Task:
    """The networks, the Gaussian and the points of a seed."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(d + 1, d, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    root, inverse = (((vectors * values**power) @ vectors.T).float() for power in (0.5, -0.5))

    def sample(count: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, d, generator=generator)
        # Both densities without (2π)^(−d/2), which they have in common.
        return z @ root, -z.square().sum(-1) / 2 - values.log().sum().float() / 2

    x, _ = sample(TEST_POINTS)

    def of_map(net: Any) -> dict[str, float]:
        found = errors(net(x).detach(), x @ inverse, x)
        return {QUANTITIES["mse"]: found["mse"], QUANTITIES["unexplained"]: found["unexplained"]}

    torch.manual_seed(seed)
    nets = {name: network(name, d) for name in NETWORKS}
    for net in nets.values():
        gradnets_fast.init_identity_(net)
    deep = nets.pop(NETWORKS[2])
    energy = PlainEnergy(copy.deepcopy(deep))  # type: ignore[arg-type]
    contenders: dict[str, nn.Module] = {AUTOGRAD: ByAutograd(energy), KERNELS: deep, **nets}
    return Task(contenders, monge_ampere, lambda: sample(BATCH), of_map)


def dual(net: GradNet, x: Tensor, y: Tensor) -> Tensor:
    """The mean over all pairs of F(x) + F*(y) − <x, y> ≥ 0, which is 0 where ∇F carries x optimally to y."""
    with torch.no_grad():
        best = convex.inverse(net, y).x  # it maximises <·, y> − F, so that no gradient goes through it
    at_x, at_best = net.potential(torch.cat([x, best])).split(len(x))
    loss: Tensor = (at_x - at_best + (best * y).sum(-1)).mean() - x.mean(0) @ y.mean(0)
    return loss


class Centred(nn.Module):
    """A network between points about their means: x ↦ net(x − its mean) + the target's mean."""

    def __init__(self, net: GradNet, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.net, self.x_mean, self.y_mean = net, x.mean(0), y.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Where x is carried, (n, d)."""
        f: Tensor = self.net(x - self.x_mean)
        return f + self.y_mean


def trained(name: str, x: Tensor, y: Tensor, steps: int, batch: int) -> Centred:
    """A network trained on the dual from the map between Gaussians of the samples' moments."""
    net = network(name, x.shape[1])
    found = Centred(net, x, y)
    x, y = x - found.x_mean, y - found.y_mean
    gradnets_fast.init_gaussian_map_(net, torch.zeros(x.shape[1]), torch.cov(x.T), target_covariance=torch.cov(y.T))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = dual(net, x[torch.randint(len(x), (batch,))], y[torch.randint(len(y), (batch,))])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        schedule.step()
    return found


def linear_map(x: Tensor, y: Tensor) -> Map:
    """The optimal map between the Gaussians with the samples' means and covariances."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    middle, directions = torch.linalg.eigh(root @ torch.cov(y.T) @ root)
    A = inverse @ ((directions * middle.clamp(min=0).sqrt()) @ directions.T) @ inverse
    means = x.mean(0), y.mean(0)

    def found(at: Tensor) -> Tensor:
        moved: Tensor = (at - means[0]) @ A + means[1]
        return moved

    return found


class KnownPotential(nn.Module):
    """|x|²/10 + Σ_k √(0.05 + (<a_k, x> − b_k)²)/√d + log Σ_k exp 4(<c_k, x> + e_k)/4: convex, with bends everywhere."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.a, self.b = F.normalize(torch.randn(2 * d, d)), torch.randn(2 * d)
        self.c, self.e = torch.randn(8, d) / d**0.5, torch.randn(8)

    def forward(self, x: Tensor) -> Tensor:
        """The potential at x, (…,)."""
        bends = (0.05 + (x @ self.a.T - self.b).square()).sqrt().sum(-1) / x.shape[-1] ** 0.5
        largest = torch.logsumexp(4 * (x @ self.c.T + self.e), -1) / 4
        whole: Tensor = x.square().sum(-1) / 10 + bends + largest
        return whole


def mixture(case: Case, settings: Settings) -> Row:
    """Carries a mixture to its image under a known map, from samples."""
    d, generator = case["d"], torch.Generator().manual_seed(case["seed"])
    centres = 1.5 * torch.randn(8, d, generator=generator)
    known = ByAutograd(KnownPotential(d))

    def sample(count: int) -> Tensor:
        chosen = torch.randint(8, (count,), generator=generator)
        return centres[chosen] + 0.5 * torch.randn(count, d, generator=generator)

    def optimal(x: Tensor) -> Tensor:
        T: Tensor = known(x)
        return T.detach()

    x, y, test = sample(settings["samples"]), optimal(sample(settings["samples"])), sample(TEST_POINTS)
    name = case["network"]
    found: Map = linear_map(x, y) if name == LINEAR else trained(name, x, y, settings["steps"], settings["batch"])
    count = d * (d + 3) // 2 if name == LINEAR else parameters(found)
    with torch.no_grad():
        return {"parameters": count, **errors(found(test), optimal(test), test)}


def ring(count: int) -> Tensor:
    """Points near a circle of radius 2."""
    angle = 2 * math.pi * torch.rand(count)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(count, 2)


def pair(count: int) -> Tensor:
    """Points of two Gaussians side by side."""
    side = (torch.rand(count, 1) < 0.5).float()
    return 0.5 * torch.randn(count, 2) + side * torch.tensor([3.0, 0.0])


def ring_to_pair(case: Case, settings: Settings) -> Row:
    """Carries the ring to the two Gaussians, and measures it with POT at points that it was not trained on."""
    from gradnets_fast.interop import measure_transport

    x, y, test_x, test_y, again = ring(5000), pair(4000), ring(500), pair(500), pair(500)
    net = trained(case["network"], x, y, settings["steps"], settings["batch"])
    found = measure_transport(net, test_x, test_y)
    best = measure_transport(lambda at: at, again, test_y)
    return {
        "parameters": parameters(net),
        "cost_ratio": found.cost_ratio,
        "distance": found.target_distance,
        "distance_of_samples": best.target_distance,
        "points": packed(test_x),
        "images": packed(net(test_x)),
        "targets": packed(test_y),
    }


def table(rows: Sequence[Row]) -> str:
    """A table of each task."""
    of = {task: [row for row in rows if row["task"] == task] for task in ("Gaussian", "mixture", "ring")}
    headed: dict[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
        "Gaussian": ("Gaussian to the standard normal distribution", lambda found: table_of_turns(found, "d")),
        "mixture": ("Mixture under a known map, from unpaired samples, means of the seeds", _of_mixtures),
        "ring": ("Ring to two Gaussians, beside POT's exact plan", _of_rings),
    }
    return "\n\n".join(f"{head}:\n\n{made(of[task])}" for task, (head, made) in headed.items() if of[task])


def _of_mixtures(rows: Sequence[Row]) -> str:
    lines = [f"| d | map | parameters | {' | '.join(QUANTITIES.values())} | seconds |", "|---" * 7 + "|"]
    for d, name in dict.fromkeys((row["d"], row["network"]) for row in rows):
        found = [row for row in rows if (row["d"], row["network"]) == (d, name)]
        unexplained, cosine, mse = (mean(found, quantity) for quantity in QUANTITIES)
        cells = [f"{unexplained:.2f}", f"{cosine:.4f}", f"{mse:.2g}"]
        seconds = statistics.median(row["seconds"] for row in found)
        lines.append(f"| {d} | {name} | {found[0]['parameters']} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def _of_rings(rows: Sequence[Row]) -> str:
    lines = [
        "| network | parameters | cost over that of the exact plan | W₂(f(x), y) | W₂ of two samples of y |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (f"{row[quantity]:.3f}" for quantity in ("cost_ratio", "distance", "distance_of_samples"))
        lines.append(f"| {row['network']} | {row['parameters']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The ring and where it is carried, beside the target; and the unexplained variance of the mixtures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    carried = next(row for row in rows if row["task"] == "ring")
    x, moved, y = (unpacked(carried[name]) for name in ("points", "images", "targets"))
    left.scatter(*x.T, s=5, color=INK, label="x")
    left.scatter(*moved.T, s=5, color=MARK, label="f(x)")
    left.quiver(*x[:100].T, *(moved - x)[:100].T, angles="xy", scale_units="xy", scale=1, width=0.002, alpha=0.5)
    left.set_title(carried["network"])
    middle.scatter(*y.T, s=5, color=OTHER, label="target y")
    middle.scatter(*moved.T, s=5, color=MARK, label="f(x)")
    for axis in (left, middle):
        axis.set_aspect("equal", adjustable="datalim")
        axis.legend(frameon=False)
    mixtures = [row for row in rows if row["task"] == "mixture"]
    for colour, name in zip((OTHER, "#1b6b93", "#2a9d6f", "#e0a458"), (LINEAR, *NETWORKS)):
        dims = sorted({row["d"] for row in mixtures})
        of = [mean([r for r in mixtures if (r["d"], r["network"]) == (d, name)], "unexplained") for d in dims]
        right.plot(dims, of, color=colour, marker="o", label=name)
    right.set(xscale="log", yscale="log", xlabel="d", title="mixtures: unexplained variance, %")
    right.set_xticks(settings["mixture_d"], [str(d) for d in settings["mixture_d"]])
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return {"transport": figure}


EXPERIMENT = Experiment(
    name="transport",
    title="Transport maps of Gaussians, of mixtures and of samples: gradient networks beside what is known or exact.",
    source="arXiv 2507.13191 for the Gaussians; Korotin and others, Do Neural Optimal Transport Solvers Work?, arXiv "
    "2106.01954, for the measures of the mixtures, which are our own",
    settings={
        "seeds": 3,
        "gaussian_d": [2, 8, 16],
        "gaussian_steps": 1000,
        "mixture_d": [2, 4, 8, 16, 32, 64],
        "samples": 20_000,
        "steps": 400,
        "batch": 500,
    },
    quick={"seeds": 1, "gaussian_d": [2], "gaussian_steps": 20, "mixture_d": [2, 4], "samples": 2000, "steps": 20},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
    extra="reproduce",
)
