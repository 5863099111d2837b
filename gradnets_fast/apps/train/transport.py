"""Optimal transport by the gradient of a convex potential: its data and its losses.

Between Gaussians the density of both ends is known, and the loss is that of the Monge–Ampère equation.  Between samples
it is that of Kantorovich's dual, whose conjugate the inverse map evaluates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...convex import inverse
from ...errors import message
from ...nn import GradNet
from ...nn.initial import init_gaussian_map_, init_identity_
from ..memory import check_memory
from .columns import check_numbers, readable, store
from .problem import InMemory, Problem
from .ranks import Ranks, device_of
from .settings import Settings
from .shards import import_extra, read_array

TEST_POINTS = 10_000
_TEST_FRACTION = 0.1
_FORMATS = (".csv", ".parquet", ".npz", ".npy")


@dataclass
class TransportProblem(Problem):
    """The data of a transport: test_x are points of the source, test_y of the target.

    Attributes:
        test_y: (m, d).
        test_g: where the optimal map carries test_x; (0, d) if that is not known.
        start: initialises the network.
    """

    test_y: Tensor
    start: Callable[[GradNet], None]


def make_transport(settings: Settings, ranks: Ranks) -> TransportProblem:
    """The source and the target that the settings name: a Gaussian and the standard normal one, or two files."""
    return _of_gaussians(settings, ranks) if settings.data is None else _of_samples(settings, ranks)


def _of_gaussians(settings: Settings, ranks: Ranks) -> TransportProblem:
    """A Gaussian, its covariance of the Wishart distribution with d + 1 degrees of freedom; batches are x and log p."""
    d = 2 if settings.dim is None else settings.dim
    check_memory("train", "samples", 16 * d * settings.samples, "lower --samples")
    generator = torch.Generator().manual_seed(settings.seed)
    factor = torch.randn(d + 1, d, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    root, optimal = (((vectors * values**power) @ vectors.T).float() for power in (0.5, -0.5))
    z = torch.randn(settings.samples + TEST_POINTS, d, generator=generator)
    x, log_p = z @ root, -(z.square().sum(-1, keepdim=True) + values.log().sum().float()) / 2
    x, log_p, optimal, z = (t.to(device_of(settings.device)) for t in (x, log_p, optimal, z))
    train, test = x[TEST_POINTS:], x[:TEST_POINTS]
    source = InMemory(train, log_p[TEST_POINTS:], settings, ranks)
    target = torch.randn(TEST_POINTS, d, generator=generator).to(x.device)
    label = f"a Gaussian to the standard normal one, d = {d}"
    return TransportProblem(source, test, test @ optimal, train.mean(0), None, label, target, init_identity_)


def _of_samples(settings: Settings, ranks: Ranks) -> TransportProblem:
    """Two files of points, a tenth of each for the test; a batch is x and y, whose pairing means nothing."""
    assert settings.data is not None
    assert settings.target is not None
    generator = torch.Generator().manual_seed(settings.seed)
    ends = []
    for path in (settings.data, settings.target):
        points = load_points(Path(path))
        if len(points) < 2:
            raise ValueError(message("train", path, "at least 2 rows, to test on some", len(points), "give more"))
        ends.append(points[torch.randperm(len(points), generator=generator)].to(device_of(settings.device)))
    (x, y), dims = ends, [points.shape[1] for points in ends]
    if dims[0] != dims[1] or settings.dim not in (None, dims[0]):
        expected, fix = f"d = {settings.dim or dims[0]}, of source and target", "give points of one dimension"
        raise ValueError(message("train", settings.target, expected, f"{dims[0]} and {dims[1]}", fix))
    held = [max(1, int(len(points) * _TEST_FRACTION)) for points in (x, y)]
    test_x, test_y, x, y = x[: held[0]], y[: held[1]], x[held[0] :], y[held[1] :]
    count = torch.arange(max(len(x), len(y)), device=x.device)
    source = InMemory(x[count % len(x)], y[count % len(y)], settings, ranks)
    label = f"{Path(settings.data).name} to {Path(settings.target).name}"

    def start(net: GradNet) -> None:
        init_gaussian_map_(net, x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))

    return TransportProblem(source, test_x, test_x[:0], x.mean(0), None, label, test_y, start)


def load_points(path: Path) -> Tensor:
    """Read points, (n, d), float32: columns x0 … of CSV or Parquet, the array x of NPZ, or the one array of NPY.

    Raises:
        FileNotFoundError, ValueError: naming the file, and the column and row at fault.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        fix = "convert the file"
        raise ValueError(message("data", str(path), "a file ending in " + ", ".join(_FORMATS), repr(suffix), fix))
    if not path.is_file():
        raise FileNotFoundError(message("data", str(path), "an existing file", "none", "check the path"))
    check_memory("data", str(path), 3 * path.stat().st_size, "give fewer points")
    with readable(path):
        names, values = _of_table(path) if suffix in (".csv", ".parquet") else _of_array(path)
    if values.ndim != 2 or 0 in values.shape:
        fix = "give a row for each point, and columns x0, x1, …"
        raise ValueError(message("data", str(path), "points (n, d)", f"shape {values.shape}", fix))
    check_numbers(str(path), values.dtype)
    out = np.empty(values.shape, np.float32)
    store(out, values, str(path), names or [f"x[:, {i}]" for i in range(values.shape[1])], 0)
    return torch.from_numpy(out)


def _of_array(path: Path) -> tuple[list[str], np.ndarray]:
    return [], read_array(path, None if path.suffix.lower() == ".npy" else "x")


def _of_table(path: Path) -> tuple[list[str], np.ndarray]:
    """The names x0 … x{d−1} that a table has, and these columns, (n, d)."""
    if path.suffix.lower() == ".csv":
        table = import_extra("pyarrow.csv").read_csv(path)
    else:
        table = import_extra("pyarrow.parquet").read_table(path)
    dim = 0
    while f"x{dim}" in table.column_names:
        dim += 1
    names = [f"x{i}" for i in range(dim)]
    columns = [table.column(name).to_numpy() for name in names]
    return names, np.stack(columns, 1) if columns else np.empty((len(table), 0))


def monge_ampere_loss(network: GradNet, x: Tensor, log_p: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The mean of |log det J(x) − log p(x) + log q(f(x))|, q standard normal, both up to the constant they share.

    log_p is (n, 1).
    """
    log_q = -network(x).square().sum(-1) / 2
    loss = (network.slogdet(x)[1] - log_p.squeeze(-1) + log_q).abs().mean()
    return loss, loss.detach()


def dual_loss(network: GradNet, x: Tensor, y: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The mean over all pairs of F(x) + F*(y) − <x, y> >= 0, which is least where ∇F carries x optimally to y.

    F*(y) = <x̂, y> − F(x̂) with f(x̂) = y, and x̂ maximises it, so that no gradient goes through x̂.
    """
    with torch.no_grad():
        best = inverse(network, y).x
    at_x, at_best = network.potential(torch.cat([x, best])).split(len(x))
    loss = (at_x - at_best + (best * y).sum(-1)).mean() - x.mean(0) @ y.mean(0)
    return loss, loss.detach()
