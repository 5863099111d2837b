"""Times layers on the CPU: eager PyTorch (the reference backend) and the compiled kernels, interleaved in one run.

Each result is first compared with float64; a wrong one is not timed.  Prints a table of medians and ratios and writes
bench/results/cpu_layers.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import gradnets_fast
from bench.environment import RESULTS, environment
from gradnets_fast.nn import GradNet
from gradnets_fast.tasks.checkpoint import write_json

CASES: list[tuple[str, int, int, Callable[[], GradNet]]] = [
    ("mRidgeGradNet", 65536, 64, lambda: gradnets_fast.mRidgeGradNet(2, 64)),
    ("mRidgeGradNet", 65536, 1024, lambda: gradnets_fast.mRidgeGradNet(64, 1024)),
    ("mRidgeGradNet", 16384, 948, lambda: gradnets_fast.mRidgeGradNet(256, 948)),
    ("mGradNetC, 4 layers", 1000, 7, lambda: gradnets_fast.mGradNetC(4, 2, 7)),
    ("mGradNetC, 4 layers", 65536, 629, lambda: gradnets_fast.mGradNetC(4, 32, 629)),
    ("mGradNetC, 4 layers", 65536, 1024, lambda: gradnets_fast.mGradNetC(4, 64, 1024)),
    ("mGradNetM, 4 modules", 16384, 256, lambda: gradnets_fast.mGradNetM(4, 8, 256)),
    ("mGradNetM, 4 modules", 16384, 256, lambda: gradnets_fast.mGradNetM(4, 64, 256, "weighted_softmax")),
]
BACKENDS = ("reference", "cpp")


def check(net: GradNet, x: torch.Tensor) -> float:
    """The largest relative error of the kernels' output and input gradient, on some rows, against float64."""
    rows = x[:: max(1, len(x) // 512)]
    results = []
    for points, module, backend in ((rows, net, "cpp"), (rows.double(), _double(net), "reference")):
        leaf = points.clone().requires_grad_()
        with gradnets_fast.use_backend(backend):
            f = module(leaf)
        results.append((f.detach(), torch.autograd.grad(f.square().sum(), leaf)[0]))
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results)]
    return max(errors)


def _double(net: GradNet) -> GradNet:
    import copy

    return copy.deepcopy(net).double()


def measure(net: GradNet, x: torch.Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of forward and of forward + backward for each backend, taken in turns."""

    def forward() -> None:
        with torch.no_grad():
            net(x)

    def step() -> None:
        net.zero_grad()
        net(x).square().mean().backward()

    times: dict[str, dict[str, list[float]]] = {b: {"forward": [], "step": []} for b in BACKENDS}
    for round_number in range(rounds + 1):
        for name, job in (("forward", forward), ("step", step)):
            for backend in BACKENDS:
                with gradnets_fast.use_backend(backend):
                    start = time.perf_counter()
                    job()
                    if round_number:
                        times[backend][name].append(1e3 * (time.perf_counter() - start))
    return {b: {name: statistics.median(values) for name, values in jobs.items()} for b, jobs in times.items()}


def main() -> None:
    """Verifies, times, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    where, results = environment(), []
    print("| network | batch, d, h | eager forward / step, ms | ours, ms | gain |\n|---|---|---|---|---|")
    for name, batch, h, make in CASES:
        torch.manual_seed(0)
        net = make()
        x = torch.randn(batch, int(net.in_dim))
        error = check(net, x)
        if not error < 1e-5:
            raise SystemExit(f"{name} {batch} {h}: relative error {error:.1e} against float64; nothing is timed")
        medians = measure(net, x, max(rounds, 200 if batch <= 1000 else 0))
        eager, ours = (medians[b] for b in BACKENDS)
        gain = {job: eager[job] / ours[job] for job in eager}
        print(
            f"| {name} | {batch}, {net.in_dim}, {h} | {eager['forward']:.3g} / {eager['step']:.3g} "
            f"| {ours['forward']:.3g} / {ours['step']:.3g} | {gain['forward']:.1f}× / {gain['step']:.1f}× |",
            flush=True,
        )
        size = {"batch": batch, "d": int(net.in_dim), "h": h}
        results.append({"network": name, **size, "relative_error": error, "milliseconds": medians, "gain": gain})
    write_json(RESULTS / "cpu_layers.json", {"environment": where, "dtype": "float32", "rows": results})


if __name__ == "__main__":
    main()
