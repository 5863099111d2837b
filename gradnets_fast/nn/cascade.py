"""GradNet-C and mGradNet-C: cascaded layers that share one weight matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import check_dtype, message
from ..functional import Ridge
from .activation import Activation, ElementwiseActivation, parse_activation
from .base import GradNet, check_sizes, init_uniform, init_weights, parameter_of, parameters_of, through_softplus


class GradNetC(GradNet):
    """Cascaded gradient network: f(x) = Wᵀ(α_{L−1} ⊙ act(z_{L−1})) + bias_L with all layers sharing W.

    Equivalent to:
        z = beta[0] * (x @ W.T + bias[0])
        for l in range(1, L):
            z = beta[l] * (x @ W.T + bias[l]) + alpha[l - 1] * act(z)
        f = (alpha[L - 1] * act(z)) @ W + bias[L]

    Args:
        num_layers: L.
        in_dim: d, the dimension of x and f(x).
        embed_dim: h, the number of hidden units.
        activation: a name of the activation table or "weighted_tanh", a list of names (a learned mixture), a torch.nn
            activation, or a function without arguments that makes one.
        linear: adds a learned symmetric linear map, "psd" (VᵀV) or "symmetric"; None for none.
        reuse_penultimate_activation: after the last layer apply the activation of the layer before it, as the authors'
            GradNet_C does; only their checkpoints with learnable activations need it.
        device, dtype: of the parameters.

    Shapes: x (…, d) → f(x) and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> net = GradNetC(num_layers=3, in_dim=2, embed_dim=5, activation="tanh")
    >>> net(torch.zeros(4, 2)).shape, net.potential(torch.zeros(4, 2)).shape
    (torch.Size([4, 2]), torch.Size([4]))
    """

    family = Ridge
    _positive = False
    """Whether softplus of beta and alpha are the weights."""

    def __init__(
        self,
        num_layers: int,
        in_dim: int,
        embed_dim: int,
        activation: Activation = "tanh",
        *,
        linear: str | None = None,
        reuse_penultimate_activation: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_sizes(where, num_layers=num_layers, in_dim=in_dim, embed_dim=embed_dim)
        check_dtype(where, dtype)
        if reuse_penultimate_activation and num_layers < 2:
            fix = "use num_layers >= 2, or leave reuse_penultimate_activation=False"
            raise ValueError(message(where, "num_layers", "at least 2, to have a penultimate layer", num_layers, fix))
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        spec = parse_activation(where, activation, monotone=self.monotone)
        self.num_layers, self.in_dim, self.embed_dim, self.spec = num_layers, in_dim, embed_dim, spec
        self.reuse_penultimate_activation = reuse_penultimate_activation
        self.nonlinearity = nn.ModuleList(
            [ElementwiseActivation(spec, embed_dim, self.monotone, **factory) for _ in range(num_layers)]
        )
        self.W = nn.Parameter(torch.empty(embed_dim, in_dim, **factory))
        sizes = [embed_dim] * num_layers + [in_dim]
        self.bias = nn.ParameterList([nn.Parameter(torch.empty(size, **factory)) for size in sizes])
        self.beta = nn.ParameterList([nn.Parameter(torch.empty(embed_dim, **factory)) for _ in range(num_layers)])
        self.alpha = nn.ParameterList([nn.Parameter(torch.empty(embed_dim, **factory)) for _ in range(num_layers)])
        self._set_linear(linear, in_dim, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        init_uniform(self.W, self.in_dim)
        for i, bias in enumerate(self.bias):
            init_uniform(bias, self.in_dim if i == 0 else self.embed_dim)
        for parameter in (*self.beta, *self.alpha):
            init_weights(parameter, self.monotone)
        for layer in self.nonlinearity:
            layer.reset_parameters()  # type: ignore[operator]
        if self.linear is not None:
            self.linear.reset_parameters()

    def _effective(self) -> Ridge:
        *biases, bias = parameters_of(self.bias)
        beta, alpha, b = (torch.stack(each) for each in (parameters_of(self.beta), parameters_of(self.alpha), biases))
        coefficients = None
        if self.spec.kind != "fixed":
            layers = list(self.nonlinearity)
            if self.reuse_penultimate_activation:
                layers[-1] = layers[-2]
            coefficients = torch.stack([layer.coefficients() for layer in layers])  # type: ignore[operator]
        return self._effective_of(parameter_of(self, "W"), beta, alpha, b, bias, coefficients)

    def _raw(self) -> dict[str, Tensor | list[Tensor]] | None:
        if self.spec.kind != "fixed" or self.linear is not None:
            return None
        *biases, bias = self.bias
        return {"W": self.W, "beta": [*self.beta], "alpha": [*self.alpha], "b": biases, "bias": bias}

    def _effective_of(  # type: ignore[override]
        self, W: Tensor, beta: Tensor, alpha: Tensor, b: Tensor, bias: Tensor, coefficients: Tensor | None = None
    ) -> Ridge:
        if self._positive:
            beta, alpha = F.softplus(beta), F.softplus(alpha)
        coef = alpha.unsqueeze(1) if coefficients is None else alpha.unsqueeze(1) * coefficients
        return Ridge(W, scale=beta, shift=beta * b, coef=coef, bias=bias, basis=self.spec.basis)

    def _pulled_back(self, gradients: Any, network: Any, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        beta, alpha = torch.addcmul(gradients.scale, gradients.shift, raw["b"]), gradients.coef.squeeze(1)
        if self._positive:
            beta, alpha = through_softplus(beta, raw["beta"]), through_softplus(alpha, raw["alpha"])
        b = gradients.shift * network.scale
        return {"W": gradients.W, "beta": beta, "alpha": alpha, "b": b, "bias": gradients.bias}

    def outer_coefficients(self) -> str:
        return f"alpha.{self.num_layers - 1}"

    def hidden_dimensions(self) -> dict[str, int]:
        vectors = [f"{kind}.{i}" for kind in ("bias", "beta", "alpha") for i in range(self.num_layers)]
        learned = {f"nonlinearity.{name}": p.dim() - 1 for name, p in self.nonlinearity.named_parameters()}
        return {"W": 0, **dict.fromkeys(vectors, 0), **learned}

    def extra_repr(self) -> str:
        sizes = f"num_layers={self.num_layers}, in_dim={self.in_dim}, embed_dim={self.embed_dim}"
        flag = ", reuse_penultimate_activation=True" if self.reuse_penultimate_activation else ""
        return f"{sizes}, activation={self.spec.label!r}{flag}"


class mGradNetC(GradNetC):
    """Monotone cascaded gradient network: `GradNetC` with β = softplus(beta), α = softplus(alpha), so ∇f ⪰ 0.

    Equivalent to: `GradNetC` after `beta, alpha = softplus(beta), softplus(alpha)`, with a nondecreasing activation.

    Args, Shapes, Raises: as `GradNetC`; `linear` may be "psd" or None.

    Source: arXiv 2404.07361, mGradNet-C.

    >>> import torch
    >>> sum(p.numel() for p in mGradNetC(num_layers=4, in_dim=2, embed_dim=7).parameters())
    100
    """

    monotone = _positive = True
