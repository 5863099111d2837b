"""PyTorch's tools beside autograd and its compilers: what a profile shows of a network."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.profiler import profile

from gradnets_fast.nn.registry import ARCHITECTURES

D, H, BATCH = 3, 5, 4
QUANTITIES = {"forward": "", **{name: f"_{name}" for name in ("jvp", "potential", "divergence", "jacobian")}}
"""Methods of a network, and what their operators' names end with."""


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_profile_shows_operators_by_their_names(architecture: str, autocast: bool) -> None:
    net, x = ARCHITECTURES[architecture].make(2, D, H), torch.ones(BATCH, D)
    with profile() as profiled, torch.autocast("cpu") if autocast else nullcontext():
        for method in QUANTITIES:
            result = getattr(net, method)(*(x, x) if method == "jvp" else (x,))
            result.sum().backward()
    counts = {event.key: event.count for event in profiled.key_averages()}
    for suffix in QUANTITIES.values():
        name = net.operator_name + suffix
        for key in (f"gradnets_fast::{name}", f"gradnets_fast::{name}_backward", f"{name}Backward"):
            assert counts.get(key) == 1, (key, counts)


def test_a_profile_shows_calls_that_record_nothing() -> None:
    net = ARCHITECTURES["gradnet-m"].make(2, D, H)
    with profile() as profiled, torch.no_grad():
        net.value_and_gradient(torch.ones(BATCH, D))
    shown = [event.key for event in profiled.key_averages() if event.key.startswith("gradnets_fast::")]
    assert shown == ["gradnets_fast::softmax_modules_value_and_potential"]
