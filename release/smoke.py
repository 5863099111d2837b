"""A test of an installed package, which needs PyTorch alone: python smoke.py

It runs the doctor, whose self-test compares every operator in every dtype with float64, and the command by both its
names; it checks that networks have the same bits for any number of threads, and that the kernels compiled ahead of time
are there if the version says so.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast.apps.doctor.selftest import DTYPES
from gradnets_fast.kernels import prebuilt
from gradnets_fast.ops import _cpp

BACKENDS = ("reference", "cpp")
"""The backends that every machine has."""

HERE = Path(__file__).resolve().parent


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in this folder, which has no gradnets_fast to hide the installed one."""
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)


def faults_by_doctor(command: Sequence[str]) -> list[str]:
    """Failures that the doctor finds, and checks that must pass and do not."""
    done = run([*command, "doctor", "--json"])
    try:
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    except (ValueError, KeyError):
        return [f"doctor: exit code {done.returncode}: {done.stdout}{done.stderr}"]
    needed = ["extension", *(f"{backend} {dtype}" for backend in BACKENDS for dtype in DTYPES)]
    faults = [f"doctor: no check of {name}" for name in needed if name not in found]
    for check in found.values():
        if check["group"] == "Self-test" or check["name"] in needed:
            print(f"{check['name']}: {check['finding']}")
        if check["status"] == "failure" or (check["name"] in needed and check["status"] != "ok"):
            faults.append(f"{check['name']}: {check['finding']}; {check['advice']}")
    return faults


def faults_of_version(command: Sequence[str]) -> list[str]:
    """Faults unless the command says the version or, without typer, what to install."""
    done = run([*command, "--version"])
    if importlib.util.find_spec("typer") is None:
        right = done.returncode == 2 and "pip install" in done.stderr
    else:
        right = done.returncode == 0 and gradnets_fast.__version__ in done.stdout
    return [] if right else [f"--version: exit code {done.returncode}: {done.stdout}{done.stderr}"]


def results(net: torch.nn.Module, x: Tensor, threads: int) -> list[Tensor]:
    """f, and the gradients of |f|²/2 for x and all parameters."""
    torch.set_num_threads(threads)
    f = net(x)
    return [f, *torch.autograd.grad(f.square().sum() / 2, [x, *net.parameters()])]


def faults_of_threads() -> list[str]:
    """Networks whose results depend on the number of threads, at a size that is divided among them."""
    x = torch.randn(4096, 16, requires_grad=True)
    nets = (gradnets_fast.mGradNetC(4, 16, 64), gradnets_fast.mGradNetM(2, 16, 64))
    faults = []
    with gradnets_fast.use_backend("cpp"):
        for net in nets:
            one, three = results(net, x, 1), results(net, x, 3)
            if not all(map(torch.equal, one, three)):
                faults.append(f"{type(net).__name__}: other bits on three threads")
    return faults


def faults_of_kernels(version: str, usable: bool, text: str) -> list[str]:
    """Faults if a version such as 0.1.0+cu13 lacks kernels of its sources; usable, text: from `prebuilt.status`."""
    if "+cu" not in version:
        return []
    print(f"kernels compiled ahead of time: {text}")
    return [] if usable else [f"version {version}: expected kernels compiled ahead of time, got: {text}; build it anew"]


def main() -> int:
    """Run all tests; return the exit code, 0 if all is well."""
    folder = Path(gradnets_fast.__file__).parent
    print(f"gradnets_fast {gradnets_fast.__version__} of {folder}, torch {torch.__version__}")
    script = shutil.which("gradnets-fast", path=str(Path(sys.executable).parent))
    module = [sys.executable, "-m", "gradnets_fast"]
    missing = _cpp.why_unavailable()
    faults = [missing] if missing else faults_of_threads()
    faults += faults_of_kernels(metadata.version("gradnets_fast"), *prebuilt.status())
    faults += faults_by_doctor([script]) if script else ["gradnets-fast: there is no such command"]
    faults += faults_of_version(module)
    for fault in faults:
        print(f"smoke: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
