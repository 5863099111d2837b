"""Memory that ends in the middle of a call or a step, and networks that are dropped."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import typer

import gradnets_fast
from covering import quick_in_turn
from gradnets_fast.apps.cli.errors import one_line_errors
from gradnets_fast.apps.train.checkpoint import load_checkpoint

LIMITED = """
import resource, sys
from pathlib import Path

def leave(kind, megabytes):
    name = {resource.RLIMIT_AS: "VmSize", resource.RLIMIT_DATA: "VmData"}[kind]
    used = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    resource.setrlimit(kind, (1024 * int(used) + megabytes * 2**20, resource.getrlimit(kind)[1]))
"""
KERNELS = (
    LIMITED
    + """
import torch, gradnets_fast
from gradnets_fast.nn import registry
torch.manual_seed(0)
cases = {type(case.make()): case for case in reversed([*registry.cases()])}
assert len(cases) == len(registry.REFERENCES)
for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
    for case in cases.values():
        net = case.make()
        x, large = torch.randn(1000, net.in_dim, requires_grad=True), torch.zeros(1, net.in_dim).expand(2**25, -1)

        def step():
            return torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])

        before = step()
        leave(kind, 100)
        for call in (net, net.potential, net.jacobian, lambda points: net.jvp(points, points)):
            try:
                call(large)
            except (MemoryError, RuntimeError) as error:
                assert isinstance(error, MemoryError) or "memory" in str(error), error
            else:
                raise AssertionError(f"{case.label}: there was room")
        after = step()
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.getrlimit(kind)[1]))
        assert all(map(torch.equal, before, after)), case.label
"""
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what a process uses from /proc")
def test_a_network_is_right_after_a_call_that_memory_was_too_small_for() -> None:
    run = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


TRAIN = (
    LIMITED
    + """
from gradnets_fast.__main__ import main
import gradnets_fast.apps.cli.train_command as command
train, limit = command._train, int(sys.argv.pop(1))

def limited(*arguments):
    if limit:
        leave(resource.RLIMIT_DATA, limit)
    train(*arguments)

command._train = limited
main()
"""
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what a process uses from /proc")
def test_a_step_that_memory_is_too_small_for_is_one_line_and_the_run_goes_on_later(tmp_path: Path) -> None:
    sizes = [
        "--samples",
        "5000",
        "--batch-size",
        "5000",
        "--embed-dim",
        "128",
        "--layers",
        "2",
        "--steps",
        "3",
        "--backend",
        "reference",
    ]

    def run(limit: int, folder: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TRAIN, str(limit), "train", *options, "--out", str(tmp_path / folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole, stopped = run(0, "whole", *sizes), run(12, "stopped", *sizes)
    assert whole.returncode == 0, whole.stderr
    assert stopped.returncode == 2, stopped.stderr
    assert stopped.stderr.startswith("gradnets-fast: memory: size: expected what fits into the memory left, got ")
    assert stopped.stderr.count("\n") == 1
    assert run(0, "stopped", "--resume").returncode == 0
    a, b = (load_checkpoint(tmp_path / folder) for folder in ("whole", "stopped"))
    assert a.step == b.step == 3
    assert a.history == b.history
    for name, tensor in a.model.items():
        assert torch.equal(tensor, b.model[name]), name


@quick_in_turn("name, backend", ["cpp", "reference"], ["mGradNetC", "mGradNetM"])
def test_a_network_that_is_dropped_is_freed(name: str, backend: str) -> None:
    x = torch.randn(5, 3)
    with gradnets_fast.use_backend(backend):
        net = getattr(gradnets_fast, name)(2, 3, 4)
        net(x).square().sum().backward()
        torch.func.vmap(torch.func.jacrev(net))(x)
        net.potential(x).sum().backward()
        net.jacobian(x).sum().backward()
        gradnets_fast.explain(net, x)
        torch.compile(net, backend="eager")(x)
        kept = [weakref.ref(net), *map(weakref.ref, net.parameters())]
        del net
        torch.compiler.reset()
        gc.collect()
        assert not [reference for reference in kept if reference() is not None]


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "can't start new thread",
        "libx.so: failed to map segment from shared object",
        "[Errno 12] Cannot allocate memory",
    ],
)
def test_whatever_a_lack_of_memory_is_called_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (RuntimeError, ImportError, OSError):
        with pytest.raises(typer.Exit), one_line_errors():
            raise kind(text)
        printed = capsys.readouterr().err
        assert printed.startswith("gradnets-fast: memory: size: expected what fits into the memory left, got ")
        assert printed.count("\n") == 1
