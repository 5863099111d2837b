"""Subnormal numbers, which slow processors down: C++ kernels compute none, and leave them to their callers."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.ops import _cpp

pytestmark = [
    pytest.mark.skipif(_cpp.why_unavailable() is not None, reason="needs the extension"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere subnormal numbers are fast"),
]
FAR, SUBNORMAL = -95.0, 1e-39  # e⁻⁹⁵ is about 5.5·10⁻⁴²


def softplus_of(x: Tensor, backend: str) -> Tensor:
    """Σ W softplus(W x) with W the identity."""
    W, shift = torch.eye(4), torch.zeros(1, 4)
    return gf.ridge(x, W, None, shift, None, None, basis=("softplus",), backend=backend)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernels_compute_none_on_any_thread(threads: int) -> None:
    x, before = torch.full((5000, 4), FAR), torch.get_num_threads()
    assert bool((softplus_of(x, "reference") > 0).all())
    torch.set_num_threads(threads)
    try:
        leaf = x.clone().requires_grad_()
        f = softplus_of(leaf, "cpp")
        (gradient,) = torch.autograd.grad(f.sum(), leaf)
        assert not f.any()
        assert not gradient.any()
        # Of PyTorch's own operators, on the same threads, after these calls.
        assert bool((torch.full((400_000,), 10 * SUBNORMAL) / 10 > 0).all())
    finally:
        torch.set_num_threads(before)


def test_those_that_are_given_are_read() -> None:
    x = torch.full((3, 4), SUBNORMAL)
    f = gf.ridge(x, 1e6 * torch.eye(4), None, torch.zeros(1, 4), None, None, basis=("identity",), backend="cpp")
    torch.testing.assert_close(f, torch.full((3, 4), SUBNORMAL * 1e12))
