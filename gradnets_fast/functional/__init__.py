"""The operators as plain functions of tensors: checks, choice of the backend, call.

Every function takes leading dimensions freely, (…, d) → (…, d), any strides, and an empty batch.  Under
autocast the points and the weight matrix are cast to autocast's dtype, as torch.nn.functional.linear does.

Each family is a gradient f and, with the same arguments: `<family>_potential`, F with ∇F = f; `<family>_jvp`, J(x) v;
`<family>_divergence`, tr J(x); `<family>_jacobian`, J(x), the symmetric Jacobian of f.

Each family's arguments besides the points are a `Network` (`Ridge`, `SoftmaxModules`, `TransformedModules`), whose
methods compute the five; modules and the functions here are thin over it.
"""

from . import _ridge, _softmax_modules, _transformed_modules
from ._checks import autocast as autocast
from ._network import Network as Network
from ._ridge import *
from ._softmax_modules import *
from ._transformed_modules import *

_FILES = (_ridge, _softmax_modules, _transformed_modules)

NETWORKS: dict[str, type[Network]] = {cls.family.name: cls for cls in Network.__subclasses__()}
"""The families by the names of their operators."""

__all__ = [name for file in _FILES for name in file.__all__ if name.islower()]
