"""The largest batch that a training step fits into memory, ours beside eager PyTorch: `make largest-batch`.

A step is f, the mean of |f − g|², its gradients and Adam's update, for points and targets that are in memory too.  On
the CPU each trial is a process of its own that may have 2 GB of data, as `ulimit -d` counts (the interpreter and
PyTorch themselves take some 0.2 GB of it); on a GPU, where `python -m bench.gpu --part memory` runs this, all that is
there.  The search is to 5 %.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.environment import RESULTS, environment
from gradnets_fast.apps.bench.cases import NetworkCase
from gradnets_fast.apps.bench.presets import cascade, modular, ridge
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.losses import mean_squared_error

LIMIT = 2_000_000_000
"""Bytes, on the CPU."""
PRECISION = 1.05
SMALLEST = 1024
MOST_ROWS = 2**31
_NO_MEMORY = r"can't allocate memory|Cannot allocate memory|MemoryError|bad_alloc"
_CASES = (ridge(1, 2, 64), cascade(1, 2, 64), cascade(1, 64, 1024), modular(1, 8, 256, "softmax"))
NETWORKS: dict[str, NetworkCase] = {f"{case.family}, d = {case.d}, h = {case.h}": case for case in _CASES}
CONTENDERS = ("eager", "ours")
Fits = Callable[[str, str, int], bool]
"""(network, contender, batch) -> whether a step fits into memory."""


def step(name: str, contender: str, batch: int, device: str) -> float:
    """Trains one step, after a small one; returns the loss."""
    torch.manual_seed(0)
    case = NETWORKS[name]
    net = case.make().to(device)
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    loss = torch.zeros(())
    for rows in (min(batch, SMALLEST), batch):
        x, g = (torch.randn(rows, case.d, device=device) for _ in range(2))
        optimizer.zero_grad()
        f = net(x) if contender == "ours" else case.reference(parameters, x)
        loss = mean_squared_error(f, g)
        loss.backward()
        optimizer.step()
    return loss.item()


def fits(name: str, contender: str, batch: int, device: str) -> bool:
    """Whether a step can be trained on a GPU, in this process."""
    try:
        step(name, contender, batch, device)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def fits_a_process(name: str, contender: str, batch: int) -> bool:
    """Whether a step can be trained on the CPU, in a process that may have LIMIT bytes.

    Raises:
        RuntimeError: it fails for another reason than memory.
    """
    command = [sys.executable, "-m", "bench.largest_batch"]
    trial = ["--trial", name, "--contender", contender, "--batch", str(batch)]
    path = os.pathsep.join([str(RESULTS.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [*command, *trial], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if run.returncode not in (0, -signal.SIGKILL) and not re.search(_NO_MEMORY, run.stderr):
        raise RuntimeError(f"bench.largest_batch: {contender} at {batch}: {run.stderr[-2000:]}")
    return run.returncode == 0


def largest(name: str, contender: str, fits: Fits) -> int:
    """The largest batch, to `PRECISION`."""
    low, high = 0, SMALLEST
    while high <= MOST_ROWS and fits(name, contender, high):
        low, high = high, 2 * high
    while low and high / low > PRECISION:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(name, contender, middle) else (low, middle)
    return low


def search(
    fits: Fits,
    limit: int,
    has_time: Callable[[], bool],
    write: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
) -> bool:
    """Finds every network's largest batches, and writes them after each; whether there are those of all.

    limit: the bytes that there are, for the file.
    """
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name in NETWORKS:
        if not has_time():
            say(f"{name}: not run, for want of time")
            continue
        try:
            found = {contender: largest(name, contender, fits) for contender in CONTENDERS}
            rows.append({"network": name, "largest": found, "gain": found["ours"] / found["eager"]})
        except (RuntimeError, ZeroDivisionError) as error:  # a trial that broke, or not even the smallest batch fitted
            failed[name] = f"{type(error).__name__}: {error}"
            say(f"FAILED {name}: {failed[name]}")
        else:
            say(f"{name}: {found}, {rows[-1]['gain']:.1f} times")
        write({"bytes": limit, "rows": rows} | ({"failed": failed} if failed else {}))
    return len(rows) == len(NETWORKS)


def main() -> None:
    """Searches on the CPU; or, in a process of its own, tries one batch."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.largest_batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="(default: bench/results)")
    parser.add_argument("--trial", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial is None:
        file, where = options.out / "largest_batch_cpu.json", {"environment": environment()}
        say = partial(print, flush=True)
        search(fits_a_process, LIMIT, lambda: True, lambda found: write_json(file, where | found), say)
        return
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    print(step(options.trial, options.contender, options.batch, "cpu"))


if __name__ == "__main__":
    main()
