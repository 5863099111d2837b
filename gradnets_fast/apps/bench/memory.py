"""Extra memory of a step on the CPU: how much a fresh process grows at its peak.

python -m gradnets_fast.apps.bench.memory reads a pickled (case, contender, threads) and prints bytes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from .cases import Case, Problem
from .contenders import CONTENDERS, Contender, compiled

_TIMEOUT_SECONDS = 300.0
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def extra_bytes(case: Case, contender: str) -> int | None:
    """Peak memory of a step beyond what the process had with points and g; None if the process fails."""
    # The package as it was found here, even without being installed.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(
            [sys.executable, "-m", __name__],
            input=pickle.dumps((case, contender, torch.get_num_threads())),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
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


def _main(case: Case, name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    problem = case.problem()
    contender = _built(name, problem)
    g = problem.g.to(contender.points[0].dtype)
    few = tuple(case.few(p.detach()).clone().requires_grad_() for p in contender.points)
    with contender.active():
        replace(contender, points=few).step(case.few(g))
        _forget_peak()
        before = _peak()
        contender.step(g)
    print(_peak() - before)


if __name__ == "__main__":
    _main(*pickle.load(sys.stdin.buffer))
