"""The architectures as torch modules; parameter names and shapes are those of the authors' code."""

from .base import GradNet
from .cascade import GradNetC, mGradNetC
from .modular import GradNetM, mGradNetM
from .ridge import RidgeGradNet, mRidgeGradNet

__all__ = ["GradNet", "GradNetC", "GradNetM", "RidgeGradNet", "mGradNetC", "mGradNetM", "mRidgeGradNet"]
