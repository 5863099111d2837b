"""Plain PyTorch: the oracle of every backend.  Imports torch only, and nothing of the rest of the package."""

from .activations import ANTIDERIVATIVES, VALUES, antiderivative, value
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
    softmax_modules_potential,
    transformed_modules,
    transformed_modules_potential,
)
from .ridge import cascade, ridge, ridge_potential

__all__ = [
    "ANTIDERIVATIVES",
    "TRANSFORM_VALUES",
    "VALUES",
    "antiderivative",
    "cascade",
    "gradnet_c",
    "gradnet_c_potential",
    "gradnet_m",
    "gradnet_m_potential",
    "ridge",
    "ridge_gradnet",
    "ridge_gradnet_potential",
    "ridge_potential",
    "softmax_modules",
    "softmax_modules_potential",
    "transformed_modules",
    "transformed_modules_potential",
    "value",
]
