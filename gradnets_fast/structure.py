"""Structure in the weights: sparse ones, fewer hidden units, and few directions of x.

What f is a sum over is called its groups here: the hidden units of `RidgeGradNet` and `GradNetC`, each with its row w_j
of W, and the modules of `GradNetM`, each with its matrix W_m.  Training with a penalty of the weights is a step of the
loss alone, such as one of Adam, followed by the penalty's proximal map: `soft_threshold_` or `group_soft_threshold_`.
Groups that have become 0 are then taken out by `pruned`, and what is left is a smaller network of the same function.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .errors import as_int, check_tensor, message
from .functional import Network
from .functional._determinant import slogdet_of
from .functional._sylvester import LowRank as LowRankMatrices
from .nn import GradNet, GradNetC, GradNetM, RidgeGradNet
from .nn.base import check_sizes

__all__ = ["LowRank", "group_norms", "group_soft_threshold_", "pruned", "soft_threshold_"]


def group_norms(net: GradNet) -> Tensor:
    """Return the Euclidean norm of the weights of each group: of a row of W, or of a module's matrix.

    Equivalent to, of a cascade:
        net.W.norm(dim=1)

    Args:
        net: a `RidgeGradNet`, `GradNetC` or `GradNetM`, or their monotone kin.

    Returns:
        The norms, (h,) or (M,), without a graph.

    Raises:
        TypeError: another network.

    Source: Yuan, Lin, "Model selection and estimation in regression with grouped variables", 2006.

    >>> import gradnets_fast
    >>> group_norms(gradnets_fast.mGradNetC(num_layers=2, in_dim=3, embed_dim=5)).shape
    torch.Size([5])
    """
    norms: Tensor = _weights("group_norms", net).detach().flatten(1).norm(dim=1)
    return norms


def soft_threshold_(net: GradNet, threshold: float) -> None:
    """Apply the proximal map of threshold·Σ|W_ij|: each weight moves towards 0 by the threshold, and no further.

    Equivalent to, of a cascade:
        net.W.data = net.W.sign() * (net.W.abs() - threshold).clamp(min=0)

    Args:
        net: a `RidgeGradNet`, `GradNetC` or `GradNetM`, or their monotone kin, which is changed.
        threshold: 0 or more; in proximal gradient descent the learning rate times the penalty's factor.

    Raises:
        TypeError, ValueError: another network, or a threshold that is no such number.

    Source: Beck, Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems", 2009.

    >>> import gradnets_fast
    >>> net = gradnets_fast.mGradNetC(num_layers=2, in_dim=3, embed_dim=5)
    >>> soft_threshold_(net, 1e6)
    >>> float(net.W.detach().abs().max())
    0.0
    """
    W = _weights("soft_threshold_", net)
    _check_number("soft_threshold_", "threshold", threshold)
    with torch.no_grad():
        W.copy_(torch.nn.functional.softshrink(W, float(threshold)))


def group_soft_threshold_(net: GradNet, threshold: float) -> None:
    """Apply the proximal map of threshold·Σ_g ‖W_g‖, the group lasso: a group's norm falls by the threshold, or to 0.

    Equivalent to, of a cascade:
        net.W.data *= (1 - threshold / net.W.norm(dim=1, keepdim=True)).clamp(min=0)

    Args:
        net: a `RidgeGradNet`, `GradNetC` or `GradNetM`, or their monotone kin, which is changed.
        threshold: 0 or more; in proximal gradient descent the learning rate times the penalty's factor.

    Raises:
        TypeError, ValueError: as `soft_threshold_`.

    Source: Yuan, Lin, "Model selection and estimation in regression with grouped variables", 2006; Parikh, Boyd,
    "Proximal Algorithms", 2014, section 6.5.

    >>> import gradnets_fast
    >>> net = gradnets_fast.mGradNetC(num_layers=2, in_dim=3, embed_dim=5)
    >>> norms = group_norms(net)
    >>> group_soft_threshold_(net, 0.1)
    >>> bool(torch.allclose(group_norms(net), (norms - 0.1).clamp(min=0)))
    True
    """
    W = _weights("group_soft_threshold_", net)
    _check_number("group_soft_threshold_", "threshold", threshold)
    norms = group_norms(net)
    # Of a group of norm 0 the factor is 0, not 0/0.
    factors = (norms - float(threshold)).clamp(min=0) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    with torch.no_grad():
        W.mul_(factors.view(-1, *[1] * (W.dim() - 1)))


def pruned(net: GradNet, tolerance: float = 0.0) -> GradNet:
    """Return a copy of a network without the groups whose weights are 0: the same f, with fewer products.

    Such a group adds nothing to f; to the potential of modules it adds a constant, which is lost.  At least one group
    is left.

    Equivalent to, of a cascade of h' groups that are left:
        type(net)(num_layers, in_dim, h') with the rows of these in every parameter

    Args:
        net: a `RidgeGradNet`, `GradNetC` or `GradNetM`, or their monotone kin.
        tolerance: the largest norm of a group's weights that counts as 0.

    Returns:
        The smaller network, of the same class, dtype and device.

    Raises:
        TypeError, ValueError: another network, or a tolerance that is no such number.

    Source: none; it is the definition.

    >>> import gradnets_fast
    >>> net = gradnets_fast.mGradNetC(num_layers=2, in_dim=3, embed_dim=5)
    >>> _ = net.W.data[2:].zero_()
    >>> pruned(net).embed_dim
    2
    """
    norms = group_norms(net)
    _check_number("pruned", "tolerance", tolerance)
    kept = norms > float(tolerance)
    if not bool(kept.any()):
        kept[0] = True
    smaller: Any = copy.deepcopy(net)
    for name, dimension in _dimensions(net).items():
        parameter = smaller.get_parameter(name)
        parameter.data = parameter.data[(slice(None),) * dimension + (kept,)].clone()
    count = int(kept.sum())
    if isinstance(smaller, GradNetM):
        smaller.num_modules = smaller.mmgn_modules.count = count
    else:
        smaller.embed_dim = count
    result: GradNet = smaller
    return result


class LowRank(GradNet):
    """The gradient of a potential of r directions of x alone: f(x) = Bᵀ net(B x), of a network of r coordinates.

    Its Jacobian Bᵀ J B has rank r at most, plus that of a linear part.  A call takes two products with B, (r, d), and
    the network's own of r coordinates in place of d.

    Equivalent to:
        net(x @ B.T) @ B

    Args:
        net: a network of points with r coordinates, without a linear part; its parameters stay as they are.
        in_dim: d, the dimension of x and f(x).
        linear: adds a learned symmetric linear map of x, "psd" or "symmetric"; None for none.

    Shapes: x (…, d) → forward and jvp (…, d), potential and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Constantine, "Active Subspaces", 2015, of functions that vary in few directions.

    >>> import torch, gradnets_fast
    >>> net = LowRank(gradnets_fast.mGradNetC(num_layers=2, in_dim=2, embed_dim=8), in_dim=10)
    >>> x = torch.randn(5, 10)
    >>> net(x).shape, int(torch.linalg.matrix_rank(net.jacobian(x), rtol=1e-4).max())
    (torch.Size([5, 10]), 2)
    """

    def __init__(self, net: GradNet, in_dim: int, linear: str | None = None) -> None:
        super().__init__()
        where, r = type(self).__name__, getattr(net, "in_dim", None)
        if not isinstance(net, GradNet) or not isinstance(r, int) or net.linear is not None:
            is_network = isinstance(net, GradNet) and isinstance(r, int)
            got = "one with a linear part" if is_network else type(net).__name__
            fix = "pass for example mGradNetC(num_layers, in_dim=r, embed_dim=64), and linear= to LowRank"
            raise TypeError(message(where, "net", "a network of points without a linear part", got, fix))
        check_sizes(where, in_dim=in_dim)
        if in_dim < r:
            fix = "make the network with fewer coordinates"
            raise ValueError(message(where, "in_dim", f"at least the network's in_dim={r}", in_dim, fix))
        like = next(net.parameters())
        factory: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        self.net, self.in_dim, self.monotone = net, as_int(in_dim), net.monotone
        self.B = nn.Parameter(torch.empty(r, self.in_dim, **factory))
        self._set_linear(linear, self.in_dim, **factory)
        with torch.no_grad():  # which torch.linalg.qr draws in no 16 bits
            rows = torch.empty(self.B.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
            self.B.copy_(nn.init.orthogonal_(rows))

    def outer_coefficients(self) -> str | None:
        name = self.net.outer_coefficients()
        return None if name is None else f"net.{name}"

    @property
    def family(self) -> type[Network]:  # type: ignore[override]
        """The class of gradnets_fast.functional whose operators compute it."""
        return self.net.family

    def _effective(self) -> Network:
        """Return a network of d coordinates that computes the same; the methods take the shorter way by B."""
        network: Any = self.net._effective()
        if not {"W", "bias"} <= {*network.__slots__} or network.W.shape[-1:] != self.B.shape[:1]:
            raise NotImplementedError(f"{type(self.net).__name__} has no weights of the points alone")
        bias = None if network.bias is None else network.bias @ self.B
        folded: Network = replace(network, W=network.W @ self.B, bias=bias)
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), (…, d)."""
        f: Tensor = self.net(self._inner(x)) @ self.B
        return f if self.linear is None else self.linear.added_to(f, x)

    def potential(self, x: Tensor) -> Tensor:
        """Return F(x), (…,)."""
        F = self.net.potential(self._inner(x))
        return F if self.linear is None else F + self.linear.potential(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(x), (…,), and f(x), (…, d)."""
        F, f = self.net.value_and_gradient(self._inner(x))
        f = f @ self.B
        return (F, f) if self.linear is None else (F + self.linear.potential(x), self.linear.added_to(f, x))

    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x) v, (…, d), for directions v of x's shape."""
        product = self.net.jvp(self._inner(x), self._inner(v, "v")) @ self.B
        return product if self.linear is None else product + self.linear(v)

    def divergence(self, x: Tensor) -> Tensor:
        """Return tr J(x), (…,): the sum of J's entries times those of B Bᵀ, of r coordinates."""
        trace = (self.net.jacobian(self._inner(x)) * (self.B @ self.B.T)).sum((-2, -1))
        return trace if self.linear is None else trace + self.linear.trace()

    def jacobian(self, x: Tensor) -> Tensor:
        """Return J(x) = Bᵀ J B, (…, d, d)."""
        J = self.B.T @ self.net.jacobian(self._inner(x)) @ self.B
        J = (J + J.mT) / 2  # which rounding may have made unsymmetric
        return J if self.linear is None else J + self.linear.matrix().to(J.dtype)

    def slogdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sign of det J(x) and log|det J(x)|, (…,) each, of `jacobian` in its own precision.

        Without a linear part J is singular if r < d.  With linear="psd" and r ≤ d/2 the matrices are of size r × r.
        """
        inner = self._inner(x)
        if self.linear is not None and self.linear.kind == "psd" and not torch.is_autocast_enabled(x.device.type):
            shorter = LowRankMatrices.of(self.linear.V, self.B)
            if shorter is not None:
                return shorter.slogdet(self.net.jacobian, inner)
        return slogdet_of(self.jacobian, x)

    def _inner(self, x: Tensor, argument: str = "x") -> Tensor:
        check_tensor(type(self).__name__, argument, x)
        if not x.dim() or x.shape[-1] != self.in_dim:
            fix, got = "put the coordinates of a sample in the last dimension", f"shape {tuple(x.shape)}"
            raise ValueError(message(type(self).__name__, argument, f"shape (…, {self.in_dim})", got, fix))
        return x @ self.B.T

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, rank={self.B.shape[0]}"


_GROUPED = (RidgeGradNet, GradNetC, GradNetM)


def _weights(where: str, net: GradNet) -> Tensor:
    """Return the weights, whose first dimension counts the groups; raise unless f is a sum over such."""
    known: Any = net
    if not isinstance(net, _GROUPED) or getattr(net, "combine", "sum") != "sum":
        got = "a soft maximum of modules" if isinstance(net, _GROUPED) else type(net).__name__
        expected = "a RidgeGradNet, GradNetC or GradNetM, which are sums over groups"
        fix = "use one of these; a ConvGradNet has a prune() of its own"
        raise TypeError(message(where, "net", expected, got, fix))
    W = known.mmgn_modules.W if isinstance(net, GradNetM) else known.W
    if type(W) is not nn.Parameter:
        fix = "remove the parametrization, the hook or fully_shard first"
        raise TypeError(message(where, "net", "plain parameters", f"weights of type {type(W).__name__}", fix))
    return W


def _dimensions(net: GradNet) -> dict[str, int]:
    """Return along which dimension each parameter counts the groups."""
    if not isinstance(net, GradNetM):
        return net.hidden_dimensions()
    return {"alpha": 0} | {f"mmgn_modules.{name}": 0 for name, _ in net.mmgn_modules.named_parameters()}


def _check_number(where: str, argument: str, got: object) -> None:
    if not isinstance(got, Real) or isinstance(got, bool):
        raise TypeError(message(where, argument, "a number of 0 or more", repr(got), f"pass {argument}=0.0 for none"))
    if not 0.0 <= float(got) < float("inf"):
        raise ValueError(message(where, argument, "a number of 0 or more", got, f"pass {argument}=0.0 for none"))
