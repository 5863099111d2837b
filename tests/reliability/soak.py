"""Hours of mixed work at full load: whether memory stays flat and every result keeps its bits.

Several processes, each with several threads that train, infer and differentiate networks of their own in turn.  What a
thread computes follows from its number, and is compared with what it computed at first.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from gradnets_fast import fit, nn
from gradnets_fast.apps.environment import environment
from gradnets_fast.apps.files import write_json

from .children import Child
from .results import SOAK

_PROCESSES, _THREADS = 2, 3
_SLOPE = 1.0
"""MiB a minute by which a process may grow after its first quarter, which is what the allocators' noise is."""


def _networks() -> list[nn.GradNet]:
    return [nn.mGradNetC(3, 5, 40), nn.GradNetM(2, 5, 30), nn.mRidgeGradNet(5, 64), nn.DeepGradNet(5, [24, 24])]


def _digest(tensors: list[torch.Tensor]) -> str:
    total = hashlib.sha256()
    for t in tensors:
        total.update(t.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def work(number: int) -> list[str]:
    """Digests of a training, of inferences and of derivatives, all of which follow from the number."""
    found = []
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(200, 5, generator=generator)
    for net in _networks():
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 4)
        points = x.clone().requires_grad_()
        value = net(points).square().mean()
        first = torch.autograd.grad(value, [points, *net.parameters()], create_graph=True, allow_unused=True)
        (second,) = torch.autograd.grad(first[0].square().sum(), [points])
        derivatives = [net.potential(x), net.jvp(x, x.flip(0)), net.divergence(x), net.jacobian(x[:20])]
        found.append(_digest([value, second, *(t for t in first if t is not None), *derivatives]))
        fit(net, x, torch.tanh(x), steps=20, batch_size=50, seed=number, progress=False)
        found.append(_digest([*net.parameters(), net(x)]))
    return found


def _resident() -> float:
    """Megabytes of memory that this process has."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def _process(seconds: float, first: int) -> int:
    """Print a line for each second: how much memory there is, how much work was done, and how much of it was wrong."""
    torch.set_num_threads(2)
    until, done, wrong = time.monotonic() + seconds, [0] * _THREADS, [0] * _THREADS

    def thread(index: int) -> None:
        expected = work(first + index)
        while time.monotonic() < until:
            wrong[index] += work(first + index) != expected
            done[index] += 1

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(_THREADS)]
    began = time.monotonic()
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        time.sleep(1)
        gc.collect()
        line = {"at": time.monotonic() - began, "MiB": _resident(), "done": sum(done), "wrong": sum(wrong)}
        print(json.dumps(line), flush=True)
    return 0


def slope(samples: list[dict[str, Any]]) -> float:
    """MiB a minute, by least squares, after the first quarter of the time.

    >>> round(slope([{"at": 60.0 * i, "MiB": 100 + 2.0 * i} for i in range(9)]), 6)
    2.0
    """
    late = [s for s in samples if s["at"] >= samples[-1]["at"] / 4]
    t, y = [s["at"] / 60 for s in late], [s["MiB"] for s in late]
    at, level = sum(t) / len(t), sum(y) / len(y)
    return sum((a - at) * (b - level) for a, b in zip(t, y)) / max(1e-9, sum((a - at) ** 2 for a in t))


def main(words: list[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=SOAK)
    options = parser.parse_args(words)
    children = [Child(lambda i=i: _process(60 * options.minutes, 100 * i)) for i in range(_PROCESSES)]
    rows = []
    for child in children:
        ended = child.wait(60 * options.minutes + 300)
        samples = [json.loads(line) for line in ended.out.splitlines()]
        last = samples[-1]
        numbers = {"status": ended.status, "rounds": last["done"], "wrong": last["wrong"]}
        rows.append({**numbers, "MiB": round(last["MiB"], 1), "MiB_a_minute": round(slope(samples), 3)})
        print(rows[-1], ended.err, flush=True)
    command = f"python -m tests.reliability soak --minutes {options.minutes:g}"
    content = {"environment": environment(command), "minutes": options.minutes, "threads": _THREADS, "processes": rows}
    write_json(options.out, content)
    wrong = any(row["status"] or row["wrong"] or row["MiB_a_minute"] > _SLOPE for row in rows)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
