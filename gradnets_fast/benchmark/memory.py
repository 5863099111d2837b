"""Extra memory of a step: how much a fresh process grows at its peak.

python -m gradnets_fast.benchmark.memory LABEL CONTENDER THREADS prints bytes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from ..backend import use_backend
from .cases import CASES, Case
from .contenders import BACKEND, CONTENDERS, Contender, Problem, compiled, make_problem

LARGE = 2**24
"""B·h from which on a case's memory is measured: one float32 array of that size is 67 MB."""

_WARMUP_BATCH = 256
_TIMEOUT_SECONDS = 300.0
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def extra_bytes(case: Case, contender: str) -> int | None:
    """Peak memory of a step beyond what the process had with x and g; None if the process fails."""
    command = [sys.executable, "-m", __name__, case.label, contender, str(torch.get_num_threads())]
    # The package as it was found here, even without being installed.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if run.returncode == 0:
            return int(run.stdout.split()[-1])
    return None


def _peak() -> int:
    # On Linux a process inherits ru_maxrss from the one that starts it, here one that has timed the same case.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _forget_peak() -> None:
    """On Linux, lowers the peak to the present size: compiling needed more than is left of it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _built(name: str, problem: Problem) -> Contender:
    # Dynamic, so that the batch of the warm-up and the real one share one compilation.
    contender = compiled(problem, dynamic=True) if name == "compile" else CONTENDERS[name](problem)
    assert contender is not None
    return contender


def _main(label: str, name: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    case = next(case for case in CASES if case.label == label)
    problem = make_problem(case)
    contender = _built(name, problem)
    x, g = contender.x, problem.g.to(contender.x.dtype)
    few = x.detach()[:_WARMUP_BATCH].clone().requires_grad_()
    with use_backend(BACKEND):
        Contender(contender.call, few, contender.parameters).step(g[:_WARMUP_BATCH])
        _forget_peak()
        before = _peak()
        contender.step(g)
    print(_peak() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
