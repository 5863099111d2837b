"""`fit`, the training loop that most people write, as a function; `squared_error`, its loss, for loops of one's own."""

from ._loop import Fit as Fit
from ._loop import fit as fit
from ._squared_error import squared_error as squared_error

__all__ = ["Fit", "fit", "squared_error"]
