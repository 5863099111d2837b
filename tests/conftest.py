"""What all tests share: sleeping threads, a fixed seed, uninitialised memory full of NaN, Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Read when torch loads its OpenMP runtime, here and in what tests start: threads that spin while they wait would take
# the processor from the other worker.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Read when triton is imported, by whichever test does so first.
os.environ["TRITON_INTERPRET"] = "1"

import torch

try:
    from interpreter import make_types_once, prepare_once_a_launch
except ImportError:  # Triton is optional
    pass
else:
    prepare_once_a_launch()
    make_types_once()


seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
"""Without a GPU torch.manual_seed keeps a formatted stack for each kind of device: longer than most tests take."""


@pytest.fixture(autouse=True)
def _fixed_seed_and_poisoned_memory() -> Iterator[None]:
    """In deterministic mode torch fills what torch.empty returns with NaN: an output element nobody writes shows."""
    seed(20_250_101)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(7).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
