"""Fast layers in models that are there already: the same module, its parameters, hooks and checkpoints, our kernels."""

from .checkpoint import load_reference_checkpoint
from .forms import register_adapter
from .in_place import accelerate, restore
from .networks import CMGN, MMGN, Adapted
from .report import Entry, Report

__all__ = [
    "CMGN",
    "MMGN",
    "Adapted",
    "Entry",
    "Report",
    "accelerate",
    "load_reference_checkpoint",
    "register_adapter",
    "restore",
]
