"""Times and memory of the kernels on a GPU beside eager PyTorch, torch.compile and the authors' structure."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from bench.gpu import device as gpu
from bench.gpu.cases import DTYPES, Case, Rates, bound, flops, tanh_rate
from gradnets_fast import reference
from gradnets_fast.benchmark.plain import plain
from gradnets_fast.benchmark.verification import FLOOR_ULPS
from gradnets_fast.nn import GradNet

JOBS = ("forward", "backward", "step")
_MATRIX, _COPIED = 8192, 2**28
_ROUNDS, _SAMPLE_SECONDS, _WARMUPS = 7, 0.02, 2
_ROWS = 512
_OUT_OF_MEMORY = "out of memory"
Function = Callable[[Tensor], Tensor]


def rates(device: torch.device) -> Rates:
    """What this GPU does, measured."""
    matmul = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(_MATRIX, _MATRIX, device=device).to(dtype) for _ in range(2))
        with gpu.products(name):
            matmul[name] = 2.0 * _MATRIX**3 / _seconds(lambda a=a, b=b: torch.mm(a, b))
    source = torch.empty(_COPIED, device=device)
    target = torch.empty_like(source)
    copy = 2.0 * source.nbytes / _seconds(lambda: target.copy_(source))
    properties = torch.cuda.get_device_properties(device)
    return Rates(matmul, copy, tanh_rate(properties.multi_processor_count, gpu.clock(device)))


def _seconds(job: Callable[[], object]) -> float:
    return statistics.median(interleaved({"": job})[""])


def interleaved(jobs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds a call, of samples of every job taken in turns, another order each round."""
    calls = {}
    for name, job in jobs.items():
        for _ in range(_WARMUPS):
            job()
        calls[name] = max(1, round(_SAMPLE_SECONDS / _sample(job, 1)))
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    order = random.Random(0)
    for _ in range(_ROUNDS):
        for name in order.sample(list(jobs), len(jobs)):
            samples[name].append(_sample(jobs[name], calls[name]))
    return samples


def _sample(job: Callable[[], object], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        job()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end) / calls


def network(case: Case, device: torch.device) -> GradNet:
    """The case's network from a fixed seed."""
    factory = {"device": device, "dtype": DTYPES[case.dtype]}
    with torch.random.fork_rng(devices=[device]):
        torch.manual_seed(0)
        if case.layers == 1:
            return gradnets_fast.mRidgeGradNet(case.d, case.h, **factory)
        return gradnets_fast.mGradNetC(case.layers, case.d, case.h, **factory)


def contenders(net: GradNet, with_compile: bool) -> dict[str, Function]:
    """Who is timed, ours first."""
    names = dict(net.named_parameters())
    authors = reference.ridge_gradnet if isinstance(net, gradnets_fast.mRidgeGradNet) else reference.gradnet_c

    def ours(x: Tensor) -> Tensor:
        with gradnets_fast.use_backend("triton"):
            result: Tensor = net(x)
        return result

    listed: dict[str, Function] = {"ours": ours, "eager": plain(net)}
    listed["authors"] = lambda x: authors(names, x, activation="tanh", monotone=True)
    if with_compile:
        torch.compiler.reset()
        listed["compile"] = torch.compile(plain(net), fullgraph=True, dynamic=False)
        mode = "max-autotune-no-cudagraphs"
        listed["compile, max-autotune"] = torch.compile(plain(net), fullgraph=True, dynamic=False, mode=mode)
    return listed


def measured(case: Case, device: torch.device, machine: Rates, with_compile: bool) -> dict[str, Any]:
    """One row of the results: each contender's times, memory and error, or why it has none."""
    net = network(case, device)
    x = torch.randn(case.batch, case.d, device=device).to(DTYPES[case.dtype]).requires_grad_()
    g = torch.randn_like(x)
    row: dict[str, Any] = {**vars(case), "label": case.label, "contenders": {}}
    least = bound(case, machine)
    jobs: dict[str, dict[str, Callable[[], object]]] = {}
    with gpu.products(case.dtype):
        listed = contenders(net, with_compile)
        row["explanation"] = gradnets_fast.explain(net, x, backend="triton").kernel
        for name, function in listed.items():
            prepared = _prepared(function, net, x, g)
            if isinstance(prepared, str):
                row["contenders"][name] = {"failed": prepared}
                continue
            jobs[name], row["contenders"][name] = prepared
        _verify(row, jobs, net, x)
        for job in JOBS:
            alive = {name: made[job] for name, made in jobs.items() if "failed" not in row["contenders"][name]}
            for name, samples in interleaved(alive).items():
                median = statistics.median(samples)
                row["contenders"][name][job] = {
                    "milliseconds": 1e3 * median,
                    "spread": [1e3 * min(samples), 1e3 * max(samples)],
                    "tflops": 1e-12 * flops(case)[job] / median,
                    "of_bound": least[job] / median,
                }
    row["bound_milliseconds"] = {job: 1e3 * seconds for job, seconds in least.items()}
    row["gain"] = gains(row["contenders"])
    return row


def gains(measurements: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other contender ours is, by job.

    >>> ours, other = ({"forward": {"milliseconds": m}} for m in (2.0, 5.0))
    >>> gains({"ours": ours, "eager": other, "compile": {"failed": "out of memory"}})
    {'eager': {'forward': 2.5}}
    """
    ours = measurements["ours"]
    return {
        name: {job: other[job]["milliseconds"] / ours[job]["milliseconds"] for job in JOBS if job in other}
        for name, other in measurements.items()
        if name != "ours" and "failed" not in other and "failed" not in ours
    }


def _prepared(
    function: Function, net: GradNet, x: Tensor, g: Tensor
) -> tuple[dict[str, Callable[[], object]], dict[str, Any]] | str:
    """The contender's jobs and the memory of its step; a word where it cannot run."""
    leaves = [x, *net.parameters()]

    def forward() -> Tensor:
        with torch.no_grad():
            return function(x)

    def step() -> object:
        return torch.autograd.grad(function(x), leaves, g, allow_unused=True)

    try:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        memory = torch.cuda.max_memory_allocated() - before
        f = function(x)
        jobs: dict[str, Callable[[], object]] = {
            "forward": forward,
            "backward": lambda: torch.autograd.grad(f, leaves, g, retain_graph=True, allow_unused=True),
            "step": step,
        }
        return jobs, {"step_bytes": memory}
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _OUT_OF_MEMORY
    except Exception as error:  # a contender that cannot compile a case must not end the run
        return repr(error)[:500]


def _verify(row: dict[str, Any], jobs: Mapping[str, dict[str, Callable[[], Any]]], net: GradNet, x: Tensor) -> None:
    """No time without a right result: f and dx at some rows against float64, at most twice eager's error."""
    rows = torch.linspace(0, len(x) - 1, _ROWS, device=x.device).round().long()
    points = x.detach()[rows].double().requires_grad_()
    f = _exact(net, points)
    errors = {}
    for name in jobs:
        difference = jobs[name]["forward"]()[rows].double() - f.detach()
        errors[name] = difference.abs().max().nan_to_num(torch.inf).item()
        row["contenders"][name]["error"] = errors[name]
    eps = 2.0**-11 if row["dtype"] == "tf32" else torch.finfo(x.dtype).eps
    floor = FLOOR_ULPS * eps * f.abs().max().item()
    for name in jobs:
        allowed = 2 * errors.get("eager", 0.0) + floor
        if name != "eager" and not errors[name] <= allowed:
            row["contenders"][name]["failed"] = f"error {errors[name]:.2g}, at most {allowed:.2g} allowed"


def _exact(net: Any, x: Tensor) -> Tensor:
    parameters = {name: p.detach().double() for name, p in net.named_parameters()}
    if isinstance(net, gradnets_fast.mRidgeGradNet):
        return reference.ridge_gradnet(parameters, x, activation="tanh", monotone=True)
    return reference.gradnet_c(parameters, x, activation="tanh", monotone=True)


def run(
    device: torch.device, listed: list[Case], minutes: float, compiled: int, report: Callable[[dict[str, Any]], None]
) -> None:
    """Measures in order until the time is up; the first `compiled` cases beside torch.compile.  Reports rows."""
    start, machine = time.monotonic(), rates(device)
    report({"rates": {"matmul": machine.matmul, "copy": machine.copy, "tanh": machine.tanh}})
    for number, case in enumerate(listed):
        if time.monotonic() - start > 60 * minutes:
            report({"not_run": [case.label for case in listed[number:]]})
            return
        report(measured(case, device, machine, with_compile=number < compiled))
        torch.cuda.empty_cache()
