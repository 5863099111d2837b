"""The experiment of pictures: its guarantees in few steps, and its committed result."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bench.environment import RESULTS
from gradnets_fast import convex
from gradnets_fast.apps.reproduce import denoise
from gradnets_fast.apps.reproduce.runner import read, rows_of

TASKS = list(denoise.NOISE)


def test_the_committed_result() -> None:
    """The weakly convex regulariser, of pictures that it was not trained on, beside total variation at its best."""
    rows = {row["network"]: row["psnr_db"] for row in rows_of(read(RESULTS / "reproduce" / "denoise.json"))}
    test = denoise.EXPERIMENT.settings["pictures"]
    assert not {*test} & {*denoise.TRAINING}
    assert {*test} <= {*rows["weakly convex R"]["noise"]}
    for picture in test:
        learned, variation = (rows[name]["noise"][picture] for name in ("weakly convex R", denoise.VARIATION))
        assert learned > variation + 0.3


def test_a_network_that_is_not_the_same_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = iter(range(1, 100))
    monkeypatch.setattr(denoise, "denoised", lambda net, y: next(other) * net(y))
    with pytest.raises(RuntimeError, match="losses by PyTorch and by ours are"):
        denoise.step_times(denoise.network("convex R"), torch.rand(1, 1, 9, 9), 1)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_done_to_a_picture_is_its_own_adjoint_and_no_larger_than_1(task: str) -> None:
    A, y = denoise.measured(task, torch.rand(1, 20, 30))
    x, z = torch.randn(2, 1, 20, 30)
    torch.testing.assert_close((A(x) * z).sum(), (x * A(z)).sum(), rtol=1e-4, atol=1e-4)
    assert A(x).norm() <= x.norm()
    assert y.shape == (1, 20, 30)


@pytest.mark.parametrize("task", TASKS[1:])
@pytest.mark.parametrize("kind", denoise.NETWORKS)
def test_the_objective_falls_at_every_step(kind: str, task: str) -> None:
    torch.manual_seed(0)
    net = denoise.network(kind)
    assert 0 < convex.lipschitz_bound(net).item() < float("inf")
    clean = 10 * torch.rand(1, 24, 24)
    A, y = denoise.measured(task, clean)
    with torch.no_grad():
        _, curve = denoise.descended(net, 0.1, A, y, denoise.start_of(task, A, y), 15)
    assert len(curve) == 16
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(curve)), curve
    assert curve[-1] < curve[0]
