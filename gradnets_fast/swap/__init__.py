"""Kernels for models that exist already: modules keep parameters, hooks and checkpoints and run by our operators."""

from .checkpoint import load_reference_checkpoint
from .energy import EnergyGradient as EnergyGradient
from .energy import gradient_of
from .forms import register_adapter
from .in_place import accelerate, restore
from .networks import CMGN as CMGN
from .networks import MMGN as MMGN
from .networks import Adapted as Adapted
from .report import Entry as Entry
from .report import Report

__all__ = ["Report", "accelerate", "gradient_of", "load_reference_checkpoint", "register_adapter", "restore"]
