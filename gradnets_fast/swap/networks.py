"""Classes for modules whose parameters have other names than ours, or that return more than f; `forms.py` chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import Network, Ridge, TransformedModules
from ..nn import GradNet, GradNetC, GradNetM, mGradNetM
from ..nn.base import LinearMap, parameter_of
from ..nn.hooks import compute_parameters_of_parts
from ..nn.registry import ARCHITECTURES

Arguments = Callable[[nn.Module], dict[str, Any]]
Matrix = Callable[[nn.Module], Tensor]


class Gram(LinearMap):
    """x ↦ VᵀV x for a matrix V (k, d) that a module holds under a name of its own."""

    kind = "psd"

    def __init__(self, V: Tensor) -> None:
        self.V = V

    __call__ = LinearMap.forward

    def _pays(self, x: Tensor) -> bool:
        k, d = self.V.shape
        return not torch.compiler.is_compiling() and x.numel() * (2 * k - d) > k * d * d


class Adapted(GradNet):
    """A user's own module, run by an operator with the arguments that its adapter says.

    Attributes:
        adapter: module -> the operator's arguments besides x.
        matrix: module -> V (k, d) for a linear part VᵀV x; None without one.
    """

    adapter: Arguments
    matrix: Matrix | None

    @property
    def linear(self) -> Gram | None:  # type: ignore[override]
        """The linear part VᵀV x, if the adapter names a matrix."""
        return None if self.matrix is None else Gram(self.matrix(self))

    def _effective(self) -> Network:
        compute_parameters_of_parts(self)
        return self.family(**self.adapter(self))


class PositiveGradNetC(GradNetC):
    """mGradNetC with an activation that falls somewhere, such as gelu: no monotone network in spite of its weights."""

    _positive = True


class CMGN(GradNet):
    """Cascaded monotone gradient network: z_l = Wᵀx + b_l + σ(z_{l−1}), f(x) = W σ(z_{L−1}) + VVᵀx + b_L.

    Parameters: W (d, h), biases of L vectors (h,), bL (d,), V (d, k).

    Attributes:
        basis: σ, a name of the activation table.

    Source: Chaudhari, Pranav, Moura, "Learning Gradients of Convex Functions with Monotone Gradient Networks",
    arXiv 2301.10862, C-MGN.
    """

    family = Ridge
    basis: str

    @property
    def linear(self) -> Gram:  # type: ignore[override]
        """The linear part, VVᵀx."""
        return Gram(parameter_of(self, "V").T)

    def _effective(self) -> Ridge:
        shift = torch.stack(list(self.biases))  # type: ignore[arg-type]
        W, bias = parameter_of(self, "W").T, parameter_of(self, "bL")
        return Ridge(W, None, shift, None, bias, self.basis)


class MMGN(GradNet):
    """Modular monotone gradient network: f(x) = a + VᵀV x + Σ_k s_k(z_k) W_kᵀσ(z_k), z_k = W_k x + b_k.

    Here s_k(z) = Σ_i Ψ(z_i), Ψ' = σ: log cosh for tanh.

    Parameters: a (d,), and V.weight (k, d), W_k.i.weight (h, d), W_k.i.bias (h,) of linear layers.

    Attributes:
        basis: σ, a name of the activation table.

    Source: arXiv 2301.10862, M-MGN.
    """

    family = TransformedModules
    basis: str

    @property
    def linear(self) -> Gram:  # type: ignore[override]
        """The linear part, VᵀV x."""
        return Gram(self.V.weight)  # type: ignore[arg-type, union-attr]

    def _effective(self) -> TransformedModules:
        compute_parameters_of_parts(self)
        layers: list[Any] = list(self.W_k)  # type: ignore[arg-type]
        W, b = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
        return TransformedModules(W, b, b.new_ones(len(layers)), parameter_of(self, "a"), self.basis, "half_square")


class GradNetMByModules(GradNetM):
    """`GradNetM` whose modules are modules of the authors' code, each of which holds its own parameters."""

    def _effective(self) -> Network:
        modules: Iterable[Any] = self.mmgn_modules
        if any(part._forward_pre_hooks for module in modules for part in (module, module._modules["act"])):
            compute_parameters_of_parts(self)
        return super()._effective()

    def _of_all(self, name: str) -> Tensor:
        *path, last = name.split(".")
        modules: Iterable[Any] = self.mmgn_modules
        return torch.stack([parameter_of(reduce(getattr, path, module), last) for module in modules])


class mGradNetMByModules(GradNetMByModules, mGradNetM):
    """`mGradNetM` likewise."""


BY_MODULES: dict[type[nn.Module], type[nn.Module]] = {GradNetM: GradNetMByModules, mGradNetM: mGradNetMByModules}
"""Classes with stacked parameters, and what takes their place where each module holds its own."""

LOG_DETERMINANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "logdet": torch.logdet,
    "logabsdet": lambda J: torch.linalg.slogdet(J).logabsdet,
}
"""Functions of the Jacobian that a network may return beside f; where det J < 0 the first is NaN."""


class _AndLogDeterminant(GradNet):
    """A network whose forward returns (f, log-determinant of the Jacobian of f), shapes (…, d) and (…,).

    Attributes:
        log_determinant: a name of `LOG_DETERMINANTS`.
    """

    log_determinant: str

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """f(x) and the log-determinant of J(x)."""
        return super().forward(x), LOG_DETERMINANTS[self.log_determinant](self.jacobian(x))


AND_LOG_DETERMINANT: dict[type[nn.Module], type[nn.Module]] = {
    cls: type(
        f"{cls.__name__}AndLogDeterminant",
        (_AndLogDeterminant, cls),
        {"__module__": __name__, "__doc__": f"`{cls.__name__}`, returning the log-determinant too."},
    )
    for cls in (
        *(BY_MODULES.get(architecture.network, architecture.network) for architecture in ARCHITECTURES.values()),
        Adapted,
        PositiveGradNetC,
        CMGN,
        MMGN,
    )
}
"""Each class with the one that returns the log-determinant too."""
globals().update({cls.__name__: cls for cls in AND_LOG_DETERMINANT.values()})  # pickle finds them by name
