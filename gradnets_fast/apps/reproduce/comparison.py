"""Contenders trained by turns on the same batches: errors after the same number of steps, and the time of a step.

The first two contenders are an energy by autograd and the same energy by kernels.  They begin with equal weights and
are the same function: the losses of their first steps are compared before anything is timed.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradnets_fast import gradient_of

from ..readable import duration, times
from .experiment import Row
from .peers import ByAutograd

AUTOGRAD, KERNELS = "energy, autograd", "energy, gradnets_fast"
ROUND = 20
"""Steps that a contender makes before it is another's turn."""
FIRST_STEPS, TOLERANCE = 10, 1e-5
"""How many losses by autograd and by kernels are compared, and by how much they may differ, for rounding's sake."""


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        contenders: networks by name; the first two are the same energy.
        loss: (network, *batch) -> the loss to minimise.
        batch: draws a batch.
        errors: network -> its errors after training, by name.
        shown: network -> what a figure needs of it, JSON values.
    """

    contenders: dict[str, nn.Module]
    loss: Callable[..., Tensor]
    batch: Callable[[], tuple[Tensor, ...]]
    errors: Callable[[Any], dict[str, float]]
    shown: Callable[[Any], Row] = lambda net: {}


@dataclass(frozen=True)
class Training:
    """Adam, whose rate falls to 0 along a cosine if `falls`, with the gradient's norm cut at `clip`."""

    steps: int
    rate: float
    falls: bool = True
    clip: float | None = None

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rate * (0.5 + 0.5 * math.cos(math.pi * step / self.steps)) if self.falls else self.rate


@dataclass
class _Run:
    """A network in training, with the losses of its steps and the milliseconds per step of its turns."""

    module: nn.Module
    loss: Callable[..., Tensor]
    training: Training
    losses: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = list(self.module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, self.training.rate, fused=True)

    def turn(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """A step for each batch."""
        start = time.perf_counter()
        for batch in batches:
            self.optimizer.param_groups[0]["lr"] = self.training.rate_at(len(self.losses))
            self.optimizer.zero_grad()
            loss = self.loss(self.module, *batch)
            loss.backward()
            if self.training.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
            self.optimizer.step()
            self.losses.append(loss.item())
        self.milliseconds.append(1e3 * (time.perf_counter() - start) / len(batches))


def same_energy(energy: nn.Module) -> dict[str, nn.Module]:
    """An energy's gradient by autograd, and by kernels on a copy of its parameters."""
    return {AUTOGRAD: ByAutograd(energy), KERNELS: gradient_of(copy.deepcopy(energy))}


def squared_error(net: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """The mean of (f − g)² over points and coordinates."""
    error: Tensor = (net(x) - g).square().mean()
    return error


def first_steps(task: Task, training: Training) -> float:
    """The largest relative difference of the losses by autograd and by kernels, in the first steps.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    batches = [task.batch() for _ in range(FIRST_STEPS)]
    runs = [_Run(module, task.loss, training) for module in [*task.contenders.values()][:2]]
    for run in runs:
        run.turn(batches)
    difference: float = max(abs(a - b) / abs(a) for a, b in zip(*(run.losses for run in runs)))
    if not difference <= TOLERANCE:
        raise RuntimeError(f"losses by autograd and by kernels differ by {difference:.1e} in {FIRST_STEPS} steps")
    return difference


def train(task: Task, training: Training) -> dict[str, _Run]:
    """Trains every contender, by turns."""
    runs = {name: _Run(module, task.loss, training) for name, module in task.contenders.items()}
    for start in range(0, training.steps, ROUND):
        batches = [task.batch() for _ in range(min(ROUND, training.steps - start))]
        for run in runs.values():
            run.turn(batches)
    return runs


def compared(make: Callable[[], Task], training: Training) -> Row:
    """Each contender's errors, its time per step, and how many times that of the kernels; make: gives equal tasks."""
    difference = first_steps(make(), training)
    task = make()
    runs = train(task, training)
    own = [*runs.values()][1].milliseconds
    found = {
        name: {
            "parameters": sum(p.numel() for p in run.parameters),
            "errors": task.errors(run.module),
            "step_ms": statistics.median(run.milliseconds),
            "of_ours": statistics.median(theirs / mine for theirs, mine in zip(run.milliseconds, own)),
            **task.shown(run.module),
        }
        for name, run in runs.items()
    }
    return {"first_losses_differ_by": difference, "contenders": found}


def of_contender(rows: Sequence[Row], name: str) -> list[Row]:
    """What was found of one contender in all seeds."""
    return [row["contenders"][name] for row in rows if name in row["contenders"]]


def table(rows: Sequence[Row], by: str | None = None) -> str:
    """Errors of each seed, and the median time of a step over that of the kernels, for each value of the entry `by`."""
    quantities = list(dict.fromkeys(q for row in rows for one in row["contenders"].values() for q in one["errors"]))
    heads = [*([by] if by else []), "network", "parameters", *quantities, "a step, over gradnets_fast's"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for value in dict.fromkeys(row[by] if by else None for row in rows):
        of_value = [row for row in rows if by is None or row[by] == value]
        for k, name in enumerate(of_value[0]["contenders"]):
            found = of_contender(of_value, name)
            errors = (
                ", ".join(f"{one['errors'][q]:.2g}" if q in one["errors"] else "–" for one in found) for q in quantities
            )
            spent, ratio = (statistics.median(one[key] for one in found) for key in ("step_ms", "of_ours"))
            cells = [*([str(value)] if by else []), name, str(found[0]["parameters"]), *errors]
            lines.append(f"| {' | '.join([*cells, duration(spent) if k == 1 else times(ratio)])} |")
    return "\n".join(lines)
