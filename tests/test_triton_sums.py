"""Sums over the batch by many Triton programs: how they are divided, and added up in groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton.language as tl

from covering import label
from gradnets_fast.kernels import launch, launching, reduction
from oracle import assert_as_good_as_eager
from test_operators import Call, compare, drawn, ridge_call


@pytest.mark.parametrize(
    ("batch", "size", "splits", "rows"),
    [
        ((65536, 32), (2, 14 * 32, 32), 256, 256),
        ((65536, 32), (1, 44 * 64, 64), 293, 224),
        ((65536, 32), (1, 131 * 64, 64), 171, 384),
        ((1 << 20, 32), (16, 76 * 64, 64), 32, 1 << 15),
        ((70, 32), (2, 14 * 32, 32), 1, 96),
        ((70, 32), (0, 0, 32), 1, 32),
    ],
    ids=str,
)
def test_the_last_program_adds_no_more_parts_than_its_own_work_is_worth(
    batch: tuple[int, int], size: tuple[int, int, int], splits: int, rows: int
) -> None:
    layout = launch.layout_of(*batch, *size)
    groups = -(-splits // 16)
    assert (layout.splits, layout.rows, layout.programs) == (splits, rows, size[0] * splits)
    assert layout.partials == size[0] * (splits + groups) * size[1]
    assert layout.counters >= 4 + size[0] * (1 + groups)


IN_GROUPS = [
    (ridge_call(2, ("tanh",), "triton"), (640, 3, 5)),
    (ridge_call(1, ("softplus", "identity"), "triton"), (700, 12, 5)),
]


@pytest.mark.parametrize(("call", "size"), IN_GROUPS, ids=label)
def test_sums_by_several_groups_of_programs(
    call: Call, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the machine has take long in the interpreter, so that groups are smaller here."""
    monkeypatch.setattr(reduction, "GROUP", tl.constexpr(2))
    tensors, g = drawn(call, size, torch.float32)
    counted: list[int] = []

    def record(kernel: Any, _: Any, arguments: tuple[Any, ...], constants: Any) -> bool:
        names = (name for name in kernel.arg_names if name not in constants)
        counted.append(dict(zip(names, arguments)).get("splits", 0))
        return False

    launching.try_first(record)
    try:
        result = compare(call, tensors, g)
    finally:
        launching.try_first(None)
    assert max(counted) > 2
    assert max(counted) % 2 == 1
    assert_as_good_as_eager(result.ours, result.eager, result.exact)
    again = compare(call, tensors, g)
    assert all(torch.equal(a, b) for a, b in zip(result.ours, again.ours))
