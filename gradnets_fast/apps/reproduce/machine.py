"""The currents of an electric machine from its flux linkages and rotor angle: `gradnets-fast reproduce machine`.

Currents i = ∂W/∂ψ (A) are the gradient of the magnetic energy W(ψ; θ) in the flux linkages ψ = (ψ_d, ψ_q) (Vs), convex
in ψ for each electrical angle θ of the rotor.  A controller asks for i(ψ; θ), and for the inverse ψ(i; θ).
"""

from __future__ import annotations

import ctypes
import math
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast
from gradnets_fast import convex
from gradnets_fast.export import to_c

from .contest import grouped, markdown, newton, of_seeds, relative, sized, trained
from .experiment import Case, Experiment, Row, Settings
from .measures import jacobians, parameters
from .peers import Map, mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUX, CURRENT = 0.15, 200.0
"""Vs and A that count as 1 for networks."""


def energy(flux: Tensor, angle: Tensor) -> Tensor:
    """W in J at ψ (…, 2) in Vs and θ (…,): two inductances, a magnet, saturation across both axes, and slots."""
    d, q = (flux - torch.tensor([0.06, 0.0])).unbind(-1)
    linear = d.square() / (2 * 0.9e-3) + q.square() / (2 * 1.4e-3)
    saturation = 2.5e5 * (flux.square().sum(-1) + 2e-3).pow(3) / 6
    magnet = 3 * torch.cos(6 * angle) * flux[..., 0] + 4 * torch.sin(6 * angle) * flux[..., 1]
    slots = 40 * torch.cos(6 * angle) * (d.square() - q.square()) + 60 * torch.sin(6 * angle) * d * q
    return linear + saturation + magnet + slots


def currents(flux: Tensor, angle: Tensor) -> Tensor:
    """i = ∂W/∂ψ in A, (…, 2)."""
    leaf = flux.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(energy(leaf, angle).sum(), leaf)[0]


def context(angle: Tensor) -> Tensor:
    """What networks see of the angle, (…, 2): it repeats sixty degrees later."""
    return torch.stack([torch.cos(6 * angle), torch.sin(6 * angle)], -1)


class Table(nn.Module):
    """Measured currents at the nodes of a grid of ψ_d, ψ_q and 6θ, with linear interpolation between them."""

    def __init__(self, nodes: tuple[int, int], noise: float) -> None:
        super().__init__()
        across, around = nodes
        line, turn = torch.linspace(-1, 1, across), 2 * math.pi * torch.arange(around + 1) / around
        flux = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).expand(around + 1, -1, -1, -1)
        values = currents(FLUX * flux, turn.view(-1, 1, 1).expand(-1, across, across) / 6) / CURRENT
        values = values + noise * torch.randn_like(values)
        values[-1] = values[0]  # the same node
        self.numbers = values[:-1].numel()
        self.register_buffer("values", values.permute(3, 0, 1, 2).unsqueeze(0))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        turn = torch.atan2(c[..., 1], c[..., 0]).remainder(2 * math.pi) / math.pi - 1
        place = torch.stack([x[..., 1], x[..., 0], turn], -1).view(1, -1, 1, 1, 3)
        values: Any = self.values
        found = nn.functional.grid_sample(values, place, align_corners=True, padding_mode="border")
        return found.view(2, -1).T.reshape(x.shape)


class Perceptron(nn.Module):
    """Currents that need not be a gradient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = mlp((4, width, width, 2), nn.SiLU)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        f: Tensor = self.layers(torch.cat([x, c], -1))
        return f


LEARNED: dict[str, Callable[[int], nn.Module]] = {
    "mGradNetM, 3 modules": lambda h: gradnets_fast.Conditional(gradnets_fast.mGradNetM(3, 4, h, linear="psd"), 2),
    "mGradNetC, 3 layers": lambda h: gradnets_fast.Conditional(gradnets_fast.mGradNetC(3, 4, h, linear="psd"), 2),
    "MLP": Perceptron,
}
TABLES = {"table of as many bytes": (7, 6), "table, 33 × 33 × 24": (33, 24)}
"""By name: how many nodes across each flux, and around sixty degrees."""


def cases(settings: Settings) -> Sequence[Case]:
    """Every network and table."""
    return [{"network": name, "seed": seed} for name in (*LEARNED, *TABLES) for seed in range(settings["seeds"])]


def run(case: Case, settings: Settings) -> Row:
    """Learn the map from noisy measurements, invert it, and print and compile it where it can be."""
    name, noise = case["network"], settings["noise"]
    net: Any
    if name in TABLES:
        net = Table(TABLES[name], noise)
        row: Row = {"bytes": 4 * net.numbers, "measurements": net.numbers // 2}
    else:
        net = sized(LEARNED[name], settings["parameters"])
        x, angle = _drawn(settings["measurements"])
        i = currents(FLUX * x, angle) / CURRENT
        i, c = i + noise * torch.randn_like(i), context(angle)

        def loss() -> Tensor:
            chosen = torch.randint(len(x), (settings["batch"],))
            error: Tensor = net(x[chosen], c[chosen]) - i[chosen]
            return error.square().mean()

        row = {"step_ms": trained(net, loss, settings["steps"], settings["rate"]), "bytes": 4 * parameters(net)}
        row["measurements"] = settings["measurements"]
    x, angle = _drawn(settings["test"])
    c, exact = context(angle), currents(FLUX * x, angle) / CURRENT
    with torch.no_grad():
        found = net(x, c)
    J = jacobians(lambda x: net(x, c), x)
    row["error"], row["most"] = relative(found, exact), float((found - exact).norm(dim=1).max()) * CURRENT
    row["asymmetry"] = float(((J[:, 0, 1] - J[:, 1, 0]).abs() / J.norm(dim=(1, 2))).mean())
    row["negative"] = float((torch.linalg.eigvalsh((J + J.mT) / 2)[:, 0] <= 0).float().mean())
    return row | _inverse(net, settings) | (_compiled(net, x, c) if isinstance(net, gradnets_fast.Conditional) else {})


def _drawn(count: int) -> tuple[Tensor, Tensor]:
    """Fluxes over `FLUX`, uniform on the square, and angles of the rotor."""
    return 2 * torch.rand(count, 2) - 1, 2 * math.pi * torch.rand(count)


def _inverse(net: Any, settings: Settings) -> Row:
    """Fluxes from currents at several angles: their errors, how many are found, and the microseconds of one."""
    errors, solved, spent = [], [], []
    for angle in 2 * math.pi * torch.arange(settings["angles"]) / settings["angles"] / 6 + 0.05:
        x, c = 0.9 * _drawn(settings["inverted"])[0], context(angle)  # away from the tables' ends
        i = currents(FLUX * x, angle.expand(len(x))) / CURRENT
        start = time.perf_counter()
        if isinstance(net, gradnets_fast.Conditional):
            found = convex.inverse(net.at(c), i).x.detach()
        else:
            found = newton(_at(net, c), i)
        spent.append(1e6 * (time.perf_counter() - start) / len(x))
        with torch.no_grad():
            right = (_at(net, c)(found) - i).norm(dim=1) < 1e-4
        errors.append((found - x).norm(dim=1)[right])
        solved.append(right)
    root = torch.cat(errors).square().mean().sqrt()
    share = float(torch.cat(solved).float().mean())
    return {"flux_error": float(root) * FLUX * 1e3, "solved": share, "inverse_us": statistics.median(spent)}


def _at(net: nn.Module, c: Tensor) -> Map:
    """The map of the fluxes for one angle."""
    return lambda x: net(x, c.expand(len(x), 2))


def _compiled(net: Any, x: Tensor, c: Tensor) -> Row:
    """The network as a C file, compiled: its errors beside the network, and the nanoseconds of a call."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "flux.c", Path(folder) / "flux.so"
        to_c(net.net, source, name="flux")
        loop = "void flux_all(const real *x, real *f, int n) {\n    for (int i = 0; i < n; ++i)\n"
        source.write_text(
            source.read_text("utf-8") + f"\n{loop}        flux_gradient(x + 4 * i, f + 4 * i);\n}}\n", "utf-8"
        )
        at = Path(folder) / "at.c"
        to_c(net.at(c[0]), at, name="at")
        command = [compiler, "-std=c99", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), str(at), "-lm"]
        subprocess.run(command, check=True, capture_output=True)
        code = ctypes.CDLL(str(library))
        joint, f = torch.cat([x, c], -1), torch.empty(len(x), 4)
        spent = []
        for _ in range(9):
            start = time.perf_counter()
            code.flux_all(_pointer(joint), _pointer(f), len(x))
            spent.append(1e9 * (time.perf_counter() - start) / len(x))
        y, steps = torch.zeros(2), ctypes.c_float(1e-5)
        with torch.no_grad():
            wanted, alone = x[0], net.at(c[0])(x[:1])[0]
            code.at_inverse(_pointer(alone), _pointer(y), steps, 50)
            difference = float((f[:, :2] - net(x, c)).abs().max())
    return {"c_difference": difference, "c_inverse": float((y - wanted).abs().max()), "c_ns": statistics.median(spent)}


def _pointer(t: Tensor) -> Any:
    return ctypes.cast(t.data_ptr(), ctypes.POINTER(ctypes.c_float))


def table(rows: Sequence[Row]) -> str:
    """A line for each network and table."""
    columns = {
        "error": "error of i, %",
        "most": "largest, A",
        "asymmetry": "asymmetry, %",
        "negative": "not monotone, %",
        "flux_error": "error of ψ(i), mVs",
        "solved": "solved, %",
        "inverse_us": "inverse, µs",
        "c_ns": "compiled, ns",
    }
    percent = {"error", "asymmetry", "negative", "solved"}
    lines = []
    for (name,), of in grouped(rows, "network").items():
        numbers = [[row.get(key) for row in of] for key in columns]
        texts = [
            of_seeds([100 * v if v is not None and key in percent else v for v in values])
            for key, values in zip(columns, numbers)
        ]
        lines.append([name, str(of[0]["bytes"]), str(of[0]["measurements"]), *texts])
    compared = [row for row in rows if "c_difference" in row]
    note = ""
    if compared:
        most, inverse = (max(row[key] for row in compared) for key in ("c_difference", "c_inverse"))
        differ = f"{most * CURRENT:.1e} A at most, their inverses by {inverse * FLUX * 1e3:.1e} mVs"
        note = f"  C and network differ by {differ}."
    return markdown(["map", "bytes", "measurements", *columns.values()], lines) + (
        "\n\nMeasurements: a network learns from points drawn at random, a table has one at each of its nodes.  Error "
        "of i: relative; of ψ(i): of the points that were solved, to a residual below 1e-4.  Asymmetry: "
        "|∂i_d/∂ψ_q − ∂i_q/∂ψ_d| over the norm of the Jacobian, mean; not "
        "monotone: at how many points the Jacobian has an eigenvalue of 0 or less.  The inverse is of one point of a "
        f"batch, in Python; compiled is i of one point, in C.{note}  Mean of the seeds (least – largest)."
    )


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The machine's map: currents over the fluxes, and over the angle."""
    from matplotlib.figure import Figure

    line, angles = torch.linspace(-FLUX, FLUX, 61), torch.linspace(0, 2 * math.pi / 6, 61)
    grid = torch.cartesian_prod(line, line)
    i = currents(grid, torch.zeros(len(grid))).view(61, 61, 2)
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, k, name in ((left, 0, "i_d"), (middle, 1, "i_q")):
        drawn = axes.contourf(1e3 * line, 1e3 * line, i[..., k].T, levels=16, cmap="viridis")
        axes.set(title=f"${name}$ in A, θ = 0", xlabel="$ψ_d$ in mVs", ylabel="$ψ_q$ in mVs", aspect="equal")
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    around = currents(torch.tensor([0.08, 0.05]).expand(61, 2), angles)
    for k, (name, colour) in enumerate((("i_d", "#1b6b93"), ("i_q", "#c1440e"))):
        right.plot(torch.rad2deg(angles), around[:, k], color=colour, label=f"${name}$")
    right.set(title="A at (80, 50) mVs", xlabel="electrical angle, degrees")
    right.legend(frameon=False)
    return {"machine": figure}


EXPERIMENT = Experiment(
    name="machine",
    title="Flux-to-current maps of an electric machine by monotone networks, a plain one and look-up tables.",
    source="a synthetic machine, whose energy is in the experiment; arXiv 2404.07361 for the networks",
    settings={
        "measurements": 3000,
        "noise": 2e-3,
        "parameters": 600,
        "batch": 200,
        "steps": 5000,
        "rate": 2e-2,
        "test": 4000,
        "angles": 12,
        "inverted": 500,
        "seeds": 3,
    },
    quick={"measurements": 500, "steps": 60, "test": 200, "angles": 2, "inverted": 20, "seeds": 1},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
