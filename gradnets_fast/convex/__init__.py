"""The calculus of convex potentials: inverses, conjugates, proximal maps, and bounds of Jacobians.

- `inverse`, `conjugate`, `prox`: maps that a monotone network has, by Newton's method; a mask says which samples
  converged, and the results are differentiable any number of times.
- `lipschitz_bound`, `strong_convexity_bound`: bounds of the eigenvalues of J over all points, by the parameters;
  `lipschitz_estimate`: the largest norm of J at some points.
- `logdet_estimate`: log det J by products J v alone, for points of many dimensions.

>>> import torch, gradnets_fast
>>> net = gradnets_fast.mGradNetC(num_layers=2, in_dim=3, embed_dim=8)
>>> z = gradnets_fast.convex.prox(net, torch.zeros(5, 3), gamma=0.1)
>>> z.x.shape, bool(z.converged.all())
(torch.Size([5, 3]), True)
"""

from ._bounds import lipschitz_bound as lipschitz_bound
from ._bounds import lipschitz_estimate as lipschitz_estimate
from ._bounds import strong_convexity_bound as strong_convexity_bound
from ._lanczos import Estimate as Estimate
from ._lanczos import logdet_estimate as logdet_estimate
from ._maps import Conjugate as Conjugate
from ._maps import Solution as Solution
from ._maps import conjugate as conjugate
from ._maps import inverse as inverse
from ._maps import prox as prox
from ._maps import proximal_map as proximal_map

__all__ = [
    "Conjugate",
    "Estimate",
    "Solution",
    "conjugate",
    "inverse",
    "lipschitz_bound",
    "lipschitz_estimate",
    "logdet_estimate",
    "prox",
    "strong_convexity_bound",
]
