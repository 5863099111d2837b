"""The loop of `fit`: minibatches, the learning rate's schedule, the error of points held out, progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_positive, check_positive_number, check_tensor, message
from ..nn.base import GradNet
from ._graph import GraphStep, why_no_graph
from ._steps import AutogradStep, Batch, KernelStep, rate_at, squared_error, why_not_kernels

SCHEDULES = ("cosine", "constant")
_EPOCHS = 200
_GATHERED = 2**20
"""Values of points that are brought into an epoch's order at once."""
_EVERY = 100
"""Steps between two looks at the losses, or as many as an epoch has where that is more."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What `fit` did: its losses, and how it ended.

    Attributes:
        losses: the loss of each step's minibatch, before the step, (steps,), on the CPU.
        held_out: (step, loss of the points held out after that step), in order; empty where none were.
        steps: how many steps were made.
        stopped: "steps" where all that were asked for were made, "early" where the points held out ended it.
        way: "kernels" where a step was one call of kernels, "graph" where it was one launch of a CUDA graph, else
            "autograd: " and the reason.

    >>> import torch, gradnets_fast
    >>> x = torch.randn(100, 2)
    >>> result = gradnets_fast.fit(gradnets_fast.RidgeGradNet(2, 8), x, gradients=x.sin(), steps=20)
    >>> result.losses.shape, result.steps, result.stopped, result.held_out
    (torch.Size([20]), 20, 'steps', [])
    """

    losses: Tensor
    held_out: list[tuple[int, float]]
    steps: int
    stopped: str
    way: str


def fit(
    net: nn.Module,
    x: Tensor,
    gradients: Tensor | None = None,
    values: Tensor | None = None,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    steps: int | None = None,
    batch_size: int = 1000,
    learning_rate: float = 1e-2,
    schedule: str = "cosine",
    held_out: float = 0.0,
    patience: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Fit:
    """Train a network on gradients of a function, on its values, or on both, by Adam.

    Of `RidgeGradNet`, `GradNetC`, `GradNetM`, `DeepGradNet` and their monotone kin with a fixed activation, fitted to
    gradients on the CPU in float32 or float64, f, the loss and all gradients of a step are one call of kernels, without
    autograd.
    Everything else takes the way of PyTorch, with the same result up to rounding, as do networks with a linear part,
    hooks, parametrizations, frozen or shared parameters; on a GPU a step of a network of this package is then recorded
    as a CUDA graph.  `Fit.way` says which way it was.

    Equivalent to, for gradients:
        optimizer = torch.optim.Adam(net.parameters())
        for step, rows in enumerate(minibatches):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x[rows]), gradients[rows]).backward()
            optimizer.step()
    With values, (net.potential(x[rows]) - values[rows]).var(correction=0) takes its place or, with both, is added: the
    values are those of a potential up to a constant, and a batch of one point says nothing of it.

    Args:
        net: any module of points; with values one with `potential` and `value_and_gradient`, as `GradNet` has them.
        x: the points.
        gradients, values: the targets, of which one may be missing.
        weights: factors of the losses of gradients and of values.
        steps: how many steps of Adam; None for 200 epochs.
        batch_size: points of a step; each epoch goes through all of them in a new order.
        learning_rate: of the first step.
        schedule: "cosine", which falls to 0 at the last step, or "constant".
        held_out: the part of the points, in [0, 1), that is not trained on.  Every epoch, and at least 100 steps, the
            loss there is taken, and the network is left with the parameters of the smallest one.
        patience: after how many such losses without a new smallest one training stops.
        seed: of the order of the points.
        progress: whether a run of more than two seconds says on stderr how far it is.

    Returns:
        Losses, steps and how it ended, as a `Fit`.  The parameters have no gradients afterwards.  If the loop is
        interrupted, the network keeps the parameters of its last step; in any case its modules are in training mode
        during it, and as they were after it.

    Shapes: x (n, d), or images (n, C, n_1, …); gradients as x; values (n,).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix, before the first step.
        ArithmeticError: a loss is not finite.

    >>> import torch, gradnets_fast
    >>> _ = torch.manual_seed(0)
    >>> net, x = gradnets_fast.mGradNetC(num_layers=2, in_dim=2, embed_dim=8), torch.randn(500, 2)
    >>> result = gradnets_fast.fit(net, x, gradients=x.tanh(), steps=300, batch_size=100, progress=False)
    >>> result.steps, result.stopped, bool(result.losses[-1] < result.losses[0] / 10)
    (300, 'steps', True)
    """
    data = _checked(net, x, gradients, values)
    check_choice("fit", "schedule", schedule, SCHEDULES)
    for name, number in (("batch_size", batch_size), ("patience", patience), ("steps", 1 if steps is None else steps)):
        check_positive("fit", name, number)
    check_positive_number("fit", "learning_rate", learning_rate)
    if not isinstance(seed, Integral):
        raise TypeError(message("fit", "seed", "an integer", repr(seed), "pass for example seed=0"))
    if not isinstance(weights, Sequence) or len(weights) != 2:
        fix = "pass for example weights=(1.0, 1.0)"
        raise ValueError(message("fit", "weights", "two numbers, of gradients and of values", repr(weights), fix))
    for weight in weights:
        check_positive_number("fit", "weights", weight)
    count = len(x) - _held(held_out, len(x))
    generator = torch.Generator().manual_seed(int(seed))
    rows = torch.randperm(len(x), generator=generator) if count < len(x) else None
    epoch = -(-count // batch_size)
    steps = _EPOCHS * epoch if steps is None else steps
    why_not = why_not_kernels(net, data)
    with _training(net), torch.no_grad():
        step: AutogradStep | KernelStep
        if why_not is None:
            step, way = KernelStep(_gradnet(net), weights[0]), "kernels"
        elif why_no_graph(net, data) is None:
            step, way = GraphStep(net, _objective(net, weights)), "graph"
        else:
            step, way = AutogradStep(net, _objective(net, weights)), f"autograd: {why_not}"
        held = None if rows is None else _rows(data, rows[count:])
        watch = _Watch(net, held, weights, patience, max(epoch, _EVERY), steps, progress, x)
        minibatches = _minibatches(data, None if rows is None else rows[:count], batch_size, generator)
        made = 0
        try:
            for made, minibatch in zip(range(1, steps + 1), minibatches):
                rate = rate_at(made - 1, steps, learning_rate, schedule)
                step(minibatch, watch.losses[made - 1 : made], rate)
                if (made % watch.every == 0 or made == steps) and watch.ends(made, step):
                    break
        finally:
            step.store()
            watch.close()
        watch.restore_best()
    if isinstance(step, GraphStep) and step.refusal is not None:
        way = f"autograd: no graph could be recorded: {step.refusal}"
    return Fit(watch.losses[:made].cpu(), watch.held_out, made, watch.stopped, way)


def _checked(net: nn.Module, x: Tensor, gradients: Tensor | None, values: Tensor | None) -> Batch:
    """Return the data, detached and contiguous."""
    if not isinstance(net, nn.Module):
        fix = "pass for example gradnets_fast.mGradNetC(4, 2, 64)"
        raise TypeError(message("fit", "net", "a torch.nn.Module", type(net).__name__, fix))
    if not any(p.requires_grad for p in net.parameters()):
        fix = "call net.requires_grad_()"
        raise ValueError(message("fit", "net", "a parameter that requires a gradient", "none", fix))
    if gradients is None and values is None:
        fix = "pass the gradients at the points, or the values there"
        raise ValueError(message("fit", "gradients, values", "one target or both", "neither", fix))
    check_tensor("fit", "x", x)
    if x.dim() < 2 or not len(x):
        fix = "pass points as rows, (n, d)"
        raise ValueError(message("fit", "x", "shape (n, d) with n > 0", f"shape {tuple(x.shape)}", fix))
    if values is not None and not hasattr(net, "potential"):
        fix = "pass a network of gradnets_fast, or gradients alone"
        raise TypeError(message("fit", "net", "a module with potential, for values", type(net).__name__, fix))
    for name, target, shape in (("gradients", gradients, x.shape), ("values", values, x.shape[:1])):
        if target is None:
            continue
        check_tensor("fit", name, target)
        if target.shape != shape:
            fix = f"pass one of {'them' if name == 'values' else 'the shape of x'} for each point"
            raise ValueError(message("fit", name, f"shape {tuple(shape)}", f"shape {tuple(target.shape)}", fix))
        if target.dtype != x.dtype or target.device != x.device:
            got, fix = f"{target.dtype} on {target.device}", f"convert it, for example {name}.to(x)"
            raise TypeError(message("fit", name, f"{x.dtype} on {x.device} like x", got, fix))
    return Batch(x, gradients, values).each(lambda t: t.detach().contiguous())


def _objective(net: nn.Module, weights: tuple[float, float]) -> Callable[..., tuple[Tensor, Tensor]]:
    def objective(*batch: Any) -> tuple[Tensor, Tensor]:
        loss = squared_error(net, Batch(*batch), weights)
        return loss, loss

    return objective


def _gradnet(net: nn.Module) -> GradNet:
    assert isinstance(net, GradNet)
    return net


def _held(part: float, count: int) -> int:
    """Return how many points are held out."""
    if not isinstance(part, (int, float)) or isinstance(part, bool) or not 0 <= part < 1:
        raise ValueError(message("fit", "held_out", "a number in [0, 1)", repr(part), "pass for example held_out=0.1"))
    held = round(part * count) if part else 0
    if part and not 0 < held < count:
        fix = "pass more points, or another held_out"
        raise ValueError(message("fit", "held_out", "a part of at least one point", f"{held} of {count}", fix))
    return held


def _rows(data: Batch, rows: Tensor) -> Batch:
    return data.each(lambda t: t[rows.to(t.device)])


def _minibatches(data: Batch, rows: Tensor | None, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield minibatches of these rows, or of all, without end."""
    count = len(data.x) if rows is None else len(rows)
    if size >= count:
        whole = data if rows is None else _rows(data, rows)
        while True:
            yield whole
    piece = size * max(1, _GATHERED // (size * data.x[0].numel()))
    while True:
        order = torch.randperm(count, generator=generator)
        for part in (order if rows is None else rows[order]).split(piece):
            gathered = _rows(data, part)
            for first in range(0, len(part), size):
                yield gathered.each(itemgetter(slice(first, first + size)))


@contextmanager
def _training(net: nn.Module) -> Iterator[None]:
    """Inside, all modules are in training mode; afterwards in the mode that each was in."""
    modes = {module: module.training for module in net.modules()}
    net.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass
class _Watch:
    """The losses so far, and the looks at them: whether they are finite, those of the points held out, progress."""

    net: nn.Module
    held: Batch | None
    weights: tuple[float, float]
    patience: int
    every: int
    steps: int
    progress: bool
    like: Tensor
    held_out: list[tuple[int, float]] = field(default_factory=list)
    stopped: str = "steps"

    def __post_init__(self) -> None:
        dtype = torch.float64 if self.like.dtype == torch.float64 else torch.float32
        self.losses = torch.empty(self.steps, dtype=dtype, device=self.like.device)
        self._seen, self._best = 0, math.inf
        self._kept: list[Tensor] = []
        self._began = self._said = time.monotonic()
        self._has_said = False

    def ends(self, made: int, step: AutogradStep | KernelStep) -> bool:
        """Look at the losses after a step; return whether training ends early.

        Raises:
            ArithmeticError: a loss is not finite.
        """
        finite = self.losses[self._seen : made].isfinite()
        if not bool(finite.all()):
            first = self._seen + int(finite.logical_not().nonzero()[0]) + 1
            got, fix = float(self.losses[first - 1]), "lower learning_rate"
            raise ArithmeticError(message("fit", f"loss of step {first}", "a finite number", got, fix))
        self._seen = made
        if self.progress:
            self._say(made)
        return self.held is not None and self._held_loss_ends(made, self.held, step)

    def _held_loss_ends(self, made: int, held: Batch, step: AutogradStep | KernelStep) -> bool:
        step.store()
        with _evaluation(self.net):
            loss = float(squared_error(self.net, held, self.weights))
        self.held_out.append((made, loss))
        if loss < self._best:
            self._best, self._kept = loss, [t.detach().clone() for t in self._state()]
        smallest = min(range(len(self.held_out)), key=lambda i: self.held_out[i][1])
        if len(self.held_out) - 1 - smallest >= self.patience and made < self.steps:
            self.stopped = "early"
        return self.stopped == "early"

    def _state(self) -> list[Tensor]:
        return [*self.net.parameters(), *self.net.buffers()]

    def restore_best(self) -> None:
        """Give the network the parameters and buffers of the smallest loss of points held out, if there were some."""
        for tensor, kept in zip(self._state(), self._kept):
            tensor.copy_(kept)

    def _say(self, made: int) -> None:
        now = time.monotonic()
        if now - self._began < 2 or now - self._said < 0.5:
            return
        left = (now - self._began) * (self.steps - made) / made
        held = f", {self.held_out[-1][1]:.3g} held out" if self.held_out else ""
        line = f"fit: step {made} of {self.steps}, loss {float(self.losses[made - 1]):.3g}{held}, {left:.0f} s left"
        print(f"\r{line:<79}", end="", file=sys.stderr, flush=True)
        self._said, self._has_said = now, True

    def close(self) -> None:
        """End the line of progress, if there is one."""
        if self._has_said:
            print(file=sys.stderr)


@contextmanager
def _evaluation(net: nn.Module) -> Iterator[None]:
    net.eval()
    try:
        yield
    finally:
        net.train()
