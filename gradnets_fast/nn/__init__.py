"""The architectures as torch modules: registry.py lists them; parameter names and shapes are those of the authors' code."""

from .base import GradNet as GradNet
from .registry import *
from .registry import __all__ as __all__
