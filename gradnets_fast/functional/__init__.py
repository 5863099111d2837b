"""The operators as plain functions of tensors: checks, choice of the backend, call.

Every function takes leading dimensions freely, (…, d) → (…, d), any strides, and an empty batch.  Under
autocast the points and the weight matrix are cast to autocast's dtype, as torch.nn.functional.linear does.

Each family is a gradient f and, with the same arguments: `<family>_potential`, F with ∇F = f; `<family>_jvp`, J(x) v;
`<family>_divergence`, tr J(x); `<family>_jacobian`, J(x), the symmetric Jacobian of f.
"""

from ._checks import autocast as autocast
from ._ridge import ridge, ridge_divergence, ridge_jacobian, ridge_jvp, ridge_potential
from ._softmax_modules import (
    softmax_modules,
    softmax_modules_divergence,
    softmax_modules_jacobian,
    softmax_modules_jvp,
    softmax_modules_potential,
)
from ._transformed_modules import (
    transformed_modules,
    transformed_modules_divergence,
    transformed_modules_jacobian,
    transformed_modules_jvp,
    transformed_modules_potential,
)

__all__ = [
    "ridge",
    "ridge_divergence",
    "ridge_jacobian",
    "ridge_jvp",
    "ridge_potential",
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
