"""What a job takes at least, however it is computed: operations of its products, bytes, special functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...activations import TABLE

JOBS = ("forward", "step")
"""What is timed everywhere; on a GPU the backward pass too, as a part of the step."""

RESOURCES = {"products": "flops", "memory": "minimum_bytes", "special functions": "evaluations"}
"""What a job needs, and what `work` calls its amount."""

Work = dict[str, dict[str, float]]
"""For each job: flops, of the matrix products; minimum_bytes, which must be read and written; evaluations, of
exponentials, tanh and the like."""

_PRODUCTS = {"value": (2, 7), "jvp": (3, 11), "potential": (1, 4), "divergence": (1, 4), "jacobian": (1, 4)}
"""Operations, in units of batch × h × d: forward, and with the backward pass, which computes u again."""


def products(quantity: str, d: int, means: int = 0) -> dict[str, float]:
    """How many products of batch × h × d each job takes.

    quantity: value, jvp, potential, divergence or jacobian.  means: mean rows whose squares enter the Jacobian, one for
    each sign of a softmax, one for a transform with a second derivative.

    >>> products("value", 64), products("jacobian", 3), products("divergence", 64, means=2)
    ({'forward': 2.0, 'step': 7.0}, {'forward': 3.0, 'step': 10.0}, {'forward': 3.0, 'step': 12.0})
    """
    forward, step = map(float, _PRODUCTS[quantity])
    if quantity in ("divergence", "jacobian"):
        forward, step = forward + means, step + 4 * means
    if quantity == "jacobian":  # one triangle of Wᵀ diag(·) W for each point, and two such products on the way back
        triangle = (d + 1) / 2
        forward, step = forward + triangle, step + 3 * triangle
    return {"forward": forward, "step": step}


def deep_products(quantity: str, d: int, h: int, depth: int) -> dict[str, float]:
    """How many products of batch × h × d each job of a deep network takes, with `depth` layers of h.

    The weights are passed up and down, once for the points and once for each tangent, and in a step for the derivatives
    of all that and for the weights' gradients.

    >>> deep_products("value", 64, 64, 2)
    {'forward': 4.0, 'step': 16.0}
    """
    tangents = {"value": 0, "potential": 0, "jvp": 1}.get(quantity, d)
    once = {"value": 2, "potential": 1, "jvp": 4}.get(quantity, 2 + tangents)
    backward = {"value": 6, "potential": 2, "jvp": 11}.get(quantity, 3 * tangents + 6)
    weights = 1.0 + (depth - 1) * h / d
    triangle = (d + 1) / 2 * depth if quantity == "jacobian" else 0.0
    forward = once * weights + triangle
    return {"forward": forward, "step": forward + backward * weights + 2.0 * triangle}


def transcendental(names: Iterable[str]) -> int:
    """How many of these basis functions, or softmaxes, take an exponential or the like.

    >>> transcendental(["tanh", "identity", "softplus"])
    2
    """
    return sum(name not in TABLE or not TABLE[name].algebraic for name in names if name != "spline")


def work(
    counts: Mapping[str, float],
    hidden: float,
    d: int,
    evaluations: int,
    tensors: tuple[Iterable[Tensor], Iterable[Tensor], Tensor],
) -> Work:
    """The work of each job, and that of the backward pass where that is a job of its own.

    counts: what `products` gave.  hidden: batch × hidden units, of all modules.  evaluations: of special functions for
    each of these in one pass.  tensors: points, parameters, and the gradient of the result, which is as large as that.
    """
    points, parameters = (float(sum(t.nbytes for t in some)) for some in tensors[:2])
    result = float(tensors[2].nbytes)
    forward, step = (2.0 * hidden * d * counts[job] for job in JOBS)
    once = hidden * evaluations
    moved = (points + result + parameters, 2 * points + result + 2 * parameters, 2 * (points + result + parameters))
    amounts = {"flops": (forward, step - forward, step), "minimum_bytes": moved, "evaluations": (once, once, 2 * once)}
    return {key: dict(zip(("forward", "backward", "step"), of_jobs)) for key, of_jobs in amounts.items()}


def bounds(of_case: Mapping[str, Any], job: str, rates: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds that a job needs of each resource; of_case: with its work; rates: of each resource, a second.

    >>> work = {"flops": {"step": 4e9}, "minimum_bytes": {"step": 1e9}, "evaluations": {"step": 0.0}}
    >>> bounds(work, "step", {"products": 1e12, "memory": 1e12, "special functions": 1e9})
    {'products': 4.0, 'memory': 1.0, 'special functions': 0.0}
    """
    return {resource: 1e3 * of_case[key][job] / rates[resource] for resource, key in RESOURCES.items()}
