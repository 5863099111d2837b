"""Kernels compiled ahead of time beside Triton's: the same results, and how long a first step takes with each.

python -m bench.gpu --part prebuilt
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from bench.environment import ROOT
from gradnets_fast.apps.bench.measurement import Spread
from gradnets_fast.kernels import configuration, hot, launching, prebuilt
from gradnets_fast.ops import _prebuilt
from gradnets_fast.ops._kernels import capability_of

Say = Callable[[str], None]
ROWS = 3000
REPEATS = 3
_LAUNCHED: Callable[..., object] = _prebuilt.launched
WAYS = ("ahead of time", "compiled", "compiled earlier")
"""By kernels compiled ahead of time; by Triton with nothing in its cache; by Triton with all of it there."""

_FIRST_SECONDS = 120.0
_SWITCH = "GRADNETS_FAST_PREBUILT"
_AGREEMENT = {"half": 2e-2, "tf32x3": 1e-4, "ieee": 1e-4}
"""Relative difference that rounding explains, where the file was made by another version of Triton."""

NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {
    "mRidgeGradNet, tanh": gradnets_fast.mRidgeGradNet,
    "mGradNetC, 4 layers, tanh": lambda d, h, **factory: gradnets_fast.mGradNetC(4, d, h, "tanh", **factory),
    "mGradNetM, 4 modules, softmax": lambda d, h, **factory: gradnets_fast.mGradNetM(4, d, h, "softmax", **factory),
}
"""The networks of `kernels.hot`."""


def step(name: str, d: int, h: int, half: bool, device: torch.device) -> list[Tensor]:
    """f and all gradients, twice: of the parameters alone, and of the points too."""
    torch.manual_seed(0)
    net = NETWORKS[name](d, h, device=device)
    x = torch.randn(ROWS, d, device=device)
    found: list[Tensor] = []
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        for points in (x, x.clone().requires_grad_()):
            leaves = [t for t in (points, *net.parameters()) if t.requires_grad]
            f = net(points)
            found += [f.detach(), *torch.autograd.grad(f.float().square().sum(), leaves)]
    return found


def cases() -> Iterator[tuple[str, int, int, bool]]:
    """(network, d, h, whether in bfloat16) of everything that `hot` has."""
    for name, d, half, h in product(NETWORKS, (*hot.WIDTHS, 512), (True, False), (256, 129)):
        if d != 512 or "mGradNetM" not in name:
            yield name, d, h, half


def label(name: str, d: int, h: int, half: bool) -> str:
    """For people."""
    return f"{name} d={d} h={h} {'bfloat16' if half else 'float32'}"


def compared(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Runs a case by both: the largest difference, and what ran ahead of time and what did not that should have."""
    name, d, h, half = task["case"]
    step(name, d, h, half, device)  # names its own launcher when it is first used
    ran, refused = [], []

    def counted(kernel: Any, *launch: Any) -> bool:
        done = bool(_LAUNCHED(kernel, *launch))  # no more than that: each launch is to be counted
        (ran if done else refused).append(_prebuilt.name_of(kernel))
        return done

    launching.try_first(counted)
    ours = step(name, d, h, half, device)
    launching.try_first(None)
    theirs = step(name, d, h, half, device)
    launching.try_first(_prebuilt.launched)
    architecture = configuration.tabulated(capability_of(device.index))
    kind = "half" if half else configuration.float32_kind(capability_of(device.index))
    return {
        "equal": all(torch.equal(a, b) for a, b in zip(ours, theirs)),
        "difference": max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(ours, theirs)),
        "allowed": _AGREEMENT[kind],
        "ran": len(ran),
        "not run": [k for k in refused if not hot.left_out(architecture, name, k, kind, d, h % 64 == 0)],
    }


def nothing() -> dict[str, Any]:
    """The result file before any case."""
    results = {"equal": 0, "within rounding": 0, "wrong": [], "ran": 0, "not run": []}
    return {"file": prebuilt.status()[1], "results": results}


def add(results: dict[str, Any], case: str, answer: dict[str, Any] | Exception, say: Say) -> None:
    """Counts a case's answer; says whether its results differ by more than rounding."""
    if isinstance(answer, Exception):
        results["wrong"].append({"case": case, "fault": str(answer)})
        say(f"FAILED {case}: {answer}")
        return
    results["ran"] += answer["ran"]
    results["not run"] += [f"{case}: {kernel}" for kernel in answer["not run"]]
    if answer["equal"]:
        results["equal"] += 1
    elif answer["difference"] <= answer["allowed"]:
        results["within rounding"] += 1
    else:
        results["wrong"].append({"case": case, "difference": answer["difference"]})
        say(f"WRONG {case}: differs by {answer['difference']:.2g}")


_FIRST = """
import json, sys, time
import torch
from bench.gpu import prebuilt, rehearsal
rehearsal.shrink()
name, d, h, half = json.loads(sys.argv[1])
device = torch.device(sys.argv[2])
torch.zeros(1, device=device) @ torch.zeros(1, device=device)
wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
wait()
start = time.perf_counter()
prebuilt.step(name, d, h, half, device)
wait()
print(time.perf_counter() - start)
"""


FIRST = (("mGradNetC, 4 layers, tanh", 2, 256, False), ("mGradNetC, 4 layers, tanh", 64, 1024, True))
"""The cases whose first step is timed."""


def first_steps(device: torch.device, limit: Callable[[float], float], say: Say) -> Iterator[dict[str, Any]]:
    """Seconds that the first step of a process takes, its imports and the GPU's start left out; limit: of a process.

    A case whose process fails, or takes too long, says so, and keeps no other from being timed.
    """
    for case in FIRST:
        try:
            medians = _first_steps_of(case, device, limit)
        except (subprocess.SubprocessError, ValueError, LookupError) as error:
            say(f"FAILED first step of {case}: {error}")
            yield {"case": case, "fault": f"{type(error).__name__}: {error}"}
            continue
        say(f"first step of {case}: " + ", ".join(f"{way} {m['median']:.3f} s" for way, m in medians.items()))
        yield {"case": case, "seconds": medians}


def _first_steps_of(
    case: tuple[Any, ...], device: torch.device, limit: Callable[[float], float]
) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS):
            cache = str(Path(folder, str(repeat)))
            for way, switch, own in zip(WAYS, "100", (cache + "-ahead", cache, cache)):
                seconds[way].append(_first_step(case, device, switch, own, limit(_FIRST_SECONDS)))
    return {way: vars(Spread.of(values)) for way, values in seconds.items()}


def _first_step(case: tuple[Any, ...], device: torch.device, switch: str, cache: str, seconds: float) -> float:
    environment = {**os.environ, _SWITCH: switch, "TRITON_CACHE_DIR": cache}
    command = [sys.executable, "-c", _FIRST, json.dumps(case), str(device)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=seconds
    )
    return float(run.stdout.split()[-1])


def ensure(device: torch.device, seconds: float, say: Say) -> None:
    """Compiles the kernels for this GPU, if the installation has none that it runs.

    Raises:
        subprocess.SubprocessError: that fails, or takes longer than so many seconds.
    """
    capability = capability_of(device.index)
    archive = prebuilt.installed()
    if isinstance(archive, prebuilt.Archive) and any(prebuilt.runs_on(t, capability) for t in archive.targets()):
        return
    start = time.perf_counter()
    architecture = configuration.tabulated(capability)
    command = [sys.executable, "-m", "gradnets_fast.kernels.prebuild", "--out", str(prebuilt.PATH)]
    subprocess.run([*command, "--architectures", str(architecture)], check=True, cwd=ROOT, timeout=seconds)
    _prebuilt.forget()
    say(f"kernels for {architecture} compiled in {time.perf_counter() - start:.0f} s")
