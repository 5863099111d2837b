"""What the experiments share: networks of one number of parameters, the same training for all, and their numbers."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .measures import jacobians, parameters
from .peers import Map, mlp


def sized(make: Callable[[int], nn.Module], budget: int) -> Any:
    """The network of the width whose number of parameters is nearest to the budget.

    >>> parameters(sized(lambda width: nn.Linear(2, width), 100))
    99
    """
    width = 1
    while parameters(make(2 * width)) < budget:
        width *= 2
    nearest = min(range(width, 2 * width + 1), key=lambda w: abs(parameters(make(w)) - budget))
    return make(nearest)


class Residual(nn.Module):
    """x plus or minus a perceptron, which begins as x alone."""

    def __init__(self, d: int, width: int, sign: float = 1.0) -> None:
        super().__init__()
        self.layers, self.sign = mlp((d, width, width, d), nn.SiLU), sign
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = x + self.sign * self.layers(x)
        return f


def trained(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> float:
    """Steps of Adam whose rate falls to 0 along a cosine; the median milliseconds of a step."""
    optimizer = torch.optim.Adam(net.parameters(), rate, fused=True)
    spent = []
    for step in range(steps):
        start = time.perf_counter()
        optimizer.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        spent.append(time.perf_counter() - start)
    return 1e3 * statistics.median(spent)


def newton(f: Map, y: Tensor, tolerance: float = 1e-6) -> Tensor:
    """f(x) = y by Newton steps that are halved until the residual falls, of a map without the package's solver.

    It ends where all residuals are below the tolerance, and after 50 steps.
    """
    x = torch.zeros_like(y)
    with torch.no_grad():
        r = f(x) - y
    for _ in range(50):
        if bool((r.norm(dim=1) <= tolerance).all()):
            break
        J = jacobians(f, x)
        with torch.no_grad():
            step = (torch.linalg.pinv(J) @ r.unsqueeze(-1)).squeeze(-1)
            length = torch.ones_like(x[:, :1])
            for _ in range(10):
                moved = f(x - length * step) - y
                falls = moved.norm(dim=1) < r.norm(dim=1)
                if bool(falls.all()):
                    break
                length = torch.where(falls.unsqueeze(1), length, length / 2)
            x = x - length * step
            r = f(x) - y
    return x


def relative(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖/‖exact‖, over all points and coordinates."""
    return float((found - exact).norm() / exact.norm())


def significant(value: float | None, digits: int = 2) -> str:
    """A number in so many significant digits, without an exponent between 0.001 and 100,000; a dash for none.

    >>> significant(0.01234), significant(123.4, 3), significant(3.2e-7), significant(None)
    ('0.012', '123', '3.2e-07', '–')
    """
    if value is None:
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5 and math.isfinite(value):
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0
    return f"{value:.{places}f}"


def of_seeds(values: Sequence[float | None], digits: int = 2) -> str:
    """The mean of the seeds, and where there are several in brackets the least and the largest."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = significant(statistics.mean(known), digits)
    ends = f" ({significant(min(known), digits)} – {significant(max(known), digits)})"
    return mean + (ends if len(known) > 1 and max(known) > 0 else "")


def grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows of each combination of these keys, in the order of their first row."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["network", "error"], [["MLP", "0.1"]]))
    | network | error |
    |---|---|
    | MLP | 0.1 |
    """
    rule = "|" + "---|" * len(header)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])
