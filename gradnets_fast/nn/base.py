"""What all architectures share: the linear part, initialisation, and the names that `explain` reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_parameters, check_positive, check_tensor, message
from ..functional import PLAIN_TYPES, Network, logarithm_of_positive, slogdet_of, slogdet_with_linear, without_autocast
from .hooks import Part, compute_parameters, compute_parameters_of_parts

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

LINEAR_PARTS = ("psd", "symmetric")
METHODS = ("forward", "jvp", "potential", "divergence", "jacobian", "value_and_gradient", "slogdet")
"""What a network computes, by the names of its methods."""


class LinearMap:
    """x ↦ VᵀV x ("psd") or (S + Sᵀ)/2 x ("symmetric"): the gradient of ½|Vx|² or ½xᵀSx, whoever holds the matrix.

    Attributes:
        kind: "psd" or "symmetric".
        V: (k, d), of a "psd" one.
        S: (d, d), of a "symmetric" one.
    """

    kind: str
    V: Tensor
    S: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The linear part's gradient at x, (…, d)."""
        if self.kind == "psd" and not self._pays(x):
            V = _on_this_rank(self.V)
            return x @ V.T @ V
        return x @ self.matrix()

    def added_to(self, f: Tensor, x: Tensor) -> Tensor:
        """f + the linear part's gradient at x, (…, d); of many points in one pass over f."""
        if x.dim() == 2 and self._pays(x):
            return torch.addmm(f, x, self.matrix())
        return f + self.forward(x)

    def _pays(self, x: Tensor) -> bool:
        """Whether a product with `matrix` and its making take fewer operations than two products with V."""
        d = x.shape[-1]
        # While torch.export traces, this would bind the number of points.
        return not torch.compiler.is_compiling() and x.numel() > d * d

    def matrix(self) -> Tensor:
        """VᵀV or (S + Sᵀ)/2, the linear part's Jacobian, (d, d)."""
        own = _on_this_rank(self.V if self.kind == "psd" else self.S)
        return own.T @ own if self.kind == "psd" else (own + own.T) / 2

    def trace(self) -> Tensor:
        """The trace of `matrix`, in O(d²), ()."""
        own = _on_this_rank(self.V if self.kind == "psd" else self.S)
        return own.square().sum() if self.kind == "psd" else own.diagonal().sum()

    def potential(self, x: Tensor) -> Tensor:
        """½ x·(linear part of x), (…,)."""
        return (x * self.forward(x)).sum(-1) / 2


def _on_this_rank(parameter: Tensor) -> Tensor:
    """A parameter that all ranks of a mesh hold whole, such as `parallelize` leaves it, as a plain tensor."""
    to_local = getattr(parameter, "to_local", None)
    return parameter if to_local is None else to_local()


class LinearPart(LinearMap, Part):
    """A linear map with a matrix of its own, (d, d)."""

    V: nn.Parameter
    S: nn.Parameter

    def __init__(self, kind: str, in_dim: int, **factory: Any) -> None:
        super().__init__()
        self.kind = kind
        setattr(self, "V" if kind == "psd" else "S", nn.Parameter(torch.empty(in_dim, in_dim, **factory)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the matrix uniformly from (−k, k), k = 1/in_dim: an initial map of small norm."""
        for matrix in self.parameters():
            nn.init.uniform_(matrix, -1.0 / matrix.shape[0], 1.0 / matrix.shape[0])

    def extra_repr(self) -> str:
        return self.kind


class GradNet(nn.Module):
    """A network that is the gradient of a scalar potential.

    A subclass names its family of operators and maps its parameters to their arguments, in `_effective`; the methods
    here follow from that.

    Hooks run where the network is called.  Of forward pre-hooks the other methods run those that compute parameters,
    such as torch.nn.utils.weight_norm's.

    Shapes: x (…, d) → forward and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `gradnets_fast.ridge`, of the points or the parameters.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361.

    Attributes:
        family: the class of gradnets_fast.functional whose operators compute it, for example `Ridge`.
        monotone: whether the potential is convex for every value of the parameters.
        mesh: the ranks among which `gradnets_fast.parallelize` has divided it, or None.
    """

    mesh: DeviceMesh | None = None
    family: type[Network]
    monotone: bool = False
    linear: LinearPart | None

    @property
    def operator_name(self) -> str:
        """The functional operator that `forward` calls, whose name the other operators' names begin with."""
        return self.family.family.name

    @property
    def point_dimensions(self) -> int:
        """How many dimensions of x are one point: 1, or those of an image with its channels."""
        return 1

    def _effective(self) -> Network:
        """Return the network in its effective parameters, as operators take them."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its operator's arguments are")

    def _raw(self) -> dict[str, Tensor | list[Tensor]] | None:
        """Return the parameters by the names of `_effective_of`'s arguments, those in a list to be stacked.

        None where there is no `_pulled_back`, and gradients are autograd's business.
        """
        return None

    def _effective_of(self, *raw: Tensor, **named: Tensor) -> Network:
        """Return `_effective` of these parameters in place of the network's own."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its operator's arguments are")

    def _pulled_back(self, gradients: Any, network: Any, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients in `raw` from those in the effective parameters: the chain rule in closed form.

        gradients: those of a function of `network`, which is `_effective_of(**raw)`, in its fields.
        """
        raise NotImplementedError(f"{type(self).__name__} has no chain rule in closed form")

    def hidden_dimensions(self) -> dict[str, int]:
        """Return along which dimension each parameter counts the hidden units; parameters that have none are left out.

        f is a sum over hidden units where there are any: this is what `gradnets_fast.parallelize` divides.
        """
        return {}

    def outer_coefficients(self) -> str | None:
        """Return the name of the parameter that f without bias and linear part is linear in; None if there is none.

        In a monotone network it is linear in the parameter's softplus.
        """
        return None

    def _effective_checked(self) -> Network:
        """Return `_effective`, after a check that its parameters are whole or divided by `parallelize`."""
        if Part.any_has_hooks:
            compute_parameters_of_parts(self)
        try:
            network = self._effective()
        except RuntimeError:  # parameters that PyTorch has no functions for
            check_parameters(type(self).__name__, self.named_parameters())
            raise
        if type(network.W) not in PLAIN_TYPES:
            self._check_mesh(network.W)
        return network

    def _current(self) -> Network:
        """Return `_effective_checked` for methods that PyTorch runs no hooks before."""
        if self._forward_pre_hooks:
            compute_parameters(self)
        return self._effective_checked()

    def _check_mesh(self, W: Any) -> None:
        """Raise if W is distributed by another hand than `parallelize`: ranks may have points of their own then."""
        mesh = getattr(W, "device_mesh", None)
        if mesh is None or mesh == self.mesh:
            return
        where = type(self).__name__
        fix = "call the module that fully_shard was applied to, or apply gradnets_fast.fully_shard to the network too"
        raise RuntimeError(message(where, "parameters", "whole on this rank, or divided by parallelize", "a part", fix))

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), the gradient of the potential at points x (…, d), (…, d).

        Equivalent to:
            torch.autograd.grad(net.potential(x).sum(), x)[0]

        >>> import torch
        >>> from gradnets_fast import mGradNetC
        >>> net, x = mGradNetC(3, 2, 5), torch.randn(4, 2, requires_grad=True)
        >>> torch.allclose(net(x), torch.autograd.grad(net.potential(x).sum(), x)[0], atol=1e-5)
        True
        """
        f = self._effective_checked().value(x)
        return f if self.linear is None else self.linear.added_to(f, x)

    def potential(self, x: Tensor) -> Tensor:
        """Return the potential F(x) with ∇F = f at points x (…, d), (…,).

        In closed form; of cascades with more than one layer by quadrature, as `gradnets_fast.ridge_potential` says.

        >>> import torch
        >>> from gradnets_fast import mRidgeGradNet
        >>> mRidgeGradNet(2, 5).potential(torch.zeros(4, 2)).shape
        torch.Size([4])
        """
        F = self._current().potential(x)
        return F if self.linear is None else F + self.linear.potential(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(x), (…,), and f(x) = ∇F(x), (…, d), in one pass where the architecture has kernels for both.

        Equivalent to:
            net.potential(x), net(x)

        >>> import torch
        >>> from gradnets_fast import mGradNetM
        >>> F, f = mGradNetM(2, 3, 5).value_and_gradient(torch.zeros(4, 3))
        >>> F.shape, f.shape
        (torch.Size([4]), torch.Size([4, 3]))
        """
        f, F = self._current().value_and_potential(x)
        return (F, f) if self.linear is None else (F + self.linear.potential(x), self.linear.added_to(f, x))

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """J(x) v, (…, d), for directions v of x's shape; J being symmetric, also the vector-Jacobian product.

        Equivalent to:
            torch.func.jvp(net, (x,), (v,))[1]

        >>> import torch
        >>> from gradnets_fast import mGradNetC
        >>> net, x, v = mGradNetC(3, 2, 5), torch.randn(4, 2), torch.randn(4, 2)
        >>> torch.allclose(net.jvp(x, v), torch.func.jvp(net, (x,), (v,))[1], atol=1e-5)
        True
        """
        product = self._current().jvp(x, v)
        return product if self.linear is None else product + self.linear(v)

    def divergence(self, x: Tensor) -> Tensor:
        """tr J(x), the Laplacian of the potential, (…,): exact, in O(h d) a point and module.

        Equivalent to:
            net.jacobian(x).diagonal(dim1=-2, dim2=-1).sum(-1)

        >>> import torch
        >>> from gradnets_fast import mGradNetM
        >>> net, x = mGradNetM(2, 3, 5), torch.randn(4, 3)
        >>> torch.allclose(net.divergence(x), net.jacobian(x).diagonal(dim1=-2, dim2=-1).sum(-1), atol=1e-5)
        True
        """
        divergence = self._current().divergence(x)
        return divergence if self.linear is None else divergence + self.linear.trace()

    def jacobian(self, x: Tensor) -> Tensor:
        """J(x), symmetric, (…, d, d); positive semidefinite when `monotone`.

        Equivalent to, for x (B, d):
            torch.func.vmap(torch.func.jacrev(net))(x)

        >>> import torch
        >>> from gradnets_fast import RidgeGradNet
        >>> net, x = RidgeGradNet(3, 5, "gelu"), torch.randn(4, 3)
        >>> torch.allclose(net.jacobian(x), torch.func.vmap(torch.func.jacrev(net))(x), atol=1e-5)
        True
        """
        jacobian = self._current().jacobian(x)
        # Autocast leaves (S + Sᵀ)/2 in float32.
        return jacobian if self.linear is None else jacobian + self.linear.matrix().to(jacobian.dtype)

    def slogdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sign of det J(x) and log|det J(x)|, (…,) each, as `gradnets_fast.symmetric_slogdet` of J(x).

        The gradient of the logarithm in everything is that of <J⁻¹, J>, so that J, (…, d, d), is all that is stored for
        it; without gradients it is made in pieces of the batch.  With linear="psd" and half as many hidden units as
        coordinates or fewer, a matrix of the size of the hidden units takes its place, by Sylvester's identity.
        Networks and points of 16 bits are computed in float32, and so is everything under autocast.

        Equivalent to:
            torch.linalg.slogdet(net.jacobian(x))

        >>> import torch
        >>> from gradnets_fast import mGradNetC
        >>> net, x = mGradNetC(3, 2, 5, linear="psd"), torch.randn(4, 2)
        >>> sign, logarithm = net.slogdet(x)
        >>> torch.allclose(logarithm, torch.linalg.slogdet(net.jacobian(x))[1], atol=1e-4)
        True
        """
        check_tensor(type(self).__name__, "x", x)
        with without_autocast(x):
            is_narrow, linear = x.itemsize == 2, self.linear
            network = self._current().in_float32() if is_narrow else self._current()
            points = x.float() if is_narrow else x
            if linear is not None and linear.kind == "psd" and self.mesh is None:
                shorter = slogdet_with_linear(network, linear.V.to(points.dtype), points)
                if shorter is not None:
                    return shorter[0].to(x.dtype), shorter[1].to(x.dtype)

            def jacobian(points: Tensor) -> Tensor:
                J = network.jacobian(points)
                return J if linear is None else J + linear.matrix().to(J.dtype)

            sign, logarithm = slogdet_of(jacobian, points)
            return sign.to(x.dtype), logarithm.to(x.dtype)

    def logdet(self, x: Tensor) -> Tensor:
        """Return log det J(x), (…,): −inf where J is singular, and NaN where its determinant is negative.

        A warning names those rows.  With linear="psd" the Jacobian of a monotone network is positive definite.

        Equivalent to:
            torch.logdet(net.jacobian(x))

        >>> import torch
        >>> from gradnets_fast import mGradNetM
        >>> net, x = mGradNetM(2, 3, 5, linear="psd"), torch.randn(4, 3)
        >>> net.logdet(x).shape
        torch.Size([4])
        """
        sign, logarithm = self.slogdet(x)
        where, fix = f"{type(self).__name__}.logdet", 'use a monotone network with linear="psd"'
        return logarithm_of_positive(where, sign, logarithm, fix)

    def _set_linear(self, linear: str | None, in_dim: int, **factory: Any) -> None:
        where = type(self).__name__
        if linear is None:
            self.linear = None
            return
        check_choice(where, "linear", linear, LINEAR_PARTS, "or None for no linear part")
        if self.monotone and linear != "psd":
            fix = "a symmetric matrix need not be positive semidefinite"
            raise ValueError(message(where, "linear", "'psd' or None for a monotone network", repr(linear), fix))
        self.linear = LinearPart(linear, in_dim, **factory)


def parameter_of(module: nn.Module, name: str) -> Tensor:
    """Return the attribute `name`; a plain parameter sooner than nn.Module, which looks elsewhere first."""
    parameter = module._parameters.get(name)
    found: Tensor = getattr(module, name) if parameter is None else parameter
    return found


def parameters_of(parameters: nn.ParameterList) -> list[Tensor]:
    """Return the parameters of a list, in their order, by `parameter_of`."""
    return [parameter_of(parameters, str(i)) for i in range(len(parameters))]


def through_softplus(gradient: Tensor, raw: Tensor) -> Tensor:
    """Return the gradient in `raw` from that in softplus(raw), as autograd computes it."""
    found: Tensor = torch.ops.aten.softplus_backward.default(gradient, raw, 1, 20)
    return found


def check_sizes(where: str, **sizes: object) -> None:
    """Raises unless every size is a positive int."""
    for name, size in sizes.items():
        check_positive(where, name, size)


def init_uniform(parameter: Tensor, fan_in: int) -> None:
    """Draws uniformly from (−k, k), k = sqrt(1/fan_in)."""
    k = math.sqrt(1.0 / fan_in)
    nn.init.uniform_(parameter, -k, k)


def inverse_softplus(positive: Tensor) -> Tensor:
    """Return x with softplus(x) = positive, without overflow; −∞ for 0."""
    return positive + torch.log(-torch.expm1(-positive))


def init_weights(parameter: Tensor, monotone: bool) -> None:
    """Draws from [0, 1) before a softplus, else from [−½, ½)."""
    nn.init.uniform_(parameter, 0.0, 1.0) if monotone else nn.init.uniform_(parameter, -0.5, 0.5)
