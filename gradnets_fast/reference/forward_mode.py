"""Forward mode inside forward mode, for an autograd.Function with a jvp of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad


@contextmanager
def outer_levels(*tensors: Tensor | None) -> Iterator[list[Any]]:
    """Give a jvp its saved tensors such that what it computes of them has the tangents of outer transforms.

    PyTorch turns forward mode off inside a jvp, where under nested transforms, such as jacfwd(jacfwd(f)), operations
    then lose the outer tangent silently.  With forward mode on, the tensors must be without the tangents of the jvp's
    own level, which saved ones have.
    """
    switch: Any = forward_ad._set_fwd_grad_enabled
    with switch(True):
        yield [None if tensor is None else forward_ad.unpack_dual(tensor).primal for tensor in tensors]
