"""Comparison of a module before and after it takes on our class, at random points: values, and gradients.

Values are compared at the module's own parameters. A fresh network may have equal parameters in all layers, of which
values cannot tell one from another: so values and the gradients of all parameters are compared at perturbed ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_POINTS = 32
TOLERANCES = {torch.bfloat16: 2.0**-4, torch.float16: 2.0**-6, torch.float32: 2.0**-15, torch.float64: 2.0**-20}
"""Relative differences that count as rounding.

In float32 and float64 they are many units in the last place, which is still far below the error of a wrong form; in
float64 they exceed the error of torch's softplus, which is linear beyond 20: its slope is wrong by e^−20 there, and in
gradients of layers that β = 100 makes steep by ten times as much.
"""


class MismatchError(Exception):
    """A value differs from before; the message says how."""


def probe(module: nn.Module, d: int, scales: Sequence[float]) -> list[Tensor]:
    """Random points (32, d) of each scale, from a fixed seed, on the device of the module's parameters."""
    weight, generator = next(module.parameters()), torch.Generator().manual_seed(0)
    plain: Any = {"dtype": torch.float32, "device": "cpu"}
    return [(scale * torch.randn(_POINTS, d, generator=generator, **plain)).to(weight) for scale in scales]


@dataclass(frozen=True)
class Sample:
    """What a module computes of a batch at perturbed parameters.

    Attributes:
        f: the values.
        differentiable: whether each of its results requires a gradient.
        gradients: of a random linear function of f, by the name of the parameter; those of the points are "x".
    """

    f: Tensor
    differentiable: tuple[bool, ...]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Behaviour:
    """What a module computes of several batches.

    Attributes:
        values: its results at its own parameters and in their dtype.
        state: perturbed parameters and buffers, by name.
        samples: its results and gradients at `state`.
    """

    values: list[Any]
    state: Mapping[str, Tensor]
    samples: list[Sample]


def behaviour(module: nn.Module, batches: Sequence[Tensor]) -> Behaviour:
    """What a module computes now; in float64 at perturbed parameters if its forward can.

    Raises:
        MismatchError: its results are neither f nor (f, log-determinant).
    """
    own = values(module, batches)
    if not (isinstance(own[0], Tensor) or is_pair(own[0])):
        raise MismatchError(f"returns a {type(own[0]).__name__}, not f or (f, log-determinant)")
    try:
        state = _perturbed(module, torch.float64)
        return Behaviour(own, state, _samples(module, state, batches))
    except Exception:  # a forward that insists on its dtype, or a device without float64
        state = _perturbed(module, None)
        return Behaviour(own, state, _samples(module, state, batches))


@torch.no_grad()
def values(module: nn.Module, batches: Sequence[Tensor]) -> list[Any]:
    """The result of a module's forward for each batch; hooks, which may count calls, do not run."""
    return [module.forward(points) for points in batches]


def _perturbed(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copies of parameters and buffers; every element of a parameter is up to a fifth larger, or a small positive one.

    So no two elements are equal, and none changes its sign.
    """
    generator = torch.Generator().manual_seed(1)

    def copied(tensor: Tensor, change: bool) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        copy = tensor.detach().to(dtype or tensor.dtype, copy=True)
        if change:
            factor = (
                torch.empty(copy.shape, dtype=torch.float64, device="cpu")
                .uniform_(0.02, 0.2, generator=generator)
                .to(copy)
            )
            copy += factor * torch.where(copy == 0.0, 1.0, copy)
        return copy.requires_grad_(change)

    with torch.inference_mode(False), torch.no_grad():
        parameters = {name: copied(parameter, True) for name, parameter in module.named_parameters()}
        return parameters | {name: copied(buffer, False) for name, buffer in module.named_buffers()}


@contextmanager
def _holding(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """A module with other parameters and buffers; tied ones stay tied.

    torch.func.functional_call would look for a part by its name, which may be a property of our class.
    """
    own = [*module.named_parameters(), *module.named_buffers()]
    others = {id(tensor): state[name] for name, tensor in own}
    holders = [holder for part in module.modules() for holder in (part._parameters, part._buffers)]
    places = [(holder, name, tensor) for holder in holders for name, tensor in holder.items() if tensor is not None]
    try:
        for holder, name, tensor in places:
            holder[name] = others[id(tensor)]  # type: ignore[assignment]
        yield
    finally:
        for holder, name, tensor in places:
            holder[name] = tensor  # type: ignore[assignment]


def _samples(module: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Tensor]) -> list[Sample]:
    weight, generator = next(iter(state.values())), torch.Generator().manual_seed(2)
    samples = []
    with torch.inference_mode(False), torch.enable_grad(), _holding(module, state):
        for points in batches:
            x = points.to(weight, copy=True).requires_grad_()
            result = module.forward(x)
            results = result if is_pair(result) else (result,)
            leaves = {"x": x} | {name: tensor for name, tensor in state.items() if tensor.requires_grad}
            g = torch.randn(results[0].shape, generator=generator, dtype=torch.float64, device="cpu")
            gradients = _gradients(results[0], list(leaves.values()), g)
            differentiable = tuple(part.requires_grad for part in results)
            samples.append(Sample(results[0].detach(), differentiable, dict(zip(leaves, gradients))))
    return samples


def _gradients(f: Tensor, leaves: list[Tensor], g: Tensor) -> Sequence[Tensor]:
    if not f.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(f, leaves, g.to(f), allow_unused=True, materialize_grads=True)


def is_pair(value: object) -> bool:
    """Whether a result can be (f, log-determinant)."""
    return type(value) is tuple and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def verified(module: Any, batches: Sequence[Tensor], before: Behaviour) -> float:
    """The largest difference between f and that of `before`, over the largest value; `module` has our class by now.

    Raises:
        MismatchError: a difference is more than rounding.
    """
    largest = 0.0
    with torch.no_grad():
        for points, now, then in zip(batches, values(module, batches), before.values):
            if is_pair(then):
                (now, logarithm), (then, expected) = now, then
                _compare_logarithms(logarithm, expected, module.jacobian(points))
            largest = max(largest, _compared(now, then))
    for ours, theirs in zip(_samples(module, before.state, batches), before.samples):
        _compare_samples(ours, theirs)
    return largest


def close_potentials(ours: Any, theirs: Any, state: Mapping[str, Tensor], batches: Sequence[Tensor]) -> None:
    """Compare potentials at perturbed parameters of two modules that share them.

    Raises:
        MismatchError: a difference is more than rounding.
    """
    weight = next(iter(state.values()))
    with torch.inference_mode(False), torch.no_grad(), _holding(ours, state):
        for points in batches:
            x = points.to(weight, copy=True)
            now, then = ours.potential(x), theirs.potential(x)
            largest = then.abs().max().clamp_min(torch.finfo(then.dtype).tiny)
            if not (now - then).abs().max() <= TOLERANCES[then.dtype] * largest:
                raise MismatchError(
                    f"has another energy, {float((now - then).abs().max() / largest):.1e} of the largest"
                )


def _compare_samples(ours: Sample, theirs: Sample) -> None:
    _compared(ours.f, theirs.f)
    if ours.differentiable != theirs.differentiable:
        raise MismatchError("is differentiable, and the module's forward is not, or a part of it")
    sizes = {name: float(gradient.abs().max()) for name, gradient in theirs.gradients.items() if gradient.numel()}
    for name, size in sizes.items():
        # A gradient that is all but 0 beside the others is compared with them.
        scale = max(size, max(sizes.values()) / 1024, torch.finfo(ours.f.dtype).tiny)
        difference = float((ours.gradients[name] - theirs.gradients[name]).abs().max()) / scale
        if not difference <= TOLERANCES[ours.f.dtype]:
            raise MismatchError(f"has another gradient of {name}, which differs by {difference:.1e} of the largest")


def _compared(now: Tensor, then: Tensor) -> float:
    _require_alike("f", now, then)
    largest = then.double().abs().max().clamp_min(torch.finfo(then.dtype).tiny)
    difference = float((now.double() - then.double()).abs().max() / largest)
    if not difference <= TOLERANCES[then.dtype]:  # true of NaN too
        raise MismatchError(f"differs by {difference:.1e} of the largest value")
    return difference


def _compare_logarithms(now: Tensor, then: Tensor, jacobian: Tensor) -> None:
    """Compare log-determinants where rounding leaves them a digit: an error ε|J| of J makes up to d cond(J) ε."""
    _require_alike("the log-determinant", now, then)
    singular = torch.linalg.svdvals(jacobian.double())
    # A 16th of the tolerance is far from what rounds in J still, and leaves more points to compare.
    rounding = TOLERANCES[then.dtype] / 16 * jacobian.shape[-1] * singular[:, 0] / singular[:, -1]
    told = rounding < 1.0
    if not told.any():
        raise MismatchError("cannot be told from others: its Jacobian is singular at all points, to rounding")
    now, then = now[told].double(), then[told].double()
    if not torch.equal(now.isnan(), then.isnan()):
        raise MismatchError("has NaN for other log-determinants")
    difference = (now - then).abs().nan_to_num(nan=0.0)
    if (difference > rounding[told].maximum(TOLERANCES[jacobian.dtype] * then.abs().nan_to_num())).any():
        raise MismatchError(f"has log-determinants that differ by up to {float(difference.max()):.1e}")


def _require_alike(name: str, now: Tensor, then: Tensor) -> None:
    if now.shape != then.shape or now.dtype != then.dtype:
        raise MismatchError(f"gives {name} the shape {tuple(now.shape)}, not {tuple(then.shape)}")
