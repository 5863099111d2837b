"""The contender jax.jit: a deep network's gradient, and its derivatives, as XLA compiles them; needs JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import torch
from jax import numpy as jnp
from torch import Tensor

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}


def compiled(
    points: Sequence[Tensor], parameters: Mapping[str, Tensor], basis: Sequence[str]
) -> tuple[Callable[[], Tensor], Callable[[Tensor], tuple[Tensor, ...]]] | None:
    """() -> f, and g -> (f, *gradients of <g, f>), for layers with these activations on the same numbers.

    The parameters are named as DeepGradNet's.  None where JAX lacks an activation.
    """
    if any(name not in _ACTIVATIONS for name in basis):
        return None
    names = list(parameters)

    def value(arrays: Sequence[Any]) -> Any:
        x, *weights = arrays
        return jax.grad(lambda points: _energy(dict(zip(names, weights)), points, basis).sum())(x)

    def step(arrays: Sequence[Any], g: Any) -> tuple[Any, ...]:
        f, gradients = jax.vjp(value, tuple(arrays))
        return (f, *gradients(g)[0])

    arrays, fast_value, fast_step = tuple(map(_array, (*points, *parameters.values()))), jax.jit(value), jax.jit(step)
    return lambda: _tensor(fast_value(arrays)), lambda g: tuple(map(_tensor, fast_step(arrays, _array(g))))


def _energy(parameters: Mapping[str, Any], x: Any, basis: Sequence[str]) -> Any:
    a = _ACTIVATIONS[basis[0]](x @ parameters["A.0"].T + parameters["b.0"])
    for i, name in enumerate(basis[1:]):
        a = _ACTIVATIONS[name](a @ parameters[f"V.{i}"].T + parameters[f"b.{i + 1}"])
    return a @ parameters["c"]


def _array(tensor: Tensor) -> Any:
    return jnp.asarray(tensor.detach().numpy())


def _tensor(array: Any) -> Tensor:
    return torch.utils.dlpack.from_dlpack(array.block_until_ready())
