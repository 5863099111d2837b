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
WAYS = ("ahead of time", "compiled", "compiled earlier")
"""By kernels compiled ahead of time; by Triton with nothing in its cache; by Triton with all of it there."""

_SWITCH = "GRADNETS_FAST_PREBUILT"
_AGREEMENT = {"half": 2e-2, "tf32x3": 1e-4, "ieee": 1e-4}
"""Relative difference that rounding explains, where the file was made by another version of Triton."""

NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {
    "mRidgeGradNet, tanh": gradnets_fast.mRidgeGradNet,
    "mGradNetC, 4 layers, tanh": lambda d, h, **factory: gradnets_fast.mGradNetC(4, d, h, "tanh", **factory),
    "mGradNetM, 4 modules, softmax": lambda d, h, **factory: gradnets_fast.mGradNetM(4, d, h, "softmax", **factory),
}
"""Those of `kernels.hot`."""


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


def compared(device: torch.device, say: Say) -> dict[str, Any]:
    """Runs every case by both; says which results differ by more than rounding, and what did not run that should."""
    architecture = configuration.tabulated(capability_of(device.index))
    result: dict[str, Any] = {"equal": 0, "within rounding": 0, "wrong": [], "ran": 0, "not run": []}
    for name, d, h, half in cases():
        label = f"{name} d={d} h={h} {'bfloat16' if half else 'float32'}"
        step(name, d, h, half, device)  # names its own launcher when it is first used
        refused: list[str] = []

        def counted(kernel: Any, *launch: Any, refused: list[str] = refused) -> bool:
            ran = _prebuilt.launched(kernel, *launch)
            result["ran"] += ran
            refused += [] if ran else [_prebuilt.name_of(kernel)]
            return ran

        launching.try_first(counted)
        ours = step(name, d, h, half, device)
        launching.try_first(None)
        theirs = step(name, d, h, half, device)
        launching.try_first(_prebuilt.launched)
        kind = "half" if half else configuration.float32_kind(capability_of(device.index))
        known = [k for k in refused if not hot.left_out(architecture, name, k, kind, d, h % 64 == 0)]
        result["not run"] += [f"{label}: {kernel}" for kernel in known]
        _judge(result, label, ours, theirs, _AGREEMENT[kind], say)
    say(
        f"{result['equal']} cases equal, {result['within rounding']} within rounding, {len(result['wrong'])} wrong; "
        f"{result['ran']} launches, {len(result['not run'])} left to Triton that are in the file"
    )
    return result


def _judge(
    result: dict[str, Any], label: str, ours: list[Tensor], theirs: list[Tensor], allowed: float, say: Say
) -> None:
    difference = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(ours, theirs))
    if all(torch.equal(a, b) for a, b in zip(ours, theirs)):
        result["equal"] += 1
    elif difference <= allowed:
        result["within rounding"] += 1
    else:
        result["wrong"].append({"case": label, "difference": difference})
        say(f"WRONG {label}: differs by {difference:.2g}")


_FIRST = """
import json, sys, time
import torch
from bench.gpu import prebuilt
name, d, h, half = json.loads(sys.argv[1])
device = torch.device("cuda", 0)
torch.zeros(1, device=device) @ torch.zeros(1, device=device)
torch.cuda.synchronize()
start = time.perf_counter()
prebuilt.step(name, d, h, half, device)
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def first_steps(say: Say) -> list[dict[str, Any]]:
    """Seconds that the first step of a process takes, its imports and the GPU's start left out."""
    rows = []
    for case in (("mGradNetC, 4 layers, tanh", 2, 256, False), ("mGradNetC, 4 layers, tanh", 64, 1024, True)):
        with tempfile.TemporaryDirectory() as folder:
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for repeat in range(REPEATS):
                cache = str(Path(folder, str(repeat)))
                seconds["ahead of time"].append(_first_step(case, "1", cache + "-ahead"))
                seconds["compiled"].append(_first_step(case, "0", cache))
                seconds["compiled earlier"].append(_first_step(case, "0", cache))
        medians = {way: vars(Spread.of(values)) for way, values in seconds.items()}
        rows.append({"case": case, "seconds": medians})
        say(f"first step of {case}: " + ", ".join(f"{way} {m['median']:.3f} s" for way, m in medians.items()))
    return rows


def _first_step(case: tuple[Any, ...], switch: str, cache: str) -> float:
    environment = {**os.environ, _SWITCH: switch, "TRITON_CACHE_DIR": cache}
    command = [sys.executable, "-c", _FIRST, json.dumps(case)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return float(run.stdout.split()[-1])


def ensure(device: torch.device, say: Say) -> None:
    """Compiles the kernels for this GPU, if the installation has none that it runs."""
    capability = capability_of(device.index)
    archive = prebuilt.installed()
    if isinstance(archive, prebuilt.Archive) and any(prebuilt.runs_on(t, capability) for t in archive.targets()):
        return
    start = time.perf_counter()
    architecture = configuration.tabulated(capability)
    command = [sys.executable, "-m", "gradnets_fast.kernels.prebuild", "--out", str(prebuilt.PATH)]
    subprocess.run([*command, "--architectures", str(architecture)], check=True, cwd=ROOT)
    _prebuilt.forget()
    say(f"kernels for {architecture} compiled in {time.perf_counter() - start:.0f} s")


def run(device: torch.device, write: Callable[[dict[str, Any]], None], say: Say) -> bool:
    """The whole part; whether no result is wrong and every launch of a case that was compiled ran."""
    ensure(device, say)
    found: dict[str, Any] = {"file": prebuilt.status()[1], "results": compared(device, say)}
    write(found)
    write(found | {"first_steps": first_steps(say)})
    results = found["results"]
    return not results["wrong"] and not results["not run"] and results["ran"] > 0
