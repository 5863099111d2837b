"""The families of modules: f(x) = Σ_m (gradient of module m's potential) + bias, or of their soft maximum.

Softmax modules: W_mᵀ[p_m softmax(z_m) − q_m softmax(−z_m)]; transformed modules: a_m ρ'(F_m) W_mᵀσ(z_m).
Every function makes a `Network` of its arguments and calls the method of its name.
"""

from __future__ import annotations

from torch import Tensor

from ._network import SoftmaxModules, TransformedModules

__all__ = [
    "softmax_modules",
    "softmax_modules_divergence",
    "softmax_modules_jacobian",
    "softmax_modules_jvp",
    "softmax_modules_potential",
    "transformed_modules",
    "transformed_modules_divergence",
    "transformed_modules_jacobian",
    "transformed_modules_jvp",
    "transformed_modules_potential",
]


def softmax_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Sum of softmax modules: f(x) = Σ_m W_mᵀ[p_m softmax(z_m) − q_m softmax(−z_m)] + bias, z_m = τ_m (W_m x + b_m).

    Equivalent to, for one module:
        z = temperature[0] * (x @ W[0].T + b[0])
        (positive[0] * z.softmax(-1) - negative[0] * (-z).softmax(-1)) @ W[0] + bias

    Args:
        x: points, (…, d).
        W: the modules' weights, one row per hidden unit, (M, h, d).
        b: added to each projection, (M, h).
        temperature: τ > 0, by which each module's projections are multiplied, (M,).
        positive: p, the weight of each module's softmax(z), (M,).  Convex potential when p >= 0.
        negative: q, the weight of each module's softmax(−z), (M,); None for 0.  Convex potential when q >= 0.
        bias: added to the result, (d,).
        sharpness: κ > 0, ().  With it the modules' potentials F_m are not summed, but combined by log-sum-exp:
            F(x) = log(Σ_m exp(κ F_m + c_m))/κ + bias·x, so that f(x) = Σ_m s_m ∇F_m + bias, s = softmax_m(κ F_m + c_m).
            F is convex when every F_m is.
        offset: c, (M,), with sharpness; None for 0.
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    All tensors have the device and dtype of x: float64, float32, bfloat16 or float16; beside a 16-bit x, all but W may
    be float32.  Under autocast x and W are cast.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M with (weighted) softmax modules.

    >>> import torch
    >>> y = softmax_modules(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    >>> y.tolist()
    [[0.5, 0.5]]
    """
    network = SoftmaxModules(W, b, temperature, positive, negative, bias, sharpness, offset)
    return network.value(x, backend)


def softmax_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Potential of `softmax_modules`: F(x) = Σ_m [p_m LSE(z_m) + q_m LSE(−z_m)]/τ_m + bias·x.

    Equivalent to, for one module:
        z = temperature[0] * (x @ W[0].T + b[0])
        (positive[0] * z.logsumexp(-1) + negative[0] * (-z).logsumexp(-1)) / temperature[0] + x @ bias

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        temperature, positive, negative, bias: (M,) and (d,).
        sharpness, offset, backend: as in `softmax_modules`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M.

    >>> import torch
    >>> W = torch.eye(2)[None]
    >>> F = softmax_modules_potential(torch.zeros(2), W, torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    >>> round(F.item(), 4)  # log 2
    0.6931
    """
    network = SoftmaxModules(W, b, temperature, positive, negative, bias, sharpness, offset)
    return network.potential(x, backend)


def softmax_modules_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `softmax_modules`: Σ_m τ_m W_mᵀ[p_m Cov(π) + q_m Cov(ω)] W_m v.

    Here Cov(π) a = π ⊙ (a − π·a), π = softmax(z_m), ω = softmax(−z_m).

    Equivalent to, for one module without negative:
        pi = (temperature[0] * (x @ W[0].T + b[0])).softmax(-1)
        a = v @ W[0].T
        temperature[0] * positive[0] * pi * (a - (pi * a).sum(-1, keepdim=True)) @ W[0]

    Args:
        x: points, (…, d).
        v: directions, (…, d), of x's shape.
        W, b: (M, h, d) and (M, h).
        temperature, positive, negative, bias: (M,) and (d,).
        sharpness, offset, backend: as in `softmax_modules`; J does not depend on bias.

    Returns:
        J(x) v, (…, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M.

    >>> import torch
    >>> W, one = torch.eye(2)[None], torch.ones(1)
    >>> softmax_modules_jvp(torch.zeros(2), torch.tensor([4.0, 0.0]), W, torch.zeros(1, 2), one, one).tolist()
    [1.0, -1.0]
    """
    network = SoftmaxModules(W, b, temperature, positive, negative, bias, sharpness, offset)
    return network.jvp(x, v, backend)


def softmax_modules_divergence(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `softmax_modules`, the Laplacian of its potential: tr J(x), exact, in O(M h d) a point.

    tr J = Σ_m τ_m [p_m (Σ_j π_j |w_mj|² − |W_mᵀπ|²) + q_m (the same of ω)], π = softmax(z_m), ω = softmax(−z_m).

    Equivalent to, for one module without negative:
        pi = (temperature[0] * (x @ W[0].T + b[0])).softmax(-1)
        temperature[0] * positive[0] * (pi @ W[0].square().sum(-1) - (pi @ W[0]).square().sum(-1))

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        temperature, positive, negative, bias: (M,) and (d,).
        sharpness, offset, backend: as in `softmax_modules`; J does not depend on bias.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M.

    >>> import torch
    >>> W, one = torch.eye(2)[None], torch.ones(1)
    >>> softmax_modules_divergence(torch.zeros(2), W, torch.zeros(1, 2), one, one).item()
    0.5
    """
    network = SoftmaxModules(W, b, temperature, positive, negative, bias, sharpness, offset)
    return network.divergence(x, backend)


def softmax_modules_jacobian(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian of `softmax_modules`: Σ_m τ_m W_mᵀ[p_m (diag π − ππᵀ) + q_m (diag ω − ωωᵀ)] W_m, symmetric.

    Here π = softmax(z_m), ω = softmax(−z_m).  Positive semidefinite where p, q >= 0.

    Equivalent to, for one module without negative:
        pi = (temperature[0] * (x @ W[0].T + b[0])).softmax(-1)
        covariance = pi.diag_embed() - pi.unsqueeze(-1) * pi.unsqueeze(-2)
        temperature[0] * positive[0] * (W[0].T @ covariance @ W[0])

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        temperature, positive, negative, bias: (M,) and (d,).
        sharpness, offset, backend: as in `softmax_modules`; J does not depend on bias.

    Returns:
        J(x), (…, d, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M.

    >>> import torch
    >>> W, one = torch.eye(2)[None], torch.ones(1)
    >>> softmax_modules_jacobian(torch.zeros(2), W, torch.zeros(1, 2), one, one).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    network = SoftmaxModules(W, b, temperature, positive, negative, bias, sharpness, offset)
    return network.jacobian(x, backend)


def transformed_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Sum of transformed ridge sums: f(x) = Σ_m a_m ρ'(F_m) W_mᵀσ(z_m) + bias, z_m = W_m x + b_m, F_m = Σ_j Ψ(z_mj).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        (weight[0] * log_cosh(z).sum(-1, keepdim=True) * torch.tanh(z)) @ W[0] + bias

    Args:
        x: points, (…, d).
        W: the modules' weights, one row per hidden unit, (M, h, d).
        b: added to each projection, (M, h).
        weight: a, the weight of each module, (M,).
        bias: added to the result, (d,).
        basis: σ, a name of `gradnets_fast.activations.TABLE`; Ψ is its antiderivative there.
        transform: ρ, a name of `gradnets_fast.activations.TRANSFORMS`.
        sharpness: κ > 0, ().  With it the modules' potentials F_m are not summed, but combined by log-sum-exp:
            F(x) = log(Σ_m exp(κ F_m + c_m))/κ + bias·x, so that f(x) = Σ_m s_m ∇F_m + bias, s = softmax_m(κ F_m + c_m).
            F is convex when every F_m is.
        offset: c, (M,), with sharpness; None for 0.
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    All tensors have the device and dtype of x: float64, float32, bfloat16 or float16; beside a 16-bit x, all but W may
    be float32.  Under autocast x and W are cast.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862, M-MGN (tanh, half_square); arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([[1.0]]), torch.ones(1, 1, 1)
    >>> transformed_modules(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity", transform="half_square").item()
    0.5
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.value(x, backend)


def transformed_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Potential of `transformed_modules`: F(x) = Σ_m a_m ρ(Σ_j Ψ(z_mj)) + bias·x.

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        weight[0] * log_cosh(x @ W[0].T + b[0]).sum(-1) ** 2 / 2 + x @ bias

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        weight, bias: (M,) and (d,).
        basis, transform, sharpness, offset, backend: as in `transformed_modules`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862.

    >>> import torch
    >>> W = torch.ones(1, 1, 1)
    >>> F = transformed_modules_potential(torch.tensor([2.0]), W, torch.zeros(1, 1), torch.ones(1), basis="identity")
    >>> F.item()  # (2²/2)²/2
    2.0
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.potential(x, backend)


def transformed_modules_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `transformed_modules`: J(x) v, J as in `transformed_modules_jacobian`.

    J v = Σ_m a_m [ρ''(F_m) (∇F_m·v) ∇F_m + ρ'(F_m) W_mᵀ(σ'(z_m) ⊙ W_m v)], F_m = Σ_j Ψ(z_mj), ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z, u = x @ W[0].T + b[0], v @ W[0].T
        F, s = log_cosh(z).sum(-1, keepdim=True), torch.tanh(z)
        weight[0] * ((s * u).sum(-1, keepdim=True) * s + F * (1 - s**2) * u) @ W[0]

    Args:
        x: points, (…, d).
        v: directions, (…, d), of x's shape.
        W, b: (M, h, d) and (M, h).
        weight, bias: (M,) and (d,).
        basis, transform, sharpness, offset, backend: as in `transformed_modules`; J does not depend on bias.

    Returns:
        J(x) v, (…, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> v = torch.ones(1)
    >>> transformed_modules_jvp(x, v, W, torch.zeros(1, 1), torch.ones(1), basis="identity").item()  # (x³/2)'
    6.0
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.jvp(x, v, backend)


def transformed_modules_divergence(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `transformed_modules`, the Laplacian of its potential: tr J(x), exact, in O(M h d) a point.

    tr J = Σ_m a_m [ρ''(F_m) |∇F_m|² + ρ'(F_m) Σ_j σ'(z_mj) |w_mj|²], F_m = Σ_j Ψ(z_mj), ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        F, s = log_cosh(z).sum(-1), torch.tanh(z)
        weight[0] * ((s @ W[0]).square().sum(-1) + F * ((1 - s**2) @ W[0].square().sum(-1)))

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        weight, bias: (M,) and (d,).
        basis, transform, sharpness, offset, backend: as in `transformed_modules`; J does not depend on bias.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> transformed_modules_divergence(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity").item()  # (x³/2)'
    6.0
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.divergence(x, backend)


def transformed_modules_jacobian(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian of `transformed_modules`: Σ_m a_m [ρ''(F_m) ∇F_m∇F_mᵀ + ρ'(F_m) W_mᵀ diag(σ'(z_m)) W_m], symmetric.

    Here F_m = Σ_j Ψ(z_mj) and ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        F, s = log_cosh(z).sum(-1), torch.tanh(z)
        g = s @ W[0]
        weight[0] * (g[..., None] * g[..., None, :] + F[..., None, None] * (W[0].T * (1 - s**2)[..., None, :] @ W[0]))

    Args:
        x: points, (…, d).
        W, b: (M, h, d) and (M, h).
        weight, bias: (M,) and (d,).
        basis, transform, sharpness, offset, backend: as in `transformed_modules`; J does not depend on bias.

    Returns:
        J(x), (…, d, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> transformed_modules_jacobian(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity").tolist()  # (x³/2)'
    [[6.0]]
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.jacobian(x, backend)
