"""The convolutional ridge family: f(x) = Kᵀφ(K∗x) + bias.

Every function makes a `Network` of its arguments and calls the method of its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._network import ConvRidge

__all__ = ["conv_ridge", "conv_ridge_divergence", "conv_ridge_jvp", "conv_ridge_potential"]


def conv_ridge(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    padding: str = "zeros",
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Gradient of a convolutional ridge regulariser: f(x) = Kᵀφ(K∗x) + bias, with a function φ for each channel.

    K∗x is the cross-correlation of size n_1 × … × n_s, with (k − 1)//2 pixels beyond the border before the image and
    the rest after it, and Kᵀ its exact adjoint, border included: the Jacobian is symmetric.  φ is a cascade, as in
    `ridge`, of the channel's value at each pixel.

    Equivalent to, for pictures, filters of odd size, zeros, one layer and one basis function:
        z = torch.nn.functional.conv2d(x, K, padding="same")
        z = coef[0, 0].view(-1, 1, 1) * torch.tanh(scale[0].view(-1, 1, 1) * z + shift[0].view(-1, 1, 1))
        torch.nn.functional.conv_transpose2d(z, K, bias, padding=(K.shape[-2] // 2, K.shape[-1] // 2))

    Args:
        x: images, (…, C_in, n_1, …, n_s) with s = 1, 2 or 3.
        K: filters, (C, C_in, k_1, …, k_s), of odd or even sizes.
        scale: β, (L, C), or None for ones.
        shift: s, (L, C); for one layer also (C,).
        coef: the cascade's coefficients, (L, K, C) with one for each of K basis functions, or None for ones.
        bias: added to each pixel of the result, (C_in,).
        basis: K names of `gradnets_fast.activations.TABLE`, or one name when K = 1; or "spline", as in `ridge`.
        padding: what lies beyond the border: "zeros", or "circular" for the image's other end, with filters no larger
            than the image.
        heads: the L layers are heads in parallel, as in `ridge`.
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    All tensors have the device and dtype of x: float64, float32, bfloat16 or float16; beside a 16-bit x, the vectors
    (scale, shift, coef, bias) may be float32.  Under autocast x and K are cast.

    Returns:
        f(x), of the shape and dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for Inverse Problems",
    IEEE Transactions on Computational Imaging, 2023.

    >>> import torch
    >>> x, K = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[[-1.0, 1.0]]])  # differences to the next, and 0 − 4
    >>> conv_ridge(x, K, None, torch.zeros(1), None, basis="identity").tolist()
    [[-1.0, -1.0, 6.0]]
    """
    return ConvRidge(K, scale, shift, coef, bias, basis, padding, heads).value(x, backend)


def conv_ridge_potential(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    padding: str = "zeros",
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Potential of `conv_ridge`: the F with ∇F = f and F(0) = 0, F(x) = Σ_c Σ_p ∫_0^{(K∗x)_c(p)} φ_c(t) dt + bias·x.

    In closed form for one layer, by quadrature for more, as `ridge_potential`.

    Equivalent to, for pictures, filters of odd size, zeros, and one layer of tanh with β = C = 1:
        z, s = torch.nn.functional.conv2d(x, K, padding="same"), shift[0].view(-1, 1, 1)
        (log_cosh(z + s) - log_cosh(s)).sum((-3, -2, -1)) + x.sum((-2, -1)) @ bias

    Args:
        x: images, (…, C_in, n_1, …, n_s).
        K, scale, shift, coef, bias, basis, padding, heads, backend: as in `conv_ridge`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `conv_ridge`.

    >>> import torch
    >>> x, K = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[[-1.0, 1.0]]])
    >>> float(conv_ridge_potential(x, K, None, torch.zeros(1), None, basis="identity"))  # (1² + 2² + 4²)/2
    10.5
    """
    return ConvRidge(K, scale, shift, coef, bias, basis, padding, heads).potential(x, backend)


def conv_ridge_jvp(
    x: Tensor,
    v: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    padding: str = "zeros",
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `conv_ridge`: J(x) v = Kᵀ(φ'(K∗x) ⊙ K∗v).

    J is symmetric, so that this is the vector-Jacobian product too.  There is no operator for J itself, whose values
    are (C_in·n_1·…·n_s)² for each image.

    Equivalent to, for pictures, filters of odd size, zeros, and one layer of tanh:
        z, a = (torch.nn.functional.conv2d(t, K, padding="same") for t in (x, v))
        s, beta, C = (t.view(-1, 1, 1) for t in (shift[0], scale[0], coef[0, 0]))
        z = (1 - torch.tanh(beta * z + s) ** 2) * C * beta * a
        torch.nn.functional.conv_transpose2d(z, K, padding=(K.shape[-2] // 2, K.shape[-1] // 2))

    Args:
        x: images, (…, C_in, n_1, …, n_s).
        v: directions, of x's shape and dtype.
        K, scale, shift, coef, bias, basis, padding, heads, backend: as in `conv_ridge`.

    Returns:
        J(x) v, of the shape and dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `conv_ridge`.

    >>> import torch
    >>> x, K = torch.zeros(1, 3), torch.tensor([[[-1.0, 1.0]]])
    >>> conv_ridge_jvp(x, torch.tensor([[1.0, 2.0, 4.0]]), K, None, torch.zeros(1), None).tolist()  # tanh'(0) = 1
    [[-1.0, -1.0, 6.0]]
    """
    return ConvRidge(K, scale, shift, coef, bias, basis, padding, heads).jvp(x, v, backend)


def conv_ridge_divergence(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    padding: str = "zeros",
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `conv_ridge`, the Laplacian of its potential: tr J(x) = Σ_c Σ_p φ_c'((K∗x)_c(p)) n_c(p), exact.

    n_c(p) is the sum of K[c, i, t]² over channels i and the taps t that lie inside the image at pixel p: all of them
    for "circular".

    Equivalent to, for pictures, filters of odd size, zeros, and one layer of tanh:
        z, inside = (torch.nn.functional.conv2d(t, k, padding="same") for t, k in ((x, K), (torch.ones_like(x), K**2)))
        s, beta, C = (t.view(-1, 1, 1) for t in (shift[0], scale[0], coef[0, 0]))
        ((1 - torch.tanh(beta * z + s) ** 2) * C * beta * inside).sum((-3, -2, -1))

    Args:
        x: images, (…, C_in, n_1, …, n_s).
        K, scale, shift, coef, bias, basis, padding, heads, backend: as in `conv_ridge`.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `conv_ridge`.

    >>> import torch
    >>> x, K = torch.zeros(1, 3), torch.tensor([[[-1.0, 1.0]]])
    >>> float(conv_ridge_divergence(x, K, None, torch.zeros(1), None))  # 2 + 2 + 1: the last pixel has no neighbour
    5.0
    """
    return ConvRidge(K, scale, shift, coef, bias, basis, padding, heads).divergence(x, backend)
