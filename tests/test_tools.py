"""PyTorch's tools beside autograd and its compilers: profiles, the counter of operations, saved programs."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import gradnets_fast as gf
from covering import slow_but_few
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


FAMILIES = {
    "ridge": gf.mGradNetC(2, D, H),
    "softmax_modules": gf.GradNetM(2, D, H, "weighted_softmax"),
    "transformed_modules": gf.mGradNetM(2, D, H, "tanh", transform="half_square"),
    "deep": gf.DeepGradNet(D, (H, H), linear="psd"),
}


@pytest.mark.parametrize(("family", "method"), slow_but_few(list(product(FAMILIES, QUANTITIES))))
def test_the_counter_of_operations_counts_those_of_plain_pytorch(family: str, method: str) -> None:
    net, points = FAMILIES[family], torch.ones(2, BATCH, D)

    def counts(backend: str, moves: bool) -> list[int]:
        x, found = points.clone().requires_grad_(moves), []
        inputs = [*[x][:moves], *net.parameters()]
        with gf.use_backend(backend):
            with FlopCounterMode(display=False) as counter:
                result = getattr(net, method)(*(x, x.detach()) if method == "jvp" else (x,))
            found.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                first = torch.autograd.grad(result.sum(), inputs, create_graph=moves, allow_unused=True)
            found.append(counter.get_total_flops())
            if moves:
                with FlopCounterMode(display=False) as counter:
                    first[0].sum().backward()
                found.append(counter.get_total_flops())
        return found

    for moves in (False, True):
        found = counts("cpp", moves)
        assert found == counts("reference", moves)
        assert min(found) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports", ["torch.utils.flop_counter; import gradnets_fast", "gradnets_fast; gradnets_fast.ridge"]
)
def test_the_counter_may_be_imported_before_or_after(imports: str) -> None:
    script = f"""
import {imports}
import sys, torch
net, x = gradnets_fast.RidgeGradNet(3, 5), torch.zeros(4, 3)
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    net(x).sum().backward()
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (2 + 3) * 2 * 4 * 3 * 5  # forward; g Wᵀ, and two products for the gradient of W


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_saved_program_runs_where_the_operators_are_registered(tmp_path: Path) -> None:
    net, x = gf.RidgeGradNet(D, H), torch.ones(BATCH, D)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    torch.jit.trace(net, (x,)).save(tmp_path / "net.pt")
    script = f"""
import sys, torch
folder, x = {str(tmp_path)!r}, torch.ones({BATCH}, {D})
exported, traced = lambda: torch.export.load(folder + "/net.pt2").module(), lambda: torch.jit.load(folder + "/net.pt")
for load in exported, traced:
    try:
        load()(x)
    except RuntimeError as error:
        print("refused")
import gradnets_fast.ops
for load in exported, traced:
    print(load()(x).tolist())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["refused"] * 2 + [str(net(x).tolist())] * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_to_onnx_sees_operators_of_pytorch_only(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both exporters, known by their own flags: torch.onnx itself needs packages that nothing else here does."""
    net, x = ARCHITECTURES[architecture].make(2, D, H), torch.ones(BATCH, D)
    assert "gradnets_fast::" in str(torch.jit.trace(net, (x,)).inlined_graph)
    monkeypatch.setattr("torch.onnx._internal.exporter._flags._is_onnx_exporting", True)
    exported = torch.export.export(net, (x,))
    traced = torch.jit.trace(net, (x,))
    assert "gradnets_fast." not in exported.graph_module.code
    assert "gradnets_fast::" not in str(traced.inlined_graph)
    torch.testing.assert_close(exported.module()(x), net(x))
