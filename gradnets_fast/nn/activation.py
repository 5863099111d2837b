"""What users may write for `activation`, and the parameters of the learnable ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import TABLE
from ..errors import message
from .heads import Heads
from .hooks import Part
from .spline import Spline

Activation = str | Sequence[str] | nn.Module | Spline | Heads | Callable[[], nn.Module]

WEIGHTED_TANH = "weighted_tanh"
WEIGHTED_SOFTMAX = "weighted_softmax"

_TORCH_MODULES: dict[type[nn.Module], tuple[str, Mapping[str, Any]]] = {
    **{getattr(nn, b.torch_module): (name, b.torch_settings) for name, b in TABLE.items() if b.torch_module},
    nn.Softmax: ("softmax", {"dim": -1}),
}
"""torch's modules that are basis functions, with the settings at which they are."""


@dataclass(frozen=True)
class ActivationSpec:
    """An activation, resolved.

    Attributes:
        label: what it is called in a repr.
        basis: the basis functions it mixes, or ("softmax",).
        kind: "fixed", "weighted_tanh", "weighted_softmax", "mixture", "spline" or "heads".
        spline, heads: those of these kinds.
    """

    label: str
    basis: tuple[str, ...]
    kind: str
    spline: Spline | None = None
    heads: Heads | None = None

    @property
    def key(self) -> str | tuple[str, ...]:
        """How `gradnets_fast.reference` names it."""
        return self.basis if self.kind == "mixture" else self.basis[0] if self.kind == "fixed" else self.kind


def parse_activation(
    where: str, activation: Activation, *, monotone: bool, coupled: bool = False, learned: bool = False
) -> ActivationSpec:
    """Resolves a name, a list of names, a torch.nn module or a factory of one.

    Args:
        where: the module's name, for messages.
        activation: what the user wrote.
        monotone: only nondecreasing functions are allowed.
        coupled: softmax and weighted_softmax are what is expected (GradNet-M); else they are refused.
        learned: whether the network can have a learned spline or heads.

    Raises:
        TypeError, ValueError: naming what is known.
    """
    if isinstance(activation, (Spline, Heads)) and not learned:
        fix, got = "use RidgeGradNet, ConvGradNet or a network of theirs", f"a {type(activation).__name__}"
        raise ValueError(message(where, "activation", "a name of the activation table", got, fix))
    choices = [*TABLE, "softmax", WEIGHTED_SOFTMAX] if coupled else [*TABLE, WEIGHTED_TANH]
    if callable(activation) and not isinstance(activation, nn.Module):
        activation = _made_by(where, activation)
    if isinstance(activation, nn.Module):
        activation = _name_of_module(where, activation, choices)
    if isinstance(activation, (Spline, Heads)):
        spec = _learned(where, activation, monotone)
    elif isinstance(activation, str):
        spec = _named(where, activation, choices)
    elif (
        isinstance(activation, Sequence) and activation and all(isinstance(n, str) for n in activation) and not coupled
    ):
        names = tuple(activation)
        for name in names:
            _require_known(where, name, list(TABLE))
        spec = ActivationSpec(" + ".join(names), names, "mixture")
    else:
        fix = "for example activation='tanh'" if not coupled else "for example activation='softmax'"
        expected = "a name" if coupled else "a name, a list of names"
        raise TypeError(
            message(
                where,
                "activation",
                f"{expected}, a torch.nn activation or a function that makes one",
                repr(activation),
                fix,
            )
        )
    if monotone:
        _require_nondecreasing(where, spec)
    return spec


def _learned(where: str, activation: Spline | Heads, monotone: bool) -> ActivationSpec:
    if isinstance(activation, Spline):
        activation.bounds(where, monotone)
        return ActivationSpec(activation.label(), ("spline",), "spline", activation)
    for name in activation.basis:
        _require_known(where, name, list(TABLE))
    return ActivationSpec(activation.label(), tuple(activation.basis), "heads", heads=activation)


def _made_by(where: str, factory: Callable[[], nn.Module]) -> nn.Module:
    try:
        return factory()
    except TypeError as error:
        name = getattr(factory, "__name__", type(factory).__name__)
        fix = f"pass its name, for example activation={name!r}, or a torch.nn module"
        raise TypeError(
            message(where, "activation", "a function without arguments that makes a torch.nn module", name, fix)
        ) from error


def _named(where: str, name: str, choices: list[str]) -> ActivationSpec:
    _require_known(where, name, choices)
    if name == WEIGHTED_TANH:
        return ActivationSpec(name, ("tanh", "identity"), name)
    if name == WEIGHTED_SOFTMAX:
        return ActivationSpec(name, ("softmax",), name)
    return ActivationSpec(name, (name,), "fixed")


def _require_known(where: str, name: str, choices: list[str]) -> None:
    if name not in choices:
        fix = "choose one of these, or a list of them to learn a mixture"
        raise ValueError(message(where, "activation", "one of " + ", ".join(choices), repr(name), fix))


def _require_nondecreasing(where: str, spec: ActivationSpec) -> None:
    falling = [name for name in spec.basis if name in TABLE and not TABLE[name].nondecreasing]
    if falling:
        rising = ", ".join(name for name, basis in TABLE.items() if basis.nondecreasing)
        fix = "choose one of these, or the architecture without the leading m"
        raise ValueError(message(where, "activation", f"nondecreasing functions ({rising})", falling[0], fix))


def _name_of_module(where: str, module: nn.Module, choices: list[str]) -> str:
    known = _TORCH_MODULES.get(type(module))
    if known is None:
        fix = "choose one of these by name"
        raise ValueError(
            message(where, "activation", "one of " + ", ".join(choices), f"torch.nn.{type(module).__name__}", fix)
        )
    name, settings = known
    for setting, expected in settings.items():
        got = getattr(module, setting)
        if got != expected:
            fix = f"use the default, or scale the weights: only {setting}={expected!r} has a kernel"
            raise ValueError(
                message(where, f"activation {type(module).__name__}.{setting}", repr(expected), repr(got), fix)
            )
    return name


class ElementwiseActivation(Part):
    """The parameters of one layer's activation, as coefficients of the basis functions."""

    def __init__(self, spec: ActivationSpec, width: int, monotone: bool, **factory: Any) -> None:
        super().__init__()
        self.spec = spec
        self.monotone = monotone
        if spec.kind == WEIGHTED_TANH:
            self.a = nn.Parameter(torch.empty(width, **factory))
            self.b = nn.Parameter(torch.empty(width, **factory))
        elif spec.kind == "mixture":
            self.weight = nn.Parameter(torch.empty(len(spec.basis), width, **factory))
        elif spec.spline is not None:
            self.values = nn.Parameter(torch.empty(spec.spline.knots, 1 if spec.spline.shared else width, **factory))
        elif spec.heads is not None:
            count, terms = spec.heads.count, len(spec.basis)
            self.scale = nn.Parameter(torch.empty(count, width, **factory))
            self.shift = nn.Parameter(torch.empty(count, width, **factory))
            self.weight = nn.Parameter(torch.empty(count, terms, width, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters uniformly from [0, 1); those of a spline are a line of an allowed slope.

        Of heads the shifts are drawn from [−1, 1), for they are what tells one head from another.
        """
        if self.spec.spline is not None:
            knots = torch.linspace(-self.spec.spline.radius, self.spec.spline.radius, self.spec.spline.knots)
            slopes = torch.empty_like(self.values[:1]).uniform_(*self.spec.spline.first_slopes(self.monotone))
            with torch.no_grad():
                self.values.copy_(slopes * knots.to(self.values)[:, None])
            return
        for parameter in self.parameters():
            nn.init.uniform_(parameter)
        if self.spec.heads is not None:
            nn.init.uniform_(self.shift, -1.0, 1.0)

    def cascade(self, b: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return scale, shift and coef of act(u + b), as `ridge` takes them."""
        if self.spec.heads is not None:
            scale, weight = (F.softplus(p) if self.monotone else p for p in (self.scale, self.weight))
            return scale, scale * b + self.shift, weight
        coef = None if self.spec.kind == "fixed" else self.coefficients()
        if self.spec.spline is None:
            return None, b, None if coef is None else coef.unsqueeze(0)
        assert coef is not None
        radius = self.spec.spline.radius
        return torch.full_like(b, 1.0 / radius).unsqueeze(0), b / radius, coef.expand(-1, b.shape[0]).unsqueeze(0)

    def slopes(self) -> Tensor:
        """Return the slopes of a spline's cells, (T − 1, h), or (T − 1, 1) if it is shared."""
        assert self.spec.spline is not None
        values = self.coefficients()
        assert values is not None
        return values.diff(dim=0) / self.spec.spline.step

    def total_variation(self) -> Tensor:
        """Return Σ |changes of slope| of each spline, (h,) or (1,): its second-order total variation, a regulariser."""
        return self.slopes().diff(dim=0).abs().sum(0)

    def coefficients(self) -> Tensor | None:
        """C with act(z) = Σ_k C_k ⊙ b_k(z), (K, h); of a spline its values (T, h) or (T, 1); None where C = 1."""
        if self.spec.kind == WEIGHTED_TANH:
            if self.monotone:
                a, b = F.softplus(self.a), F.softplus(self.b)
                return torch.stack([a - b, b])
            return torch.stack([self.a + self.b, -self.b])
        if self.spec.kind == "mixture":
            return F.softplus(self.weight) if self.monotone else self.weight
        if self.spec.spline is not None:
            return self.spec.spline.projected(self.values, self.spec.spline.bounds("Spline", self.monotone))
        return None

    def extra_repr(self) -> str:
        return self.spec.label
