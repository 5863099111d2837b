"""GradNet-M and mGradNet-M: sums of modules, each the gradient of a potential of its own projection."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import TRANSFORMS
from ..errors import check_choice, check_dtype, message
from ..functional import Network, SoftmaxModules, TransformedModules
from .activation import WEIGHTED_SOFTMAX, Activation, ActivationSpec, parse_activation
from .base import GradNet, check_sizes, init_uniform, parameter_of, through_softplus
from .stacked import StackedModules, attribute_of, reset_modules

COMBINATIONS = ("sum", "logsumexp")
"""What a network can make of its modules' potentials."""


class GradNetM(GradNet):
    """Modular gradient network: f(x) = Σ_i α_i · (gradient of module i's potential) + bias.

    Equivalent to, with softmax modules:
        f = bias
        for i, m in enumerate(mmgn_modules):
            f = f + alpha[i] * (act(softplus(m.beta) * (x @ m.W.T + m.b)) @ m.W)
    and with transform=ρ, σ the activation and Ψ its antiderivative:
        z = x @ m.W.T + m.b
        f = f + alpha[i] * ((rho_prime(Psi(z).sum(-1, keepdim=True)) * sigma(z)) @ m.W)
    With combine="logsumexp" the potential is not the sum of the modules' potentials F_i, but their soft maximum
    log(Σ_i exp(κ F_i + offset_i))/κ with κ = exp(sharpness), so that the gradients are averaged:
        f = bias + Σ_i softmax_i(κ F_i + offset_i) · ∇F_i

    Args:
        num_modules: M.
        in_dim: d, the dimension of x and f(x).
        embed_dim: h, the number of hidden units of each module.
        activation: "softmax" or "weighted_softmax" (a·softmax(z) − b·softmax(−z) with learned a, b), or
            torch.nn.Softmax(dim=-1), or a function that makes it; with `transform`, a name of the activation table.
        transform: ρ, a name of gradnets_fast.activations.TRANSFORMS, or None for softmax modules.
        combine: "sum", or "logsumexp" for the soft maximum of the modules' potentials, which adds the parameters
            `sharpness` () and `offset` (M,).
        linear: as in `GradNetC`.
        device, dtype: of the parameters.

    Attributes:
        mmgn_modules: the parameters of all modules, W (M, h, d), b (M, h), …; `mmgn_modules[i]` is a view of module i.
            A state_dict has the parameters of each module, as the authors' code.

    Shapes: x (…, d) → f(x) and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, GradNet-M; arXiv 2301.10862, M-MGN.

    >>> import torch
    >>> net = GradNetM(num_modules=2, in_dim=3, embed_dim=5, activation="weighted_softmax")
    >>> net(torch.zeros(4, 3)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        num_modules: int,
        in_dim: int,
        embed_dim: int,
        activation: Activation = "softmax",
        *,
        transform: str | None = None,
        combine: str = "sum",
        linear: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_sizes(where, num_modules=num_modules, in_dim=in_dim, embed_dim=embed_dim)
        check_dtype(where, dtype)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        spec = parse_activation(where, activation, monotone=self.monotone, coupled=True)
        _check_transform(where, spec, transform, self.monotone)
        check_choice(where, "combine", combine, COMBINATIONS)
        self.num_modules, self.in_dim, self.embed_dim = num_modules, in_dim, embed_dim
        self.spec, self.transform, self.combine = spec, transform, combine
        holds = {"softmax": transform is None, "weighted": spec.kind == WEIGHTED_SOFTMAX}
        self.mmgn_modules = StackedModules(num_modules, in_dim, embed_dim, **holds, **factory)
        self.alpha = nn.Parameter(torch.empty(num_modules, **factory))
        self.bias = nn.Parameter(torch.empty(in_dim, **factory))
        if combine == "logsumexp":
            self.sharpness = nn.Parameter(torch.empty((), **factory))
            self.offset = nn.Parameter(torch.empty(num_modules, **factory))
        self._set_linear(linear, in_dim, **factory)
        self.reset_parameters()

    @property
    def family(self) -> type[Network]:  # type: ignore[override]
        """The class of gradnets_fast.functional whose operators compute it."""
        return SoftmaxModules if self.transform is None else TransformedModules

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        reset_modules(self.mmgn_modules)
        nn.init.uniform_(self.alpha) if self.monotone else nn.init.normal_(self.alpha)
        init_uniform(self.bias, self.embed_dim)
        if self.combine == "logsumexp":
            nn.init.zeros_(self.sharpness)
            nn.init.zeros_(self.offset)
        if self.linear is not None:
            self.linear.reset_parameters()

    def outer_coefficients(self) -> str | None:
        return "alpha" if self.combine == "sum" else None

    def _effective(self) -> Network:
        names = {"beta": self.transform is None, "act.a": self._is_weighted(), "act.b": self._is_weighted()}
        optional = {attribute_of(name): self._of_all(name) for name, is_there in names.items() if is_there}
        if self.combine == "logsumexp":
            optional |= {"sharpness": self.sharpness.exp(), "offset": self.offset}
        alpha, bias = parameter_of(self, "alpha"), parameter_of(self, "bias")
        return self._effective_of(self._of_all("W"), self._of_all("b"), alpha, bias, **optional)

    def _is_weighted(self) -> bool:
        return self.spec.kind == WEIGHTED_SOFTMAX

    def _raw(self) -> dict[str, Tensor | list[Tensor]] | None:
        if self.combine != "sum" or self.linear is not None:
            return None
        return {**dict(self.mmgn_modules.named_parameters()), "alpha": self.alpha, "bias": self.bias}

    def _effective_of(  # type: ignore[override]
        self,
        W: Tensor,
        b: Tensor,
        alpha: Tensor,
        bias: Tensor,
        beta: Tensor | None = None,
        act_a: Tensor | None = None,
        act_b: Tensor | None = None,
        **combine: Any,
    ) -> Network:
        alpha = self._weight(alpha)
        if beta is None:
            assert self.transform is not None
            return TransformedModules(W, b, alpha, bias, self.spec.basis[0], self.transform, **combine)
        temperature = F.softplus(beta).flatten()
        if act_a is None or act_b is None:
            return SoftmaxModules(W, b, temperature, alpha, None, bias, **combine)
        positive, negative = (alpha * self._weight(weight) for weight in (act_a, act_b))
        return SoftmaxModules(W, b, temperature, positive, negative, bias, **combine)

    def _weight(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) if self.monotone else raw

    def _pulled_back(self, gradients: Any, network: Network, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        found, weights = {"W": gradients.W, "b": gradients.b, "bias": gradients.bias}, {}
        if self.transform is not None:
            weights["alpha"] = gradients.weight
        else:
            found["beta"] = through_softplus(gradients.temperature.unsqueeze(1), raw["beta"])
            weights["alpha"] = gradients.positive
        if self._is_weighted():
            alpha, a, b = (self._weight(raw[name]) for name in ("alpha", "act_a", "act_b"))
            of_a, of_b = gradients.positive, gradients.negative
            weights = {"alpha": of_a * a + of_b * b, "act_a": of_a * alpha, "act_b": of_b * alpha}
        if self.monotone:
            weights = {name: through_softplus(weight, raw[name]) for name, weight in weights.items()}
        return found | weights

    def _of_all(self, name: str) -> Tensor:
        """Return all modules' parameter of a name in the authors' code, (M, …)."""
        return parameter_of(self.mmgn_modules, attribute_of(name))

    def module_potentials(self, x: Tensor) -> Tensor:
        """Each module's potential F_i(x), (…, M), which `combine` makes one of.

        >>> import torch
        >>> mGradNetM(num_modules=2, in_dim=3, embed_dim=5).module_potentials(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
        """
        return torch.stack([module.potential(x) for module in self._each_module()], -1)

    def module_gradients(self, x: Tensor) -> Tensor:
        """∇F_i(x), (…, M, d).

        >>> import torch
        >>> mGradNetM(num_modules=2, in_dim=3, embed_dim=5).module_gradients(torch.zeros(4, 3)).shape
        torch.Size([4, 2, 3])
        """
        return torch.stack([module.value(x) for module in self._each_module()], -2)

    def _each_module(self) -> list[Network]:
        """Return each module as a network of its own, without bias."""
        network = self._current()
        tensors = [
            name.rstrip("?") for name in network.family.parameters if getattr(network, name.rstrip("?")) is not None
        ]
        alone: Any = partial(cast(Any, replace), network, bias=None, sharpness=None, offset=None)
        return [alone(**{name: getattr(network, name)[i : i + 1] for name in tensors}) for i in range(self.num_modules)]

    @torch.no_grad()
    def move_origin_(self, origin: Tensor) -> None:
        """Turns f(x) into f(x − origin), in place; origin (d,).

        >>> import torch
        >>> net, x, origin = mGradNetM(num_modules=2, in_dim=3, embed_dim=5), torch.randn(4, 3), torch.ones(3)
        >>> expected = net(x - origin)
        >>> net.move_origin_(origin)
        >>> torch.allclose(net(x), expected, atol=1e-5)
        True
        """
        for module in self.mmgn_modules:
            module.b.sub_(module.W @ origin)
        if self.linear is not None:
            self.bias.sub_(self.linear(origin))

    def extra_repr(self) -> str:
        sizes = f"num_modules={self.num_modules}, in_dim={self.in_dim}, embed_dim={self.embed_dim}"
        transform = "" if self.transform is None else f", transform={self.transform!r}"
        combine = "" if self.combine == "sum" else f", combine={self.combine!r}"
        return f"{sizes}, activation={self.spec.label!r}{transform}{combine}"


def _check_transform(where: str, spec: ActivationSpec, transform: str | None, monotone: bool) -> None:
    softmax = spec.basis == ("softmax",)
    if transform is None:
        if not softmax:
            fix = "add transform=, for example transform='half_square', or use RidgeGradNet"
            raise ValueError(message(where, "activation", "softmax or weighted_softmax", spec.label, fix))
        return
    check_choice(where, "transform", transform, list(TRANSFORMS), "or None for softmax modules")
    if softmax:
        fix = "choose a name of the activation table, for example activation='tanh'"
        raise ValueError(
            message(where, "activation", "an elementwise function, since transform is given", spec.label, fix)
        )
    chosen = TRANSFORMS[transform]
    if monotone and not chosen.keeps_convexity_on_nonnegative:
        able = ", ".join(t.name for t in TRANSFORMS.values() if t.keeps_convexity_on_nonnegative)
        raise ValueError(message(where, "transform", f"one that keeps convexity ({able})", transform, chosen.why_not))


class mGradNetM(GradNetM):
    """Monotone modular gradient network: `GradNetM` with α = softplus(alpha) and nonnegative weights, so ∇f ⪰ 0.

    Log-sum-exp is convex and nondecreasing in each potential, so that either way of combining them keeps convexity.

    Equivalent to: `GradNetM` after softplus of alpha and of the weights of a weighted softmax.

    Args, Shapes, Raises: as `GradNetM`; `linear` may be "psd" or None; `transform` must keep convexity.

    Source: arXiv 2404.07361, mGradNet-M.

    >>> sum(p.numel() for p in mGradNetM(num_modules=4, in_dim=2, embed_dim=7).parameters())
    94
    """

    monotone = True
