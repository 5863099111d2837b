"""DeepGradNet and mDeepGradNet: the gradient of the energy of several layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import TABLE
from ..errors import as_int, check_dtype, check_flag, check_positive, check_positive_number, message
from ..functional import Deep, Structure, check_structure, ridge
from .activation import Activation, parse_activation
from .base import (
    GradNet,
    check_sizes,
    init_uniform,
    inverse_softplus,
    parameter_of,
    parameters_of,
    through_softplus,
)

SINUSOIDAL_FREQUENCY = 30.0
"""The first layer's frequencies for sin: Sitzmann et al., "Implicit Neural Representations with Periodic Activation
Functions", 2020."""


class DeepGradNet(GradNet):
    """Gradient of a deep energy: f = ∇F, F = <c, a_L>, a_l = σ_l(V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l).

    It is the function that autograd makes of a multi-layer perceptron with one output, in two passes over the weights
    and without a graph; its derivatives, in the points and the parameters, are kernels too.

    Equivalent to, without options:
        a = x.detach().requires_grad_()
        x = a
        for V, b in zip([A, *V], b):
            a = act(a @ V.T + b)
        f = torch.autograd.grad((a @ c).sum(), x, create_graph=True)[0]

    Args:
        in_dim: d, the dimension of x and f(x).
        widths: h_l, the hidden units of each layer.
        activation: σ, a name of the activation table or a torch.nn activation, or one of them for each layer.
        input_skip: True: every layer sees x, by a matrix A_l of its own; "quadratic": by the squares (Q_lr x)² too.
        rank: how many squares each hidden unit adds where input_skip is "quadratic"; None is 1.
        residual: a_{l−1} is added to a_l; the widths are equal.
        inverse_temperature: β; the layers compute σ(β u)/β, which for softplus nears ReLU as β grows.
        learn_temperature: β is a parameter: one for each layer, or a common one of residual layers.
        linear: adds a learned symmetric linear map, "psd" (VᵀV) or "symmetric"; None for none.
        keep: training keeps u_l and p_l, 2 Σ h_l values for each point, from the forward pass of f to the backward
            pass, which then has four products for each weight left instead of six.  What that saves is mostly spent on
            the memory again: a step is up to 1.1 times as quick (docs/deep.md has the figures), where `squared_error`
            makes it up to 1.3 times as quick without.  The C++ kernels do so, in eager mode; elsewhere it changes
            nothing, and no result ever.
        device, dtype: of the parameters.

    Shapes: x (…, d) → f(x) and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Amos, Xu, Kolter, "Input Convex Neural Networks", 2017, for the skips; the gradient is the chain rule.

    >>> import torch
    >>> net = DeepGradNet(in_dim=2, widths=(64, 64), activation="silu")
    >>> F, f = net.value_and_gradient(torch.zeros(4, 2))
    >>> F.shape, f.shape, net.divergence(torch.zeros(4, 2)).shape
    (torch.Size([4]), torch.Size([4, 2]), torch.Size([4]))
    """

    family = Deep

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        activation: Activation | Sequence[Activation] = "silu",
        *,
        input_skip: bool | str = False,
        rank: int | None = None,
        residual: bool = False,
        inverse_temperature: float = 1.0,
        learn_temperature: bool = False,
        linear: str | None = None,
        keep: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_sizes(where, in_dim=in_dim)
        check_dtype(where, dtype)
        check_flag(where, "keep", keep)
        self.in_dim, self.input_skip, self.keep = in_dim, input_skip, keep
        self.structure = _structure(where, widths, input_skip, rank, residual)
        self.basis = _activations(where, activation, len(self.structure.widths), self.monotone)
        check_positive_number(where, "inverse_temperature", inverse_temperature)
        self.inverse_temperature = float(inverse_temperature)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        h, count = self.structure.widths, len(self.structure.widths)
        self.A = _parameters([(n, in_dim) for n in (h if self.structure.input_skip else h[:1])], factory)
        self.V = _parameters(list(zip(h[1:], h)), factory)
        rank = self.structure.rank
        self.Q = _parameters([(rank, n, in_dim) for n in h] if rank else [], factory)
        self.b = _parameters([(n,) for n in h], factory)
        self.c = nn.Parameter(torch.empty(h[-1], **factory))
        shape = () if residual else (count,)
        self.log_temperature = nn.Parameter(torch.empty(shape, **factory)) if learn_temperature else None
        self._set_linear(linear, in_dim, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew.

        Uniformly as torch.nn.Linear does; for sin as sinusoidal networks do (Sitzmann et al., 2020); nonnegative
        weights so that the layers begin with about mean 0 and variance 1 (after Hoedt and Klambauer, "Principled Weight
        Initialisation for Input-Convex Neural Networks", 2023).
        """
        d, before = self.in_dim, (self.in_dim, *self.structure.widths)
        for i, A in enumerate(self.A):
            init_uniform(A, d)
            if self.monotone:
                nn.init.normal_(A, std=(1.0 if i == 0 else 0.25) / math.sqrt(d))
            elif i == 0 and self.basis[0] == "sin":
                nn.init.uniform_(A, -SINUSOIDAL_FREQUENCY / d, SINUSOIDAL_FREQUENCY / d)
        for Q in self.Q:
            nn.init.uniform_(Q, -1.0 / d, 1.0 / d)
        for b, fan_in in zip(self.b, before):
            init_uniform(b, fan_in)
        # The rows of a first layer, of random directions, have correlations of either sign.
        first = [(1.0 / math.sqrt(d), -1.0 / math.sqrt(d))]
        layers = zip(self.basis, self.basis[1:], self.V, self.b[1:], before[1:])
        for i, (below, name, V, b, fan_in) in enumerate(layers):
            if self.monotone:
                init_positive(V, b, below, *first[: i == 0])
            else:
                nn.init.uniform_(V, *_bounds(math.sqrt((6.0 if name == "sin" else 1.0) / fan_in)))
        if self.monotone:
            init_positive(self.c, None, self.basis[-1], *first[: len(self.basis) == 1])
        else:
            init_uniform(self.c, before[-1])
        if self.log_temperature is not None:
            nn.init.constant_(self.log_temperature, math.log(self.inverse_temperature))
        if self.linear is not None:
            self.linear.reset_parameters()

    def outer_coefficients(self) -> str:
        return "c"

    def _effective(self) -> Deep:
        A, V, Q, b = map(parameters_of, (self.A, self.V, self.Q, self.b))
        return self._of_parameters(A, V, Q, b, parameter_of(self, "c"))

    def _raw(self) -> dict[str, Tensor | list[Tensor]] | None:
        if self.linear is not None or self.log_temperature is not None or self.inverse_temperature != 1.0:
            return None
        named = dict(self.named_parameters())
        names: list[str] = []
        for i in range(len(self.b)):
            names += [f"A.{i}", *([f"V.{i - 1}"] if i else []), f"Q.{i}", f"b.{i}"]
        # In their order in θ, so that the gradient in θ is that in these one after the other.
        return {name: named[name] for name in (*names, "c") if name in named}

    def _effective_of(self, **raw: Tensor) -> Deep:  # type: ignore[override]
        A, V, Q, b = ([t for name, t in raw.items() if name.startswith(f"{kind}.")] for kind in "AVQb")
        return self._of_parameters(A, V, Q, b, raw["c"])

    def _pulled_back(self, gradients: Any, network: Any, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = gradients.W.split([t.numel() for t in raw.values()])
        found = {name: part.view_as(raw[name]) for name, part in zip(raw, parts)}
        positive = [name for name in raw if self.monotone and (name.startswith("V.") or name == "c")]
        return found | {name: through_softplus(found[name], raw[name]) for name in positive}

    def _of_parameters(self, A: list[Tensor], V: list[Tensor], Q: list[Tensor], b: list[Tensor], c: Tensor) -> Deep:
        """Return the network of these parameters: after softplus, and with the temperatures in the weights."""
        if self.monotone:
            V, c = [F.softplus(weight) for weight in V], F.softplus(c)
        if self.log_temperature is not None or self.inverse_temperature != 1.0:
            A, V, Q, b, c = self._with_temperatures(A, V, Q, b, c)
        parts: list[Tensor] = []
        for i, bias in enumerate(b):
            parts += A[i : i + 1] + (V[i - 1 : i] if i else []) + Q[i : i + 1] + [bias]
        theta = torch.cat([part.reshape(-1) for part in (*parts, c)])
        return Deep(theta, None, self.basis, self.structure, self.keep)

    def _with_temperatures(
        self, A: list[Tensor], V: list[Tensor], Q: list[Tensor], b: list[Tensor], c: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Return parameters with which σ(u) of a layer is β σ(β u)/β: what passes on is β times as large."""
        learned = self.log_temperature
        beta: Any = c.new_tensor(self.inverse_temperature) if learned is None else learned.exp()
        beta = beta.expand(len(b)).unbind()
        A = [weight * t for weight, t in zip(A, beta)]
        V = [weight * (t / below) for weight, t, below in zip(V, beta[1:], beta)]
        Q = [weight * t.sqrt() for weight, t in zip(Q, beta)]
        return A, V, Q, [bias * t for bias, t in zip(b, beta)], c / beta[-1]

    def extra_repr(self) -> str:
        names = self.basis[0] if len(set(self.basis)) == 1 else list(self.basis)
        options: dict[str, tuple[object, object]] = {
            "input_skip": (self.input_skip, False),
            "residual": (self.structure.residual, False),
            "inverse_temperature": (self.inverse_temperature, 1.0),
            "keep": (self.keep, False),
        }
        text = f"in_dim={self.in_dim}, widths={self.structure.widths}, activation={names!r}"
        for name, (value, default) in options.items():
            text += f", {name}={value!r}" if value != default else ""
        return text


class mDeepGradNet(DeepGradNet):
    """Monotone deep gradient network: `DeepGradNet` with softplus(V) and softplus(c), the gradient of a convex energy.

    Equivalent to: `DeepGradNet` after `V, c = softplus(V), softplus(c)`, with convex nondecreasing activations.

    Args:
        in_dim, widths, input_skip: as in `DeepGradNet`.
        activation: convex and nondecreasing functions: identity, softplus, relu or elu.
        linear: "psd" or None.
        options: the other arguments of `DeepGradNet`.

    Shapes, Raises: as `DeepGradNet`.

    Source: Amos, Xu, Kolter, "Input Convex Neural Networks", 2017.

    >>> import torch
    >>> net, x = mDeepGradNet(in_dim=2, widths=(8, 8)), torch.randn(5, 2)
    >>> bool((torch.linalg.eigvalsh(net.jacobian(x)) > -1e-5).all())
    True
    """

    monotone = True

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        activation: Activation | Sequence[Activation] = "softplus",
        *,
        input_skip: bool | str = True,
        linear: str | None = "psd",
        **options: Any,
    ) -> None:
        super().__init__(in_dim, widths, activation, input_skip=input_skip, linear=linear, **options)


def init_positive(
    weight: nn.Parameter, bias: nn.Parameter | None, basis: str, correlations: tuple[float, ...] = (0.5,)
) -> None:
    """Draws weights of values σ(z), whose softplus is log-normal, and the constant bias that centres what they add up.

    With z of mean 0, variance 1 and correlation ρ between units, the sums have mean 0, variance 1 and correlation ½:
    for n units, m = E σ(z), q = E σ(z)² and k = E σ(z₁)σ(z₂) the weights have the squared mean
    ½/(n(q − m²) + n(n − 1)(k − m²)) and the variance ½/(n q).  correlations: values of ρ that are equally frequent.

    Source: Hoedt and Klambauer, "Principled Weight Initialisation for Input-Convex Neural Networks", 2023, for ReLU.
    """
    n = weight.shape[-1]
    # The moment of an odd function is 0 but for rounding, whose sign depends on the processor.
    mean, square = math.sqrt(max(_moment(basis, 0.0), 0.0)), _moment(basis, 1.0)
    mixed = sum(_moment(basis, rho) for rho in correlations) / len(correlations)
    squared_mean = 0.5 / (n * (square - mean * mean) + n * (n - 1) * (mixed - mean * mean))
    of_logarithm = math.log1p(0.5 / (n * square) / squared_mean)
    with torch.no_grad():
        middle = 0.5 * math.log(squared_mean) - 0.5 * of_logarithm
        positive = torch.empty_like(weight).log_normal_(middle, math.sqrt(of_logarithm))
        weight.copy_(inverse_softplus(positive))
        if bias is not None:
            bias.fill_(-n * math.sqrt(squared_mean) * mean)


@lru_cache(maxsize=None)
def _moment(basis: str, correlation: float) -> float:
    """E σ(z₁)σ(z₂) of standard normal numbers: the squared mean of σ for correlation 0, its mean square for 1."""
    grid = torch.linspace(-8.0, 8.0, 201, dtype=torch.float64, device="cpu")
    density = torch.exp(-grid.square() / 2)
    weights = density / density.sum()
    second = correlation * grid[:, None] + math.sqrt(1.0 - correlation**2) * grid
    # The reference, whatever a block of use_backend asks for: that is about the network, and this in float64.
    of = partial(ridge, W=grid.new_ones(1, 1), scale=None, shift=grid.new_zeros(1), coef=None, backend="reference")
    with torch.no_grad():
        value, other = (of(z.reshape(-1, 1), basis=basis).view_as(z) for z in (grid, second))
    return float(weights @ (value[:, None] * other) @ weights)


def _bounds(size: float) -> tuple[float, float]:
    return -size, size


def _parameters(shapes: Sequence[tuple[int, ...]], factory: dict[str, Any]) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.empty(shape, **factory)) for shape in shapes])


def _structure(
    where: str, widths: Sequence[int], input_skip: bool | str, rank: int | None, residual: bool
) -> Structure:
    if not isinstance(widths, Iterable) or isinstance(widths, (str, set, dict)):
        raise TypeError(message(where, "widths", "a sequence of at least one width", repr(widths), "pass (64, 64)"))
    quadratic = isinstance(input_skip, str) and input_skip == "quadratic"
    if not quadratic and not isinstance(input_skip, bool):
        raise ValueError(message(where, "input_skip", "True, False or 'quadratic'", repr(input_skip), "choose one"))
    if rank is not None:
        check_positive(where, "rank", rank)
        if not quadratic:
            fix = "pass input_skip='quadratic' too, or leave rank out"
            raise ValueError(message(where, "rank", "None where there are no squares", rank, fix))
    squares = (1 if rank is None else as_int(rank)) if quadratic else 0
    structure = Structure(tuple(map(as_int, widths)), bool(input_skip), squares, residual)
    check_structure(where, structure)
    return structure


def _activations(where: str, activation: Any, layers: int, monotone: bool) -> tuple[str, ...]:
    """Return the basis function of each layer."""
    several = isinstance(activation, Sequence) and not isinstance(activation, str)
    given = list(activation) if several else [activation] * layers
    if len(given) != layers:
        fix = "pass one for all layers, or one for each"
        raise ValueError(message(where, "activation", f"{layers} activations", len(given), fix))
    specs = [parse_activation(where, each, monotone=monotone) for each in given]
    for spec in specs:
        if spec.kind != "fixed":
            fix = "choose a name of the activation table"
            raise ValueError(message(where, "activation", "activations without weights", spec.label, fix))
        if monotone and not TABLE[spec.basis[0]].convex:
            convex = ", ".join(name for name, basis in TABLE.items() if basis.convex and basis.nondecreasing)
            fix = "choose one of these, or DeepGradNet"
            raise ValueError(message(where, "activation", f"convex functions ({convex})", spec.label, fix))
    return tuple(spec.basis[0] for spec in specs)
