"""What is measured of all contenders: sizes, Jacobians, times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .peers import Map


def parameters(net: object) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in net.parameters()) if isinstance(net, nn.Module) else 0


def jacobians(f: Map, x: Tensor) -> Tensor:
    """The Jacobians of any map at some points by autograd, (n, d, d)."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        rows = [torch.autograd.grad(part.sum(), leaf, retain_graph=True)[0] for part in f(leaf).unbind(-1)]
    return torch.stack(rows, -2)


def asymmetry(J: Tensor) -> float:
    """The largest |J − Jᵀ| / |J| of some Jacobians, in the Frobenius norm: 0 of a gradient."""
    return float(((J - J.mT).norm(dim=(-2, -1)) / J.norm(dim=(-2, -1))).max())


def negativity(J: Tensor) -> float:
    """How far below 0 an eigenvalue of (J + Jᵀ)/2 is at most, over the largest |eigenvalue|: 0 of a convex potential.

    >>> round(negativity(torch.diag(torch.tensor([2.0, -0.5]))), 3)
    0.25
    """
    values = torch.linalg.eigvalsh((J + J.mT) / 2)
    return float((-values.min(-1).values / values.abs().max(-1).values).max().clamp(min=0))


def milliseconds(calls: Mapping[str, Callable[[], object]], turns: int = 15) -> dict[str, float]:
    """The median time of each call, taken by turns after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + turns):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            spent[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values[1:]) for name, values in spent.items()}
