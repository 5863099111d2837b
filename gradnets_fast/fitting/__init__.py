"""`fit`: the training loop that most people write, as a function."""

from ._loop import Fit as Fit
from ._loop import fit as fit

__all__ = ["Fit", "fit"]
