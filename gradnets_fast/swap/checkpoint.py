"""Networks made from checkpoints of the authors' code alone."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..errors import message
from ..nn import GradNet, GradNetC, GradNetM, mGradNetC, mGradNetM
from ..nn.activation import WEIGHTED_SOFTMAX, WEIGHTED_TANH, Activation
from .regularizers import clipped_regularizer, spline_regularizer
from .translation import cascade_from_2023, modules_from_2023

_WHERE = "load_reference_checkpoint"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."
"""The prefix that DistributedDataParallel gives every name."""


def load_reference_checkpoint(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    monotone: bool | None = None,
    activation: Activation | None = None,
    weak_convexity: float | None = None,
    smooth: bool = False,
) -> GradNet:
    """A network with the weights of a checkpoint of the authors' code: their shapes tell architecture, depth and width.

    A C-MGN or M-MGN of 2023 becomes the mGradNetC or mGradNetM with the same f: its `linear` part holds V, transposed
    and made square if necessary; `beta` and `alpha`, which those networks lack, have the value that softplus maps to 1.
    They are parameters as any other: to train the network of 2023, freeze them by `requires_grad_(False)`.

    The two published ridge regularisers of images are known too, with filters, scaling and beta, or with conv_layer and
    coefficients of splines: their networks have ∇R for forward and R, of each image, for potential.

    Args:
        source: a file that torch.save wrote, or what is in it: the network's state_dict, perhaps under "state_dict",
            "model_state_dict" or "model".  Read with weights_only=True, on the CPU.
        monotone: whether it is an mGradNet, whose weights go through a softplus; nothing in the file tells.  A C-MGN or
            M-MGN is monotone anyway.
        activation: the activation of a cascade or a C-MGN, as in `GradNetC`; needed unless it is learned, as the
            weighted ones are.  For an M-MGN it is "tanh" by default.
        weak_convexity: of a regulariser of clips, which subtracts so much of the second one: 1.0 if it is weakly
            convex, 0.0 if it is convex; nothing in the file tells.
        smooth: of such a regulariser: its potential is of log cosh, not of Huber's function.

    Returns:
        GradNetC, mGradNetC, GradNetM or mGradNetM, or a regulariser of images, in the weights' dtype, whose forward
        returns f alone.  A GradNetC has reuse_penultimate_activation=True, for the authors' applies its last activation
        but one twice.

    Raises:
        TypeError, ValueError: the source is no such checkpoint, `monotone` or the activation is missing, or the
            weights belong to another activation.
        OSError, pickle.UnpicklingError: the file cannot be read, or holds more than weights.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, and its code; arXiv 2301.10862.

    >>> from gradnets_fast import mGradNetM
    >>> net = mGradNetM(num_modules=2, in_dim=3, embed_dim=5, activation="weighted_softmax")
    >>> print(load_reference_checkpoint(net.state_dict(), monotone=True).extra_repr())
    num_modules=2, in_dim=3, embed_dim=5, activation='weighted_softmax'
    """
    weights, config = _weights(source)
    if weights.keys() & {"scaling", "regularizer.scaling"}:
        return clipped_regularizer(_WHERE, weights, weak_convexity, smooth)
    if "activation.coefficients_vect" in weights:
        return spline_regularizer(_WHERE, weights, config)
    if {"mmgn_modules.0.W", "alpha"} <= weights.keys():
        net = _modular(weights, _told(monotone), activation)
    elif {"W", "beta.0"} <= weights.keys():
        net = _cascade(weights, _told(monotone), activation)
    elif {"W", "biases.0", "bL", "V"} <= weights.keys():
        _require_monotone(monotone)
        weights = cascade_from_2023(weights)
        net = _cascade(weights, True, activation, linear="psd")
    elif {"W_k.0.weight", "W_k.0.bias", "V.weight", "a"} <= weights.keys():
        _require_monotone(monotone)
        weights = modules_from_2023(weights)
        net = _modular(weights, True, activation or "tanh", linear="psd", transform="half_square")
    else:
        expected = "names of a cascade (W, beta.0, …), of modules (mmgn_modules.0.W, …), of a C-MGN (W, biases.0, …)"
        expected += ", of a regulariser of images (filters.0.…, scaling, beta; or conv_layer.…, activation.…)"
        fix = "pass the state_dict of a GradNet_C, mGradNet_C, GradNet_M, mGradNet_M, C_MGN, M_MGN or a regulariser"
        got = ", ".join(list(weights)[:5]) or "nothing"
        raise ValueError(message(_WHERE, "source", f"{expected} or M-MGN (W_k.0.weight, …)", got, fix))
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        fix = "check the activation, and that the file is of one network alone"
        raise ValueError(
            message(_WHERE, "source", f"the weights of {type(net).__name__}({net.extra_repr()})", str(error), fix)
        ) from error
    return net


def _weights(source: str | PathLike[str] | Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Return the state_dict, and what lies beside it under "config"."""
    content = source if isinstance(source, Mapping) else torch.load(source, map_location="cpu", weights_only=True)
    config = content.get("config") if isinstance(content, Mapping) else None
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise TypeError(
            message(_WHERE, "source", "a state_dict", type(content).__name__, "save net.state_dict(), not the network")
        )
    return {name.removeprefix(_PREFIX): value for name, value in content.items()}, config


def _told(monotone: bool | None) -> bool:
    if monotone is None:
        fix = "pass the one that it was trained as"
        expected = "True for an mGradNet or False for a GradNet, for the weights do not tell"
        raise ValueError(message(_WHERE, "monotone", expected, "None", fix))
    return monotone


def _require_monotone(monotone: bool | None) -> None:
    if monotone is False:
        fix = "leave it out"
        raise ValueError(
            message(_WHERE, "monotone", "True for a C-MGN or M-MGN, which has no other kind", "False", fix)
        )


def _cascade(weights: dict[str, Tensor], monotone: bool, activation: Activation | None, **options: Any) -> GradNet:
    layers = sum(name.startswith("beta.") for name in weights)
    if "nonlinearity.0.a" in weights:
        activation = activation or WEIGHTED_TANH
    if activation is None:
        fix = "pass the one that it was trained with, for example activation='tanh'"
        raise ValueError(message(_WHERE, "activation", "given, for the weights do not tell", "None", fix))
    h, d = weights["W"].shape
    options["dtype"] = weights["W"].dtype
    if monotone:
        return mGradNetC(layers, d, h, activation, **options)
    return GradNetC(layers, d, h, activation, reuse_penultimate_activation=layers > 1, **options)


def _modular(weights: dict[str, Tensor], monotone: bool, activation: Activation | None, **options: Any) -> GradNet:
    W = weights["mmgn_modules.0.W"]
    learned = "mmgn_modules.0.act.a" in weights
    chosen = activation or (WEIGHTED_SOFTMAX if learned else "softmax")
    cls = mGradNetM if monotone else GradNetM
    return cls(len(weights["alpha"]), W.shape[1], W.shape[0], chosen, dtype=W.dtype, **options)
