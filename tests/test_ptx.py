"""The kernels' machine code run without a GPU (`tests/ptx`): a sample, faults that must be found, and the gate."""

from __future__ import annotations

import json

import pytest

from bench import gate
from few_kernels import python

_SAMPLE = """
import torch
from tests.ptx.__main__ import is_right, line, outcome
from tests.ptx.cases import sample
torch.set_num_threads(1)
for case in sample()[slice(*map(int, sys.argv[1:]))]:
    result = outcome(case)
    print(is_right(result), line(case, result))
"""


def check_sample(first: int, last: int) -> None:
    lines = python(_SAMPLE, str(first), str(last)).splitlines()
    assert lines
    assert not [line for line in lines if not line.startswith("True")]


def test_machine_code_of_a_network() -> None:
    """Of few coordinates, on 8.0, forward and backward."""
    check_sample(0, 1)


@pytest.mark.slow
def test_machine_code_of_every_kernel_and_task() -> None:
    check_sample(1, 100)


_MUTANTS = """
import json
from tests.ptx.cases import Case
from tests.ptx.checking import Checker
from tests.ptx.mutants import finding, mutants
architecture, operator, size, form, depth = json.loads(sys.argv[1])
checker = Checker()
assert Case(architecture, "half", operator, tuple(size), form, depth).check(checker, {}).fault is None
launch = checker.kept[int(sys.argv[2])]
for kind, at_least in json.loads(sys.argv[3]).items():
    found = [finding(launch, text) for _, text in mutants(launch.compiled.text, kind)]
    print(json.dumps([kind, len(found), len([one for one in found if one is not None]), at_least]))
"""

DEEP = [80, "deep", [40, 8, 20], "layers", 2]
RIDGE = [90, "ridge", [300, 16, 300], "tanh", 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "launch", "least"),
    [
        (DEEP, 0, {"a barrier less": 15 / 16, "a load without its mask": 1 / 2, "a store without its mask": 1}),
        (DEEP, 1, dict.fromkeys(("relaxed in place of acq_rel", "relaxed in place of release"), 1)),
        (DEEP, 1, {"relaxed in place of acquire": 1 / 2}),
        (RIDGE, 0, {"a copy not waited for": 1, "a product not waited for": 1, "a fence less": 1 / 2}),
    ],
    ids=["barriers and masks", "releases", "acquires", "copies and products"],
)
def test_faults_are_found(case: list[object], launch: int, least: dict[str, float]) -> None:
    """The share of places where a fault shows: some barriers, fences and masks are there for other shapes or twice."""
    for line in python(_MUTANTS, json.dumps(case), str(launch), json.dumps(least)).splitlines():
        kind, places, found, share = json.loads(line)
        assert places > 0, kind
        assert found >= share * places, (kind, places, found)


_RING = """
  %ring = ttg.local_alloc : () -> !ttg.memdesc<{size}x64x64xbf16, #shared, #smem, mutable>
  %first = ttg.memdesc_index %ring[%c0] : !ttg.memdesc
  %copied = ttg.async_copy_global_to_local %at, %first mask %all : tensor
  %sum:2 = scf.for %i = %c0 to %h step %c64 iter_args(%a = %zero) -> (tensor) : i32 {{
    %here = ttg.memdesc_index %ring[%turn] : !ttg.memdesc
    %across = ttg.memdesc_trans %here {{order = array<i32: 1, 0>}} : !ttg.memdesc
    %before = ttng.warp_group_dot_wait %a {{pendings = {pendings} : i32}} : tensor
    %next = ttng.warp_group_dot %left, %across, %before {{isAsync = true}} : tensor
    %there = ttg.memdesc_index %ring[%other] : !ttg.memdesc
    %more = ttg.async_copy_global_to_local %at, %there mask %all : tensor
    scf.yield %next : tensor
  }}
"""


@pytest.mark.parametrize(
    ("size", "pendings", "is_wrong"), [(1, 0, True), (2, 0, False), (2, 1, True), (3, 1, False), (3, 2, True)]
)
def test_buffers_that_products_still_read(size: int, pendings: int, is_wrong: bool) -> None:
    """A product is waited for an iteration later, or `pendings` more: it needs so many buffers besides the next one."""
    complaint = gate.complaint(_RING.format(size=size, pendings=pendings), "")
    assert (complaint == "%ring is refilled while an asynchronous product may read it") == is_wrong
    assert (complaint is None) != is_wrong


def test_programs_that_wait_draw_their_numbers() -> None:
    poll, place = "ld.global.gpu.acquire.b32 %r1, [%rd1];", "mov.u32 %r2, %ctaid.x;"
    assert gate.complaint("", poll + place) is not None
    assert gate.complaint("", poll) is gate.complaint("", place) is None


_STAGES = """
from bench import gate
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.mode import Mode
for name in ("divergence.backward", "jacobian"):
    tiles = configuration.options(offline.VARIANTS[name].kernel, 90, "half", 64, 1)
    launch = offline.launch(name, Mode(90, "half", offline.BASIS, 1), 64, tiles, True, ())
    for stages in (1, 2):
        launch.constants["num_stages"] = stages
        made = compiler.compiled(launch, 90)
        print(name, stages, gate.complaint(made.asm["ttgir"], made.asm["ptx"]) is None)
"""


@pytest.mark.slow
def test_the_gate_knows_why_some_kernels_have_one_stage() -> None:
    """With two, Triton refills a tile that a product reads: `kernels.mode.ONE_STAGE`."""
    lines = [f"{name} {n} {n == 1}" for name in ("divergence.backward", "jacobian") for n in (1, 2)]
    assert python(_STAGES).splitlines() == lines
