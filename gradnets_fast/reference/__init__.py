"""Plain PyTorch: the oracle of every backend.  Imports torch only, and nothing of the rest of the package."""

from .activations import *
from .activations import __all__ as _activations
from .architectures import *
from .architectures import __all__ as _architectures
from .conv import *
from .conv import __all__ as _conv
from .deep import *
from .deep import __all__ as _deep
from .modules import *
from .modules import __all__ as _modules
from .ridge import *
from .ridge import __all__ as _ridge

__all__ = _activations + _architectures + _conv + _deep + _modules + _ridge
