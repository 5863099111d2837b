"""The architectures as torch modules, which registry.py lists; a state_dict is that of the authors' code."""

from .base import GradNet as GradNet
from .registry import *
from .registry import __all__ as __all__
