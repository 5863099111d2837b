"""Plain PyTorch: the oracle of every backend.  Imports torch only, and nothing of the rest of the package."""

from .activations import ANTIDERIVATIVES, DERIVATIVES, VALUES, antiderivative, derivative, value
from .architectures import (
    gradnet_c,
    gradnet_c_potential,
    gradnet_m,
    gradnet_m_potential,
    ridge_gradnet,
    ridge_gradnet_potential,
)
from .modules import (
    TRANSFORM_VALUES,
    softmax_modules,
    softmax_modules_divergence,
    softmax_modules_jacobian,
    softmax_modules_jvp,
    softmax_modules_potential,
    transformed_modules,
    transformed_modules_divergence,
    transformed_modules_jacobian,
    transformed_modules_jvp,
    transformed_modules_potential,
)
from .ridge import cascade, cascade_slope, ridge, ridge_divergence, ridge_jacobian, ridge_jvp, ridge_potential

__all__ = [
    "ANTIDERIVATIVES",
    "DERIVATIVES",
    "TRANSFORM_VALUES",
    "VALUES",
    "antiderivative",
    "cascade",
    "cascade_slope",
    "derivative",
    "gradnet_c",
    "gradnet_c_potential",
    "gradnet_m",
    "gradnet_m_potential",
    "ridge",
    "ridge_divergence",
    "ridge_gradnet",
    "ridge_gradnet_potential",
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
    "value",
]
