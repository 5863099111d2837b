"""Starts that are near the answer: the identity, the transport map between Gaussians, a least-squares fit of gradients.

With g a network's share without linear part and bias, f(x) = g(x) + S x + b.  All three leave the hidden units where
they were drawn, and choose b, S and, of g, its size or the coefficients that it is linear in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FLOATING, check_tensor, message
from ..functional import PLAIN_TYPES
from .base import GradNet, LinearPart, inverse_softplus

__all__ = ["init_gaussian_map_", "init_identity_", "init_least_squares_"]

_POINTS, _VALUES = 1024, 2**22
"""Points that a mean is taken over, and how many values of Jacobians, or of columns, are held at a time."""
_ROUNDS, _TOLERANCE = 30, 1.01
"""How often g is shrunk, for its Jacobian need not shrink in proportion, and by what factor it may stay too large."""
_DAMPING, _LEAST, _SMALLEST = 1e-3, 0.1, 1e-6
"""Of least squares: the relative damping, which part of the coefficients that it starts from positive ones keep, and to
which part of those drawn these are lessened at most."""
_STEPS, _STEPS_OF_MATRICES, _TURNS = 2000, 50, 5
"""Steps for positive coefficients, for positive semidefinite matrices, and how often one follows the other."""


@torch.no_grad()
def init_identity_(net: GradNet, *, share: float = 0.5) -> None:
    """Makes f(x) close to x at standard normal points, in place.

    It is `init_gaussian_map_` with the standard normal distribution for source and target.

    Args:
        net: a network of points with a linear part.
        share: as in `init_gaussian_map_`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Huang, Chen, Tsirigotis, Courville, "Convex Potential Flows", arXiv 2012.05942, whose maps begin so.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(4, 3, 32, linear="psd"), torch.randn(100, 3)
    >>> gradnets_fast.init_identity_(net, share=0.05)
    >>> bool((net(x) - x).square().mean() < 0.01)
    True
    """
    where = "init_identity_"
    d = _dimension(where, net)
    standard = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    _start_at(where, net, share, standard, standard)


@torch.no_grad()
def init_gaussian_map_(
    net: GradNet,
    mean: Tensor,
    covariance: Tensor,
    target_mean: Tensor | None = None,
    target_covariance: Tensor | None = None,
    *,
    share: float = 0.5,
) -> None:
    """Makes f the optimal transport map between two Gaussians, but for a small share of its hidden units, in place.

    The map is A x + b with A = Σ^(−½)(Σ^½ Σ_t Σ^½)^½ Σ^(−½).  The hidden units are shrunk, rather than left out, so
    that they can learn: their Jacobian has on average at most the norm share·λ, λ the least eigenvalue of A.  Linear
    part and bias are such that f and its Jacobian have the means of A x + b and of A over points from the source.

    Args:
        net: a network of points with a linear part, and with a bias unless both means are 0.
        mean: (d,), of the source, for example x.mean(0).
        covariance: (d, d), of the source, for example torch.cov(x.T).
        target_mean: (d,); None is 0.
        target_covariance: (d, d); None is the identity.
        share: between 0 and 1; the smaller, the closer is f to A x + b, and the slower do hidden units grow.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Olkin, Pukelsheim, "The distance between two random vectors with given dispersion matrices", Linear Algebra
    and its Applications 48, 1982, for the map.

    >>> import torch, gradnets_fast
    >>> x = torch.randn(1000, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + 3
    >>> net = gradnets_fast.mGradNetC(4, 2, 32, linear="psd")
    >>> gradnets_fast.init_gaussian_map_(net, x.mean(0), torch.cov(x.T), share=0.05)
    >>> z = net(x)  # about standard normal
    >>> bool(z.mean(0).abs().max() < 0.1 and (torch.cov(z.T) - torch.eye(2)).abs().max() < 0.2)
    True
    """
    where = "init_gaussian_map_"
    d = _dimension(where, net)
    zero, eye = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    source = _checked_gaussian(where, ("mean", mean), ("covariance", covariance), d)
    to_mean = ("target_mean", zero if target_mean is None else target_mean)
    to_covariance = ("target_covariance", eye if target_covariance is None else target_covariance)
    _start_at(where, net, share, source, _checked_gaussian(where, to_mean, to_covariance, d))


@torch.no_grad()
def init_least_squares_(net: GradNet, x: Tensor, g: Tensor) -> None:
    """Fits what f is linear in to gradients g at points x, by least squares, in place.

    That is the linear part, the bias, and the last layer's coefficients, unless these are within a soft maximum, or the
    network has one layer.  In a monotone network the coefficients stay positive.  They are damped towards those drawn,
    so that no large ones cancel.  It takes a pass over the points for each coefficient, and holds (coefficients, d, d)
    numbers.

    It is a start and no fit: where hidden units have far to move, as those of a GradNetC on an oscillating field,
    training from the default start may end lower.

    Args:
        net: a network of points.
        x: (n, d).
        g: (n, d), the gradients there.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Huang, Zhu, Siew, "Extreme learning machine: Theory and applications", Neurocomputing 70, 2006: random
    hidden units, and least squares for the rest.

    >>> import torch, gradnets_fast
    >>> x = torch.rand(500, 2)
    >>> g = x.pow(3)
    >>> net = gradnets_fast.mGradNetC(4, 2, 32, linear="psd")
    >>> gradnets_fast.init_least_squares_(net, x, g)
    >>> bool((net(x) - g).square().mean() < 0.05)
    True
    """
    where = "init_least_squares_"
    _check_network(where, net)
    _check_samples(where, net, x, g)
    outer, bias = _outer(where, net), _bias(net)
    if outer is None and net.linear is None:
        fix = 'make it with linear="psd" or "symmetric"'
        expected = "a network with a linear part or coefficients that f is linear in"
        raise ValueError(message(where, "net", expected, f"{type(net).__name__}, linear=None", fix))
    moments = _Moments(net, outer, bias is not None, x, g)
    e, S = _fit(moments, net, _drawn(moments, net, outer))
    if outer is not None:
        outer.copy_((inverse_softplus(e) if net.monotone else e).view_as(outer))
    if net.linear is not None:
        _set(net.linear, S)
    if bias is not None:
        bias.copy_(moments.mean_g - moments.mean_x @ S - e @ moments.mean_columns)


class _Moments:
    """The sums over points that least squares of f = Σ_k e_k c_k(x) + S x + b depends on, centred if there is a bias.

    Attributes:
        gram, columns_g, gg: Σ c_k·c_l, (p, p), Σ c_k·g, (p,), and Σ |g|², ().
        xx, gx, columns_x: Σ x xᵀ, Σ g xᵀ, (d, d), and Σ c_k xᵀ, (p, d, d).
        mean_x, mean_g, mean_columns: (d,), (d,), (p, d).
    """

    def __init__(self, net: GradNet, outer: nn.Parameter | None, centred: bool, x: Tensor, g: Tensor) -> None:
        exact, count, d = copy.deepcopy(net).double(), 0 if outer is None else outer.numel(), x.shape[1]
        x = x.double()
        g = g.double() if count else g - _share(exact, x)
        sums: list[Any] = [0.0] * 6
        self.mean_x, self.mean_g = (t.mean(0) if centred else t.new_zeros(d) for t in (x, g))
        self.mean_columns = x.new_zeros(count, d)
        pieces = list(zip(*(t.split(max(1, _VALUES // (d * max(1, count)))) for t in (x, g))))
        if centred and count:
            self.mean_columns = sum((_columns(exact, x).sum(0) for x, _ in pieces), self.mean_columns) / len(x)
        for x_piece, g_piece in pieces:
            points, gradients = x_piece - self.mean_x, g_piece - self.mean_g
            columns = _columns(exact, x_piece) - self.mean_columns if count else points.new_zeros(len(points), 0, d)
            flat = columns.movedim(1, 0).flatten(1)
            across = torch.einsum("nki,nj->kij", columns, points)
            parts = (
                flat @ flat.T,
                flat @ gradients.flatten(),
                points.T @ points,
                gradients.T @ points,
                across,
                gradients.square().sum(),
            )
            sums = [total + part for total, part in zip(sums, parts)]
        self.gram, self.columns_g, self.xx, self.gx, self.columns_x, self.gg = sums


def _share(exact: GradNet, x: Tensor) -> Tensor:
    """g(x), (n, d)."""
    network: Any = exact._effective()
    value: Tensor = network.value(x)
    return value if network.bias is None else value - network.bias


def _columns(exact: GradNet, x: Tensor) -> Tensor:
    """g(x) for each unit vector of the outer coefficients, (n, p, d)."""
    name = exact.outer_coefficients()
    assert name is not None
    outer = exact.get_parameter(name)
    drawn = outer.clone()
    columns = []
    for unit in torch.eye(outer.numel(), dtype=outer.dtype, device=outer.device):
        outer.copy_((inverse_softplus(unit) if exact.monotone else unit).view_as(outer))
        columns.append(_share(exact, x))
    outer.copy_(drawn)
    return torch.stack(columns, 1)


def _drawn(moments: _Moments, net: GradNet, outer: nn.Parameter | None) -> Tensor:
    """The coefficients as they are, (p,), lessened where g is larger than the gradients."""
    if outer is None:
        nothing: Tensor = moments.columns_g.new_zeros(0)
        return nothing
    drawn: Tensor = outer.flatten().double()
    drawn = nn.functional.softplus(drawn) if net.monotone else drawn
    ratio = float((moments.gg / (drawn @ moments.gram @ drawn)).sqrt().nan_to_num())
    # Gradients that are all 0 leave a little: a monotone network's coefficients are positive.
    return drawn * min(max(ratio, _SMALLEST), 1.0)


def _fit(moments: _Moments, net: GradNet, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients e, (p,), and the linear part S, (d, d), of least squares.

    For given e the best symmetric S solves S C + C S = N, C = Σ x xᵀ and N = M + Mᵀ, M = Σ (g − Σ_k e_k c_k) xᵀ: in C's
    eigenvectors S_ij = N_ij/(c_i + c_j), which lessens half the sum of squares by Σ N_ij²/(c_i + c_j)/4.  That is
    quadratic in e.  Where this S must be positive semidefinite and is not, S and e are improved by turns.
    """
    gram, right = moments.gram, moments.columns_g
    if net.linear is None:
        return _coefficients(gram, right, drawn, net.monotone), torch.zeros_like(moments.xx)
    c, vectors = torch.linalg.eigh(moments.xx)
    sums = c.unsqueeze(0) + c.unsqueeze(1) + _DAMPING * c.mean()

    def turned(M: Tensor) -> Tensor:
        M = vectors.T @ M @ vectors
        return M + M.mT

    of_g, of_columns = turned(moments.gx), turned(moments.columns_x)
    weighted = (of_columns / sums).flatten(1)
    reduced = gram - weighted @ of_columns.flatten(1).T / 2
    e = _coefficients(reduced, right - weighted @ of_g.flatten() / 2, drawn, net.monotone)
    S = vectors @ ((of_g - torch.einsum("k,kij->ij", e, of_columns)) / sums) @ vectors.T
    if net.linear.kind == "symmetric" or torch.linalg.eigvalsh(S)[0] >= 0:
        return e, S
    for _ in range(_TURNS):
        S = _semidefinite(moments.xx, moments.gx - torch.einsum("k,kij->ij", e, moments.columns_x))
        e = _coefficients(gram, right - (moments.columns_x * S).sum((1, 2)), drawn, net.monotone)
    return e, S


def _semidefinite(xx: Tensor, gx: Tensor) -> Tensor:
    """argmin ½ tr(S xx S) − <S, gx> over positive semidefinite S, (d, d)."""
    rate = 1 / torch.linalg.eigvalsh(xx)[-1]

    def step(S: Tensor) -> Tensor:
        slope = S @ xx - gx
        return _power(S - rate * (slope + slope.T) / 2, 1.0)

    return _accelerated(step, torch.zeros_like(xx), _STEPS_OF_MATRICES)


def _accelerated(step: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Where projected gradient steps lead, with Nesterov's momentum."""
    found = ahead = start
    for i in range(steps):
        new = step(ahead)
        ahead, found = new + i / (i + 3) * (new - found), new
    return found


def _coefficients(gram: Tensor, right: Tensor, drawn: Tensor, positive: bool) -> Tensor:
    """argmin_e ½ eᵀ gram e − right·e + ½ damping |e − drawn|², (p,), over all e, or those from a part of `drawn` on."""
    if not len(right):
        return right
    damping = _DAMPING * gram.diagonal().mean()
    gram = gram + damping * torch.eye(len(right), dtype=gram.dtype, device=gram.device)
    right = right + damping * drawn
    if not positive:
        free: Tensor = torch.linalg.solve(gram, right)
        return free
    rate = 1 / torch.linalg.eigvalsh(gram)[-1]

    def step(e: Tensor) -> Tensor:
        return torch.maximum(e - rate * (gram @ e - right), _LEAST * drawn)

    return _accelerated(step, drawn, _STEPS)


def _start_at(
    where: str, net: GradNet, share: float, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]
) -> None:
    """Makes f the map between the Gaussians of these means and covariances, but for a share of g."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ValueError(message(where, "share", "a number between 0 and 1", repr(share), "for example share=0.5"))
    outer, bias, linear = _outer(where, net), _bias(net), net.linear
    assert linear is not None
    (m, covariance), (to, to_covariance) = source, target
    if bias is None and (m.any() or to.any()):
        fix = "use a network with a bias, such as mGradNetC, or subtract the means from the data"
        raise ValueError(message(where, "mean, target_mean", f"0 for a {type(net).__name__}", "others", fix))
    root = _power(covariance, 0.5)
    A = _power(covariance, -0.5)
    A = A @ _power(root @ to_covariance @ root, 0.5) @ A
    z = torch.randn(max(1, min(_POINTS, _VALUES // len(m) ** 2) // 2), len(m), dtype=torch.float64)
    like = next(net.parameters())
    x = (m + torch.cat([z, -z]) @ root).to(like)
    J = _shrunk(net, outer, x, share * float(torch.linalg.eigvalsh(A)[0])).mean(0).double().cpu()
    S = A - (J + J.T) / 2
    _set(linear, S)
    if bias is not None:
        bias.zero_()
        bias.copy_(to - net(x).double().cpu().mean(0))


def _shrunk(net: GradNet, outer: nn.Parameter | None, x: Tensor, size: float) -> Tensor:
    """Shrinks g until its Jacobian's norm is at most `size`, on average over the points; returns these, (n, d, d)."""
    J = net._effective().jacobian(x)
    for _ in range(_ROUNDS):
        excess = float(torch.linalg.eigvalsh(J.double()).abs().amax(-1).mean()) / size
        if excess <= _TOLERANCE:
            break
        if outer is None:
            # Without such coefficients g's Jacobian is about quadratic in the weights.
            for name, weight in net.named_parameters():
                if name.rsplit(".")[-1] == "W":
                    weight.mul_(excess**-0.5)
        elif net.monotone:
            outer.copy_(inverse_softplus(nn.functional.softplus(outer.double()) / excess))
        else:
            outer.div_(excess)
        J = net._effective().jacobian(x)
    return J


def _set(linear: LinearPart, S: Tensor) -> None:
    """Makes S, (d, d), the linear part's matrix."""
    linear.V.copy_(_power(S, 0.5)) if linear.kind == "psd" else linear.S.copy_(S)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A positive semidefinite matrix to a power."""
    values, vectors = torch.linalg.eigh(matrix)
    result: Tensor = (vectors * values.clamp(min=0) ** exponent) @ vectors.mT
    return result


def _outer(where: str, net: GradNet) -> nn.Parameter | None:
    """The outer coefficients, or None; raises ValueError if a parametrization or a hook has taken their place."""
    name = net.outer_coefficients()
    plain = dict(net.named_parameters())
    if name is not None and name not in plain:
        fix = "initialise before torch.nn.utils.parametrize, weight_norm or prune"
        raise ValueError(message(where, f"net.{name}", "a parameter", "one that is computed from others", fix))
    return None if name is None else net.get_parameter(name)


def _bias(net: GradNet) -> Any:
    """The bias that is added to f, or None."""
    return net._effective().bias


def _check_network(where: str, net: object) -> None:
    """Raises unless it is a network of points that is whole on this rank."""
    if not isinstance(net, GradNet) or net.point_dimensions != 1:
        fix = "use a network such as mGradNetC, or initialise the network within"
        raise TypeError(message(where, "net", "a gradient network of points", type(net).__name__, fix))
    if net.mesh is not None or any(type(p) not in PLAIN_TYPES for p in net.parameters()):
        fix = "initialise before dividing it among ranks"
        raise ValueError(message(where, "net", "parameters that are whole on this rank", "distributed ones", fix))


def _dimension(where: str, net: GradNet) -> int:
    """d, after a check that the network has what it takes to start at a linear map."""
    _check_network(where, net)
    if net.linear is None:
        got, fix = f"{type(net).__name__}, linear=None", 'make it with linear="psd" or "symmetric"'
        raise ValueError(message(where, "net", "a network with a linear part", got, fix))
    return net.linear.matrix().shape[0]


def _checked_gaussian(
    where: str, mean: tuple[str, Tensor], covariance: tuple[str, Tensor], d: int
) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64 in memory, by name; raises unless they are those of a Gaussian with a density."""
    for (name, tensor), shape in ((mean, (d,)), (covariance, (d, d))):
        check_tensor(where, name, tensor)
        if tensor.shape != shape:
            fix = "pass x.mean(0) and torch.cov(x.T) of samples x (n, d)"
            raise ValueError(message(where, name, f"shape {shape}", f"shape {tuple(tensor.shape)}", fix))
    m, sigma = (tensor.detach().double().cpu() for _, tensor in (mean, covariance))
    if not m.isfinite().all():
        raise ValueError(message(where, mean[0], "finite numbers", "others", "leave such samples out"))
    least = torch.linalg.eigvalsh(sigma)[0].item() if sigma.isfinite().all() else float("nan")
    size = sigma.diagonal().abs().max().item()
    if not least > 1e-12 * size or (sigma - sigma.T).abs().max() > 1e-4 * size:
        expected, fix = "a symmetric positive definite matrix", "add a small multiple of torch.eye(d)"
        got = f"a smallest eigenvalue of {least:.3g}" if not least > 1e-12 * size else "an asymmetric one"
        raise ValueError(message(where, covariance[0], expected, got, fix))
    return m, (sigma + sigma.T) / 2


def _check_samples(where: str, net: GradNet, x: Tensor, g: Tensor) -> None:
    """Raises unless they are points of the network and gradients there."""
    like, in_dim = next(net.parameters()), int(net.in_dim)  # type: ignore[arg-type]
    for name, tensor in (("x", x), ("g", g)):
        check_tensor(where, name, tensor)
        if tensor.dim() != 2 or tensor.shape[1] != in_dim or not len(tensor):
            fix = "pass a row for each point, and at least one"
            raise ValueError(message(where, name, f"shape (n, {in_dim})", f"shape {tuple(tensor.shape)}", fix))
        if tensor.dtype not in FLOATING or tensor.device != like.device:
            expected, got = f"floating numbers on {like.device}", f"{tensor.dtype} on {tensor.device}"
            raise TypeError(message(where, name, expected, got, f"pass {name}.to({str(like.device)!r}).float()"))
        if not tensor.isfinite().all():
            raise ValueError(message(where, name, "finite numbers", "others", "leave such samples out"))
    if x.shape != g.shape:
        fix = "pass the gradient at each point"
        raise ValueError(message(where, "g", f"shape {tuple(x.shape)}, like x", f"shape {tuple(g.shape)}", fix))
