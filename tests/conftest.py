"""What all tests share: a fixed seed, and uninitialised memory full of NaN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_seed_and_poisoned_memory() -> Iterator[None]:
    """In deterministic mode torch fills what torch.empty returns with NaN: an output element nobody writes shows."""
    torch.manual_seed(20_250_101)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(7).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
