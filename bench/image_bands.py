"""The memory and time of a training step of one large image, whole and by bands: `python -m bench.image_bands`.

A step is f and the gradients of the image and all parameters, float32, of the composition of 5 × 5 convolutions from 1
to 4, 8 and 64 channels.  Contenders run in turns, after a check that they give the same numbers; milliseconds are
medians, a gain is the median of the ratios of a turn.  Memory is by how much a fresh process grows at its peak, once as
the C library's allocator works by itself, and once where it returns what is freed to the system at once: glibc before
2.38 fills no hole that an aligned block has left with another one of the same size.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from torch import Tensor

from bench.calculus import Job, measured
from bench.environment import RESULTS, environment
from gradnets_fast.apps.bench.contenders import CONTENDERS
from gradnets_fast.apps.bench.images import ImageCase, image_case
from gradnets_fast.apps.bench.memory import extra_bytes
from gradnets_fast.apps.files import write_json

SIZES = ((481, 321), (1024, 1024))
ROWS = (None, 128, 64)


def row(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The row of one image."""
    whole = image_case(1, size, (1, 4, 8, 64), 5, "tanh")
    cases: dict[str, tuple[ImageCase, str]] = {
        "net(x)" if rows is None else f"image_chunk, {rows} rows": (replace(whole, rows=rows), "ours") for rows in ROWS
    }
    cases["eager PyTorch"] = (whole, "eager")
    jobs = {name: _step(case, contender) for name, (case, contender) in cases.items()}
    found = measured(f"image {size[0]} × {size[1]}", jobs, rounds, 1e-3)
    memory = {name: extra_bytes(case, contender) for name, (case, contender) in cases.items()}
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    in_use = {name: extra_bytes(case, contender) for name, (case, contender) in cases.items()}
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    for name in cases:
        print(
            f"{name}: {(memory[name] or 0) / 2**20:.1f} MiB, in use {(in_use[name] or 0) / 2**20:.1f} MiB", flush=True
        )
    return {**found, "size": size, "memory_bytes": memory, "memory_bytes_in_use": in_use}


def _step(case: ImageCase, name: str) -> Job:
    problem = case.problem()
    contender = CONTENDERS[name](problem)
    assert contender is not None

    def step() -> list[Tensor]:
        with contender.active():
            return [t.detach() for t in contender.step(problem.g) if t is not None]

    return step


def main() -> None:
    """Measures, and writes bench/results/image_bands.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.image_bands", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    write_json(RESULTS / "image_bands.json", {"environment": where, "rows": [row(size, rounds) for size in SIZES]})


if __name__ == "__main__":
    main()
