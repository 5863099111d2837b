"""Batches beyond 32-bit offsets, and the search for the largest batch that memory holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import largest_batch
from gradnets_fast import mGradNetC, mGradNetM, mRidgeGradNet
from gradnets_fast.nn import GradNet

ROWS, HIDDEN = 2**21 + 5, 1025
"""More than 2³¹ hidden values."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "net",
    [mRidgeGradNet(1, HIDDEN, "relu"), mGradNetC(1, 1, HIDDEN, "softsign"), mGradNetM(1, 1, HIDDEN)],
    ids=lambda net: type(net).__name__,
)
def test_more_hidden_values_than_32_bits_count(net: GradNet) -> None:
    assert ROWS * HIDDEN > 2**31
    x = torch.linspace(-1, 1, 97).repeat(ROWS // 97 + 1)[:ROWS, None].requires_grad_()
    f = net(x)
    (g,) = torch.autograd.grad(f.sum(), x)
    # Every 97 rows are the same points.
    few = x.detach()[:97].clone().requires_grad_()
    expected = net(few)
    (slope,) = torch.autograd.grad(expected.sum(), few)
    for rows in (slice(0, 97), slice(97 * 20_000, 97 * 20_001), slice(97 * (ROWS // 97), None)):
        torch.testing.assert_close(f[rows], expected[: len(f[rows])])
        torch.testing.assert_close(g[rows], slope[: len(g[rows])])


def test_the_search_finds_the_largest_batch() -> None:
    limit, tried = 54_321, []

    def fits(name: str, contender: str, batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found = largest_batch.largest("net", "ours", fits)
    assert limit / largest_batch.PRECISION <= found <= limit
    assert len(tried) < 20
    limit = 100
    assert largest_batch.largest("net", "ours", fits) == 0


@pytest.mark.slow
def test_a_process_has_the_memory_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """One array of a batch × hidden values alone, which eager keeps, would be more than the limit."""
    name = "mGradNetC, 4 layers, d = 2, h = 64"
    rows = largest_batch.LIMIT // (4 * 64) + 1
    assert largest_batch.fits_a_process(name, "ours", rows)
    assert not largest_batch.fits_a_process(name, "eager", rows)
    # Batches below the first are not searched, and the file says what was found.
    monkeypatch.setattr(largest_batch, "NETWORKS", {name: largest_batch.NETWORKS[name]})
    written: dict[str, Any] = {}
    assert largest_batch.search(lambda *case: case[-1] <= 2048, 17, lambda: True, written.update, lambda line: None)
    assert written["bytes"] == 17
    assert written["rows"][0]["gain"] == 1.0


def test_both_train_the_same_step() -> None:
    for name in largest_batch.NETWORKS:
        losses = [largest_batch.step(name, contender, 2000, "cpu") for contender in largest_batch.CONTENDERS]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
