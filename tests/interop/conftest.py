"""Fixtures of the tests beside other libraries: torchvision, which deepinv and Lightning import, and one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

_SCHEMAS = torch.library.Library("torchvision", "FRAGMENT")

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    # A torchvision built for CUDA cannot load its operators beside a PyTorch built for the CPU, yet registers fakes.
    for name in ("nms", "qnms"):
        _SCHEMAS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Run on one thread: these tests make thousands of tiny calls, whose threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
