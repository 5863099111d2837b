"""What the demonstrations share: contenders trained by turns on the same batches, their times, and the result file.

"autograd" and "ours" begin with equal weights and are the same function: the losses of their first steps are compared
before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.deep.autograd import ByAutograd
from bench.environment import RESULTS, ROOT, environment
from gradnets_fast import gradient_of
from gradnets_fast.apps.files import write_json

ROUND = 20
"""Steps that a contender makes before it is another's turn."""
QUICK = 20
"""Steps of a quick run."""
FIRST_STEPS, TOLERANCE = 10, 1e-5
"""How many losses by autograd and by ours are compared, and by how much they may differ, for rounding's sake."""


@dataclass(frozen=True)
class Task:
    """What one seed trains.

    Attributes:
        contenders: networks by name: "autograd", "ours", and others, which tables call by these names.
        loss: (network, *batch) -> the loss to minimise.
        batch: draws a batch.
        errors: network -> its errors after training, by name.
    """

    contenders: dict[str, nn.Module]
    loss: Callable[..., Tensor]
    batch: Callable[[], tuple[Tensor, ...]]
    errors: Callable[[Any], dict[str, float]]


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
    return {"autograd": ByAutograd(energy), "ours": gradient_of(copy.deepcopy(energy))}


def layers(in_dim: int, widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """A multi-layer perceptron with one output."""
    sizes = (in_dim, *widths)
    hidden = [part for before, h in zip(sizes, widths) for part in (nn.Linear(before, h), activation())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))


def squared_error(net: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """The mean of (f − g)² over points and coordinates."""
    return (net(x) - g).square().mean()


def first_steps(task: Task, training: Training) -> float:
    """The largest relative difference of the losses by autograd and by ours, in the first steps.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    batches = [task.batch() for _ in range(FIRST_STEPS)]
    runs = [_Run(task.contenders[name], task.loss, training) for name in ("autograd", "ours")]
    for run in runs:
        run.turn(batches)
    difference = max(abs(a - b) / abs(a) for a, b in zip(*(run.losses for run in runs)))
    if not difference <= TOLERANCE:
        raise RuntimeError(f"losses by autograd and by ours differ by {difference:.1e} in {FIRST_STEPS} steps")
    return difference


def train(task: Task, training: Training) -> dict[str, _Run]:
    """Trains every contender, by turns."""
    runs = {name: _Run(module, task.loss, training) for name, module in task.contenders.items()}
    for start in range(0, training.steps, ROUND):
        batches = [task.batch() for _ in range(min(ROUND, training.steps - start))]
        for run in runs.values():
            run.turn(batches)
    return runs


def compared(make: Callable[[int], Task], training: Training, seeds: int) -> tuple[dict[str, Any], Task]:
    """Each contender's errors, one for each seed, and its time per step; and the last seed's task, trained."""
    contenders: dict[str, dict[str, Any]] = {}
    turns: dict[str, list[float]] = {}
    differences = []
    for seed in range(seeds):
        differences.append(first_steps(make(seed), training))
        task = make(seed)
        for name, run in train(task, training).items():
            entry = contenders.setdefault(name, {"parameters": sum(p.numel() for p in run.parameters), "errors": {}})
            turns.setdefault(name, []).extend(run.milliseconds)
            for quantity, error in task.errors(run.module).items():
                entry["errors"].setdefault(quantity, []).append(error)
                print(f"seed {seed}, {name}, {quantity}: {error:.3g}", flush=True)
            print(f"seed {seed}, {name}, a step: {statistics.median(run.milliseconds):.3g} ms", flush=True)
    for name, entry in contenders.items():
        entry["step_ms"] = statistics.median(turns[name])
        entry["of_ours"] = statistics.median(theirs / own for theirs, own in zip(turns[name], turns["ours"]))
    row = {"training": asdict(training), "first_losses_differ_by": max(differences), "contenders": contenders}
    return row, task


@dataclass(frozen=True)
class Options:
    """A script's command line: how much to train, and where the result file and the picture go."""

    seeds: int
    steps: int
    results: Path
    pictures: Path

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        """The result file."""
        write_json(self.results / f"{name}.json", {"environment": environment(), "rows": rows})


def options(name: str, doc: str | None, steps: int, arguments: Sequence[str] | None) -> Options:
    """The command line that all scripts have; `steps` by default."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.deep.{name}", description=doc)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK} steps")
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    given = parser.parse_args(arguments)
    seeds, steps = (1, QUICK) if given.quick else (given.seeds, given.steps)
    return Options(seeds, steps, given.out or RESULTS / "deep", given.out or ROOT / "docs")
