"""The operators as plain functions of tensors: checks, choice of the backend, call.

Every function takes leading dimensions freely, (…, d) → (…, d), any strides, and an empty batch; convolutional ones
have images (…, C_in, n_1, …, n_s) for points.  Under autocast the points and the weight matrix are cast to autocast's
dtype, as torch.nn.functional.linear does.

Each family is a gradient f and, with the same arguments: `<family>_potential`, F with ∇F = f; `<family>_jvp`, J(x) v;
`<family>_divergence`, tr J(x); `<family>_jacobian`, J(x), the symmetric Jacobian of f, but not of convolutions, for
whose points it has too many values.

Each family's arguments besides the points are a `Network` (`Ridge`, `SoftmaxModules`, `TransformedModules`, `Deep`,
`ConvRidge`), whose methods compute the five; modules and the functions here are thin over it.
"""

from ..ops.families import PADDINGS as PADDINGS
from ..ops.families import Structure as Structure
from ..ops.operator import NAMESPACE as NAMESPACE
from ..ops.operator import PLAIN_TYPES as PLAIN_TYPES
from . import _conv, _deep, _modules, _ridge
from ._checks import autocast as autocast
from ._checks import check_structure as check_structure
from ._checks import without_autocast as without_autocast
from ._conv import *
from ._convolution import adjoint as adjoint
from ._convolution import convolved as convolved
from ._deep import *
from ._determinant import factorisation as factorisation
from ._determinant import logarithm_of_positive as logarithm_of_positive
from ._determinant import slogdet_of as slogdet_of
from ._modules import *
from ._network import NETWORKS as NETWORKS
from ._network import ConvRidge as ConvRidge
from ._network import Deep as Deep
from ._network import Network as Network
from ._network import Ridge as Ridge
from ._network import SoftmaxModules as SoftmaxModules
from ._network import TransformedModules as TransformedModules
from ._ridge import *
from ._stages import ComposedConvRidge as ComposedConvRidge
from ._stages import composed as composed
from ._sylvester import slogdet_with_linear as slogdet_with_linear

__all__ = _ridge.__all__ + _modules.__all__ + _deep.__all__ + _conv.__all__
