"""The networks that are measured: their parameters, and f by the kernels, in plain PyTorch and for float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

import gradnets_fast
from bench.gpu.operators import BACKEND
from gradnets_fast import reference

Parameters = dict[str, Tensor]
Draw = Callable[..., Tensor]
"""(torch.randn or torch.rand, *shape) -> a tensor."""

Function = Callable[[Parameters, Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
        operator: the public operator that `ours` calls.
        parameters: (draw, layers or modules, h, d) -> its tensors.
        ours: f by the kernels.
        eager: f as a user of plain PyTorch writes it: W x once.
        exact: f by the package's reference, for float64.
        authors: f in the authors' structure where that differs, W x in every layer.
        modules: whether each layer is a module with a W of its own.
        evaluations: of exponentials or tanh for each hidden value and layer.
    """

    operator: str
    parameters: Callable[[Draw, int, int, int], Parameters]
    ours: Function
    eager: Function
    exact: Function
    authors: Function | None = None
    modules: bool = False
    evaluations: int = 1


def _cascade_parameters(draw: Draw, layers: int, h: int, d: int) -> Parameters:
    parameters = {"W": draw(torch.randn, h, d) / d**0.5, "shift": draw(torch.randn, layers, h)}
    if layers > 1:
        parameters["scale"] = draw(torch.rand, layers, h)
        parameters["coef"] = draw(torch.rand, layers, 1, h)
    return parameters | {"bias": draw(torch.randn, d)}


def _cascade_exact(p: Parameters, x: Tensor) -> Tensor:
    scale, coef = p.get("scale"), p.get("coef")
    one = torch.ones_like(p["shift"])
    scale, coef = (one if scale is None else scale), (one[:, None] if coef is None else coef)
    return reference.ridge(x, p["W"], scale, p["shift"], coef, p["bias"], ("tanh",))


def _cascade_eager(p: Parameters, x: Tensor) -> Tensor:
    u = x @ p["W"].T
    return _cascade(p, lambda: u) @ p["W"] + p["bias"]


def _cascade_authors(p: Parameters, x: Tensor) -> Tensor:
    return _cascade(p, lambda: x @ p["W"].T) @ p["W"] + p["bias"]


def _cascade(p: Parameters, product: Callable[[], Tensor]) -> Tensor:
    shift = p["shift"]
    if "scale" not in p:
        return torch.tanh(product() + shift[0])
    scale, coef = p["scale"], p["coef"]
    hidden = coef[0, 0] * torch.tanh(scale[0] * product() + shift[0])
    for layer in range(1, len(shift)):
        hidden = coef[layer, 0] * torch.tanh(scale[layer] * product() + shift[layer] + hidden)
    return hidden


def _cascade_ours(p: Parameters, x: Tensor) -> Tensor:
    arguments = (p["W"], p.get("scale"), p["shift"], p.get("coef"), p["bias"])
    return gradnets_fast.ridge(x, *arguments, basis="tanh", backend=BACKEND)


def _softmax_parameters(draw: Draw, modules: int, h: int, d: int, *, two_signs: bool, combined: bool) -> Parameters:
    parameters = {
        "W": draw(torch.randn, modules, h, d) / d**0.5,
        "b": draw(torch.randn, modules, h),
        "temperature": draw(torch.rand, modules) + 0.5,
        "positive": draw(torch.rand, modules) + 0.5,
    }
    if two_signs:
        parameters["negative"] = draw(torch.rand, modules) + 0.5
    if combined:
        parameters |= {"sharpness": draw(torch.rand) + 0.5, "offset": draw(torch.randn, modules)}
    return parameters | {"bias": draw(torch.randn, d)}


def _softmax_eager(p: Parameters, x: Tensor) -> Tensor:
    gradients, potentials = [], []
    for m, W in enumerate(p["W"]):
        z = p["temperature"][m] * (x @ W.T + p["b"][m])
        hidden = p["positive"][m] * z.softmax(-1)
        if "negative" in p:
            hidden = hidden - p["negative"][m] * (-z).softmax(-1)
        gradients.append(hidden @ W)
        if "sharpness" in p:
            potentials.append(p["positive"][m] * z.logsumexp(-1) / p["temperature"][m])
    if potentials:
        shares = (p["sharpness"] * torch.stack(potentials, -1) + p["offset"]).softmax(-1)
        gradients = [shares[:, m, None] * gradient for m, gradient in enumerate(gradients)]
    return sum(gradients[1:], gradients[0]) + p["bias"]


def _squared_parameters(draw: Draw, modules: int, h: int, d: int) -> Parameters:
    return {
        "W": draw(torch.randn, modules, h, d) / d**0.5,
        "b": draw(torch.randn, modules, h),
        "weight": draw(torch.rand, modules) / h,
        "bias": draw(torch.randn, d),
    }


def _squared_eager(p: Parameters, x: Tensor) -> Tensor:
    f = p["bias"]
    for W, b, weight in zip(p["W"], p["b"], p["weight"]):
        z = x @ W.T + b
        potential = (z.abs() + softplus(-2.0 * z.abs()) - math.log(2.0)).sum(-1, keepdim=True)
        f = f + (weight * potential * torch.tanh(z)) @ W
    return f


def _modular(
    operator: str, parameters: Callable[..., Parameters], eager: Function, given: dict[str, Any], evaluations: int
) -> Network:
    """given: what the reference's function has no default for, where the parameters do not say it."""

    def ours(p: Parameters, x: Tensor) -> Tensor:
        result: Tensor = getattr(gradnets_fast, operator)(x, **p, backend=BACKEND)
        return result

    def exact(p: Parameters, x: Tensor) -> Tensor:
        result: Tensor = getattr(reference, operator)(x, **(given | p))
        return result

    return Network(operator, parameters, ours, eager, exact, modules=True, evaluations=evaluations)


def _softmax(two_signs: bool = False, combined: bool = False) -> Network:
    parameters = partial(_softmax_parameters, two_signs=two_signs, combined=combined)
    return _modular("softmax_modules", parameters, _softmax_eager, {"negative": None}, 1 + two_signs)


_SQUARED = {"basis": "tanh", "transform": "half_square"}

NETWORKS = {
    "cascade": Network("ridge", _cascade_parameters, _cascade_ours, _cascade_eager, _cascade_exact, _cascade_authors),
    "softmax": _softmax(),
    "weighted softmax": _softmax(two_signs=True),
    "soft maximum": _softmax(combined=True),
    # log cosh takes an exponential and a logarithm beside the tanh.
    "squared log cosh": _modular("transformed_modules", _squared_parameters, _squared_eager, _SQUARED, 3),
}
