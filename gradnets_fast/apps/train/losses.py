"""The losses that training minimises, and the error that it reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import nn
from ...fitting._steps import Batch, squared_error
from .ranks import Ranks
from .settings import PRECISIONS

Loss = Callable[[Any, Tensor, Tensor, Ranks], "tuple[Tensor, Tensor]"]
"""(network, x, targets, ranks) -> (loss to minimise, error to report), both means over this process's rows."""


def parts_of(x: Tensor, targets: Tensor, fit: str) -> Batch:
    """Points with the gradients (n, d) and the values (n,) that their targets, (n, k), consist of."""
    gradients = None if fit == "potential" else targets[:, : x.shape[1]]
    return Batch(x, gradients, None if fit == "gradient" else targets[:, -1])


def mean_squared_error(f: Tensor, g: Tensor) -> Tensor:
    """Mean over the points of |f − g|²."""
    return (f - g).square().sum(-1).mean()


def decibel(error: float) -> float:
    """10·log10(error), and −∞ for 0."""
    return 10 * math.log10(error) if error > 0 else -math.inf


def squared_loss(network: torch.nn.Module, x: Tensor, g: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The mean of |f − g|², as the loss and as the error."""
    error = mean_squared_error(network(x), g)
    return error, error.detach()


def loss_with_values(fit: str, weights: tuple[float, float]) -> Loss:
    """The loss weights[0]·(mean of |f − ∇F|²) + weights[1]·(mean of (F − values − c)²), of what is fitted.

    c is the mean of F − values over the batch of all processes, as in `gradnets_fast.fit`.
    """

    def loss(network: torch.nn.Module, x: Tensor, targets: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        def mean(error: Tensor) -> Tensor:
            return ranks.mean(error.mean(), len(error))

        joint = squared_error(network, parts_of(x, targets, fit), (weights[0] * x.shape[1], weights[1]), mean)
        return joint, joint.detach()

    return loss


def nearest_module_loss(network: nn.GradNetM, x: Tensor, g: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Σ_i ν_i |f_i − g|² + |f − g|², with ν = softmax_i(−|f_i − g|² / n), as the loss; and |f − g|².

    f_i is module i's gradient with the bias and the linear part; n is the mean over the points of the smallest
    |f_i − g|².  As n falls, ν grows sharp by itself, and each module of a soft maximum fits the points whose gradients
    it is nearest to.  Under |f − g|² alone one module takes all points.  Sharpness and offset, which weigh the modules
    against each other, follow |f − g|² with the modules held fixed.
    """
    common = network.bias if network.linear is None else network.bias + network.linear(x)
    gradients = network.module_gradients(x)
    distances = (gradients + common.unsqueeze(-2) - g.unsqueeze(-2)).square().sum(-1)
    with torch.no_grad():
        nearest = ranks.mean(distances.min(-1).values.mean(), len(x)).clamp(min=torch.finfo(distances.dtype).tiny)
        nearness = (-distances / nearest).softmax(-1)
        potentials = network.module_potentials(x)
    weights = (network.sharpness.exp() * potentials + network.offset).softmax(-1)
    f = (weights.unsqueeze(-1) * gradients.detach()).sum(-2) + common.detach()
    error = mean_squared_error(f, g)
    return (nearness * distances).sum(-1).mean() + error, error.detach()


class Objective(torch.nn.Module):
    """A network's loss as a module, (x, targets) -> (loss, error), which DistributedDataParallel wraps.

    amp: a name in PRECISIONS.
    """

    def __init__(
        self, network: torch.nn.Module, loss: Loss = squared_loss, ranks: Ranks | None = None, amp: str = "float32"
    ) -> None:
        super().__init__()
        self.network, self.loss, self.ranks, self._precision = network, loss, ranks or Ranks(), PRECISIONS[amp]

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at this process's rows."""
        with torch.autocast(x.device.type, self._precision, enabled=self._precision is not None):
            return self.loss(self.network, x, targets, self.ranks)
