"""RidgeGradNet and mRidgeGradNet: one hidden layer, the simplest gradient network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_dtype
from ..functional import Ridge
from .activation import Activation, ElementwiseActivation, parse_activation
from .base import GradNet, check_sizes, init_uniform, parameter_of


class RidgeGradNet(GradNet):
    """Gradient network with one hidden layer: f(x) = Wᵀσ(Wx + b) + bias.

    Equivalent to:
        sigma(x @ W.T + b) @ W + bias

    Args:
        in_dim: d, the dimension of x and f(x).
        embed_dim: h, the number of hidden units.
        activation: as in `GradNetC`, a `Spline` or `Heads`.
        linear: as in `GradNetC`.
        device, dtype: of the parameters.

    Shapes: x (…, d) → f(x) and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361.

    >>> import torch
    >>> net = RidgeGradNet(in_dim=2, embed_dim=5, activation="gelu")
    >>> net(torch.zeros(4, 2)).shape
    torch.Size([4, 2])
    """

    family = Ridge

    def __init__(
        self,
        in_dim: int,
        embed_dim: int,
        activation: Activation = "tanh",
        *,
        linear: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_sizes(where, in_dim=in_dim, embed_dim=embed_dim)
        check_dtype(where, dtype)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_dim, self.embed_dim = in_dim, embed_dim
        self.spec = parse_activation(where, activation, monotone=self.monotone, learned=True)
        self.act = ElementwiseActivation(self.spec, embed_dim, self.monotone, **factory)
        self.W = nn.Parameter(torch.empty(embed_dim, in_dim, **factory))
        self.b = nn.Parameter(torch.empty(embed_dim, **factory))
        self.bias = nn.Parameter(torch.empty(in_dim, **factory))
        self._set_linear(linear, in_dim, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        init_uniform(self.W, self.in_dim)
        init_uniform(self.b, self.in_dim)
        init_uniform(self.bias, self.embed_dim)
        self.act.reset_parameters()
        if self.linear is not None:
            self.linear.reset_parameters()

    def _effective(self) -> Ridge:
        W, b, bias = (parameter_of(self, name) for name in ("W", "b", "bias"))
        return Ridge(W, *self.act.cascade(b), bias, self.spec.basis, self.spec.heads is not None)

    def _raw(self) -> dict[str, Tensor | list[Tensor]] | None:
        if self.spec.kind != "fixed" or self.linear is not None:
            return None
        return {"W": self.W, "b": self.b, "bias": self.bias}

    def _effective_of(self, W: Tensor, b: Tensor, bias: Tensor) -> Ridge:  # type: ignore[override]
        return Ridge(W, None, b, None, bias, self.spec.basis)

    def _pulled_back(self, gradients: Any, network: Any, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"W": gradients.W, "b": gradients.shift, "bias": gradients.bias}

    def hidden_dimensions(self) -> dict[str, int]:
        learned = {f"act.{name}": p.dim() - 1 for name, p in self.act.named_parameters() if p.shape[-1] > 1}
        return {"W": 0, "b": 0, **learned}

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, embed_dim={self.embed_dim}, activation={self.spec.label!r}"


class mRidgeGradNet(RidgeGradNet):
    """Monotone gradient network with one hidden layer: `RidgeGradNet` with a nondecreasing σ, so ∇f ⪰ 0.

    Equivalent to: `RidgeGradNet`; a learnable activation has its weights passed through softplus.

    Args, Shapes, Raises: as `RidgeGradNet`; `linear` may be "psd" or None.

    Source: arXiv 2404.07361; arXiv 2301.10862.

    >>> mRidgeGradNet(in_dim=2, embed_dim=3, activation="softplus").monotone
    True
    """

    monotone = True
