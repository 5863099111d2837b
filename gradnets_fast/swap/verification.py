"""Comparison of a module before and after it takes on our class, at random points: values, and gradients.

Values are compared at the module's own parameters. A fresh network may have equal parameters in all layers, of which
values cannot tell one from another: so values and the gradients of all parameters are compared at perturbed ones too,
and at ones of other signs, for relu(W) and |W| are W where W is positive. That is done in float64 if forward can be run
in it, where no rounding takes a ReLU across its kink; in the module's own dtype errors are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_POINTS = 32
_FAR = 4096.0
"""The scale of further points, where an activation that is clamped far out shows."""
TOLERANCES = {torch.bfloat16: 2.0**-4, torch.float16: 2.0**-6, torch.float32: 2.0**-15, torch.float64: 2.0**-20}
"""Relative differences that count as rounding.

In float32 and float64 they are many units in the last place, which is still far below the error of a wrong form; in
float64 they exceed the error of torch's softplus, which is linear beyond 20: its slope is wrong by e^−20 there, and in
gradients of layers that β = 100 makes steep by ten times as much.
"""


State = Mapping[str, Tensor]


class MismatchError(Exception):
    """A value differs from before; the message says how."""


def probe(module: nn.Module, d: int, scales: Sequence[float]) -> list[Tensor]:
    """Random points (32, d) of each scale, from a fixed seed, on the device of the module's parameters."""
    return probe_of(module, [(_POINTS, d)] * len(scales), scales)


def probe_of(module: nn.Module, shapes: Sequence[tuple[int, ...]], scales: Sequence[float]) -> list[Tensor]:
    """The same of shapes of their own."""
    weight, generator = next(module.parameters()), torch.Generator().manual_seed(0)
    plain: Any = {"dtype": torch.float32, "device": "cpu"}
    return [(s * torch.randn(shape, generator=generator, **plain)).to(weight) for shape, s in zip(shapes, scales)]


class Method(nn.Module):
    """A module whose forward is a method of another one; `behaviour` and `verified` take it for that method."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: Tensor) -> Any:
        """What the method returns."""
        return getattr(self.module, self.name)(x)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters under the names that the other module has for them."""
        return self.module.named_parameters(*arguments, **options)

    def named_buffers(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """The buffers, likewise."""
        return self.module.named_buffers(*arguments, **options)

    def result_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of what the method returns, which nothing records."""
        with _undisturbed(self.module), _holding(self.module, _state(self.module)):
            return tuple(self.forward(x.clone()).shape)


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
        batches: the points, in the module's dtype.
        values: its results at its own parameters and in their dtype.
        states: parameters and buffers by name, in float64 if its forward can: its own, perturbed ones, and of other
            signs.
        exact: its results at the first of `states`.
        samples: its results and gradients at each of the others.
        quantity: the method whose results `outputs` are, at the perturbed state, far points being the last.
    """

    batches: Sequence[Tensor]
    values: list[Any]
    states: Sequence[State]
    exact: list[Any]
    samples: list[list[Sample]]
    quantity: str
    outputs: list[Any]


def behaviour(module: nn.Module, batches: Sequence[Tensor], quantity: str = "forward") -> Behaviour:
    """What a module computes now; `quantity` is compared at far points too.

    Raises:
        MismatchError: its results are neither f nor (f, log-determinant), or not the same at every call.
    """
    with _undisturbed(module):
        own, changed = _evaluated(module, batches)
        if not (isinstance(own[0], Tensor) or is_pair(own[0])):
            raise MismatchError(f"returns a {type(own[0]).__name__}, not f or (f, log-determinant)")
        if changed:
            raise MismatchError(f"changes its buffer {changed} when called, as in training: call eval() first")
        try:
            return _behaviour(module, batches, quantity, own, torch.float64)
        except MismatchError:
            raise
        except Exception:  # a forward that insists on its dtype, or a device without float64
            return _behaviour(module, batches, quantity, own, None)


def _behaviour(
    module: nn.Module, batches: Sequence[Tensor], quantity: str, own: list[Any], dtype: torch.dtype | None
) -> Behaviour:
    states = [
        _state(module, dtype),
        _state(module, dtype, perturbed=True),
        _state(module, dtype, perturbed=True, flipped=True),
    ]
    exact = values(module, states[0], batches)
    _require_one_mode(module, batches, exact, dtype)
    samples = [_samples(module, state, batches) for state in states[1:]]
    # In another dtype the rounding of so large arguments would show in a sine.
    further = [_FAR * batches[0]] if dtype else []
    outputs = values(module, states[1], [*batches, *further], quantity)
    return Behaviour([*batches, *further], own, states, exact, samples, quantity, outputs)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Outside of inference mode and autocast, without recording, and with random numbers of its own."""
    device = next(module.parameters()).device
    drawn = [device] if device.type == "cuda" else []
    random, full_precision = torch.random.fork_rng(drawn), torch.autocast(device.type, enabled=False)
    with random, full_precision, torch.inference_mode(False), torch.no_grad():
        yield


def values(module: nn.Module, state: State, batches: Sequence[Tensor], quantity: str = "forward") -> list[Any]:
    """The result of a module's method for each batch; hooks, which may count calls, do not run."""
    weight = next(iter(state.values()))
    with _holding(module, state):
        return [getattr(module, quantity)(points.to(weight, copy=True)) for points in batches]


def _evaluated(module: nn.Module, batches: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[list[Any], str]:
    """The results of forward at the module's own parameters, and the name of a buffer that it changes, or ""."""
    state, before = _state(module, dtype), _state(module, dtype)
    with _holding(module, state):
        results = [module.forward(points.to(dtype or points.dtype, copy=True)) for points in batches]
        after = dict(module.named_buffers())
    for name, buffer in after.items():
        if name not in before or not torch.isclose(buffer, before[name], 0.0, 0.0, equal_nan=True).all():
            return results, name
    return results, ""


def _require_one_mode(module: nn.Module, batches: Sequence[Tensor], own: list[Any], dtype: torch.dtype | None) -> None:
    """Raise if forward is another function, or a random one, in the mode that the module is not in.

    Where it changes buffers in that mode, as spectral_norm does, these are what it follows.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, mode in modes:
            part.training = not mode
        (first, changed), (second, _) = (_evaluated(module, batches, dtype) for _ in range(2))
    finally:
        for part, mode in modes:
            part.training = mode
    if not all(map(_alike, first, second)) or not (changed or all(map(_alike, first, own))):
        raise MismatchError("computes another function in training than in evaluation, as Dropout does: take that out")


def _alike(now: Any, then: Any) -> bool:
    """Whether two results are equal to rounding, NaN being equal to NaN."""
    if is_pair(now) != is_pair(then):
        return False
    now, then = _f(now), _f(then)
    if not isinstance(now, Tensor) or now.shape != then.shape or now.dtype != then.dtype:
        return False
    largest = float(then.abs().nan_to_num(0.0, 0.0).max())
    return torch.allclose(now, then, 0.0, TOLERANCES[then.dtype] * largest, equal_nan=True)


def _state(
    module: nn.Module, dtype: torch.dtype | None = None, *, perturbed: bool = False, flipped: bool = False
) -> dict[str, Tensor]:
    """Copies of parameters and buffers.

    Args:
        module: whose they are.
        dtype: of what is floating; None for its own.
        perturbed: every element is up to a fifth larger, or a small positive one for 0, so that no two are equal.
        flipped: about half of a parameter's elements change their sign, the first one of them always; and about half of
            a boolean buffer's.
    """
    generator = torch.Generator().manual_seed(1)

    def copied(tensor: Tensor, of_parameter: bool) -> Tensor:
        drawn = torch.empty(tensor.shape, dtype=torch.float64, device="cpu")
        if tensor.dtype == torch.bool and flipped:
            return tensor ^ (drawn.uniform_(generator=generator) < 0.5).to(tensor.device)
        if not tensor.is_floating_point():
            return tensor.clone()
        copy = tensor.detach().to(dtype or tensor.dtype, copy=True)
        if perturbed:
            copy += drawn.uniform_(0.02, 0.2, generator=generator).to(copy) * torch.where(copy == 0.0, 1.0, copy)
        if flipped and of_parameter:
            signs = drawn.uniform_(-1.0, 1.0, generator=generator).sign_()
            signs.view(-1)[:1] = -1.0
            copy *= signs.to(copy)
        return copy.requires_grad_(of_parameter)

    parameters = {name: copied(parameter, True) for name, parameter in module.named_parameters()}
    return parameters | {name: copied(buffer, False) for name, buffer in module.named_buffers()}


@contextmanager
def _holding(module: nn.Module, state: State) -> Iterator[None]:
    """A module with other parameters and buffers; tied ones stay tied, and what hooks compute of them is put back.

    torch.func.functional_call would look for a part by its name, which may be a property of our class.
    """
    own = [*module.named_parameters(), *module.named_buffers()]
    others = {id(tensor): state[name] for name, tensor in own}
    holders = [holder for part in module.modules() for holder in (part._parameters, part._buffers)]
    places = [(holder, name, tensor) for holder in holders for name, tensor in holder.items() if tensor is not None]
    attributes = [(vars(part), name, value) for part in module.modules() for name, value in vars(part).items()]
    computed = [place for place in attributes if isinstance(place[2], Tensor)]
    (own_dtype, dtype), *_ = [(tensor.dtype, state[name].dtype) for name, tensor in own]
    try:
        for holder, name, tensor in places:
            holder[name] = others[id(tensor)]  # type: ignore[assignment]
        for holder, name, tensor in computed if dtype != own_dtype else ():
            holder[name] = tensor.detach().to(dtype) if tensor.dtype == own_dtype else tensor  # not only a hook's
        yield
    finally:
        for holder, name, tensor in (*places, *computed):
            holder[name] = tensor


def _samples(module: nn.Module, state: State, batches: Sequence[Tensor]) -> list[Sample]:
    weight, generator = next(iter(state.values())), torch.Generator().manual_seed(2)
    samples = []
    with torch.enable_grad(), _holding(module, state):
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


def verified(module: Any, before: Behaviour) -> float:
    """The largest difference between f and that of `before`, over the largest value; `module` has our class by now.

    Raises:
        MismatchError: a difference is more than rounding.
    """
    own, perturbed, _ = before.states
    batches = before.batches[: len(before.values)]
    with _undisturbed(module):
        if is_pair(before.exact[0]):
            jacobians = values(module, own, batches, "jacobian")
        for i, (now, then) in enumerate(zip(values(module, own, batches), before.exact)):
            if is_pair(then):
                (now, logarithm), (then, expected) = now, then
                _compare_logarithms(logarithm, expected, jacobians[i])
            _compared(now, then)
        for state, samples in zip(before.states[1:], before.samples):
            for ours, theirs in zip(_samples(module, state, batches), samples):
                # Of other signs a parameter may be outside the domain of what is computed of it.
                if state is perturbed or theirs.f.isfinite().all():
                    _compare_samples(ours, theirs)
        outputs = values(module, perturbed, before.batches, before.quantity)
        for i, (now, then) in enumerate(zip(map(_f, outputs), map(_f, before.outputs))):
            if i < len(batches) or then.isfinite().all():  # a user's formula may overflow far out
                _compared(now, then, f"has another {before.quantity}, which differs")
        here = values(module, _state(module), batches)
        return max(map(_compared_in_rounding, here, before.values, before.exact))


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


def _f(result: Any) -> Any:
    return result[0] if is_pair(result) else result


def _compared(now: Tensor, then: Tensor, words: str = "differs") -> None:
    difference = _difference(now, then)
    if not difference <= TOLERANCES[then.dtype]:  # true of NaN too
        raise MismatchError(f"{words} by {difference:.1e} of the largest value")


def _difference(now: Tensor, then: Tensor) -> float:
    """The largest difference over the largest value."""
    _require_alike("f", now, then)
    largest = then.double().abs().max().clamp_min(torch.finfo(then.dtype).tiny)
    return float((now.double() - then.double()).abs().max() / largest)


def _compared_in_rounding(now: Any, then: Any, exact: Any) -> float:
    """The difference of two results in the module's dtype; the error of half of the points is at most twice the former.

    Half of them, for rounding takes a ReLU across its kink at a point or another.
    """
    now, then, exact = _f(now), _f(then), _f(exact).double()
    difference = _difference(now, then)
    ours, theirs = ((f.double() - exact).abs().reshape(len(f), -1).amax(1).median() for f in (now, then))
    if not ours <= 2 * theirs + TOLERANCES[then.dtype] * exact.abs().max():
        raise MismatchError(f"differs by {difference:.1e} of the largest value in {then.dtype}")
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
        got, expected = (f"shape {tuple(f.shape)} in {f.dtype}" for f in (now, then))
        raise MismatchError(f"gives {name} the {got}, not {expected}")
