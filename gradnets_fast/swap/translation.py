"""Translation of checkpoints of 2023, C-MGN and M-MGN, into those of our networks, which compute the same functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]
ONE_BEFORE_SOFTPLUS = math.log(math.e - 1.0)
"""The argument at which softplus is 1."""


def cascade_from_2023(weights: Weights) -> Weights:
    """The mGradNetC of a C-MGN, whose cascade has all weights 1: W (d, h) transposed, V (d, k) as a linear part.

    >>> shapes = {"W": (2, 5), "V": (2, 2), "biases.0": (5,), "bL": (2,)}
    >>> print(*cascade_from_2023({name: torch.zeros(shape) for name, shape in shapes.items()}))
    W bias.1 linear.V bias.0 beta.0 alpha.0
    """
    rest = dict(weights)
    W = rest.pop("W").T
    layers = _count(rest, "biases.{}")
    ours = {"W": W, f"bias.{layers}": rest.pop("bL"), "linear.V": _square(rest.pop("V").T)}
    for i in range(layers):
        ours |= {f"bias.{i}": rest.pop(f"biases.{i}"), f"beta.{i}": _ones(W), f"alpha.{i}": _ones(W)}
    return ours | rest


def modules_from_2023(weights: Weights) -> Weights:
    """The mGradNetM of an M-MGN, whose modules have weight 1: a as bias, V as a linear part.

    >>> shapes = {"W_k.0.weight": (5, 2), "W_k.0.bias": (5,), "V.weight": (2, 2), "a": (2,)}
    >>> print(*modules_from_2023({name: torch.zeros(shape) for name, shape in shapes.items()}))
    bias linear.V alpha mmgn_modules.0.W mmgn_modules.0.b
    """
    rest = dict(weights)
    modules = _count(rest, "W_k.{}.weight")
    ours = {"bias": rest.pop("a"), "linear.V": _square(rest.pop("V.weight"))}
    ours["alpha"] = ours["bias"].new_full((modules,), ONE_BEFORE_SOFTPLUS)
    for i in range(modules):
        W, b = rest.pop(f"W_k.{i}.weight"), rest.pop(f"W_k.{i}.bias")
        ours |= {f"mmgn_modules.{i}.W": W, f"mmgn_modules.{i}.b": b}
    return ours | rest


def _count(weights: Weights, name: str) -> int:
    count = 0
    while name.format(count) in weights:
        count += 1
    return count


def _ones(W: Tensor) -> Tensor:
    return W.new_full((W.shape[0],), ONE_BEFORE_SOFTPLUS)


def _square(V: Tensor) -> Tensor:
    """A (d, d) matrix with the VᵀV of V (k, d): V itself, with rows of zeros below, or its triangular factor."""
    k, d = V.shape
    if k <= d:
        return torch.cat([V, V.new_zeros(d - k, d)])
    factor: Tensor = torch.linalg.qr(V.double(), mode="r").R
    return factor.to(V.dtype)
