"""A rehearsal of the whole run where there is no GPU, in Triton's interpreter: `make gpu-rehearsal`.

    python -m bench.gpu.rehearsal

runs every part of `python -m bench.gpu`, a little of each, with its workers, limits of time and result files; what only
a GPU has (graphs, side streams, compute-sanitizer) has a stand-in that does the same work in its place.  Then once more
two parts, of which one breaks: it must leave its file, and the other what it was to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_SWITCH, _BROKEN = "BENCH_GPU_REHEARSAL", "BENCH_GPU_BROKEN"
ENVIRONMENT = {"device": "Triton's interpreter", "driver": "none", "triton": "interpreted"}
"""What the result files of a rehearsal say in place of a GPU."""

_SANITIZER = """#!/bin/sh
while [ "$1" != "$PYTHON" ]; do shift; done
"$@" && echo "========= ERROR SUMMARY: 0 errors"
"""


def is_on() -> bool:
    """Whether this process is part of a rehearsal."""
    return os.environ.get(_SWITCH) == "1"


def unbroken(role: str) -> bool:
    """True; a worker of the part that is to break in this rehearsal ends here."""
    if os.environ.get(_BROKEN) == role:
        os._exit(3)
    return True


def shrink() -> None:
    """In a rehearsal: few cases, and small ones."""
    if not is_on():
        return
    from bench import largest_batch
    from bench.gpu import determinants, fitting, images, parts, prebuilt, suite
    from gradnets_fast.apps.bench import machine, presets

    cases = presets.gpu_cases()
    chosen = [next(c for c in cases if c.tensors.family == family) for family in ("ridge", "softmax_modules")]
    small = [replace(case, batch=17, d=3, h=16) for case in chosen]
    parts.gpu_cases = lambda: small
    parts.compilers = lambda case: ("compile",) if case is small[0] else ()
    presets.PRESETS["gpu"] = replace(
        presets.PRESETS["gpu"], plan=replace(presets.PRESETS["gpu"].plan, rounds=1, seconds=0.1)
    )
    machine._CPU_SIZES = (64, 2**10, 2**15)
    suite.listed, suite.watched = lambda *_: suite.rehearsed(), lambda _: suite.rehearsed()[-2:]
    largest_batch.NETWORKS = dict(list(largest_batch.NETWORKS.items())[:1])
    largest_batch.SMALLEST, largest_batch.MOST_ROWS = 16, 32
    determinants.SIZES, determinants.BATCHES, determinants.ROUNDS = (3,), (20,), 1
    fitting.SIZES, fitting.STEPS, fitting.ROUNDS = ((20, 2, 7),), 3, 1
    images.SHAPES, images.ROUNDS = (((1, 4, 5), (2, 3)),), 1
    determinants.SECONDS = fitting.SECONDS = images.SECONDS = 0.1
    prebuilt.ROWS, prebuilt.REPEATS, prebuilt.FIRST = 20, 1, ((*prebuilt.FIRST[0][:2], 16, False),)
    prebuilt.cases = lambda: iter([(name, 2, 16, False) for name in prebuilt.NETWORKS])
    prebuilt.ensure = lambda *_: None
    prebuilt.capability_of = lambda _: 90
    prebuilt._LAUNCHED = _by_interpreter


def _by_interpreter(kernel: Any, grid: Any, arguments: Any, constants: Any) -> bool:
    kernel[grid](*arguments, **constants)
    return True


def ran(folder: Path, *words: str, **environment: str) -> int:
    """The exit code of the command in a rehearsal, with its results in a folder."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    program = tools / "compute-sanitizer"
    program.write_text(_SANITIZER)
    program.chmod(0o755)
    own = {"TRITON_INTERPRET": "1", _SWITCH: "1", "GRADNETS_FAST_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    own |= {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "bench.gpu", "--out", str(folder), "--minutes", "3", "--workers", "2", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **own, **environment}, check=False).returncode


def faults(folder: Path, parts: dict[str, str]) -> list[str]:
    """What is missing of the parts' files, or was not run."""
    found = []
    for part, name in parts.items():
        path = folder / "interpreter" / name
        if not path.is_file():
            found.append(f"{part}: no {name}")
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("not_run"):
            found.append(f"{part}: not run: {content['not_run']}")
    return found


def main() -> int:
    """Rehearses; returns the exit code: 1 if something is wrong."""
    from bench.gpu.__main__ import FILES

    start, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = ran(folder)
        wrong += faults(folder, FILES) + ([f"exit code {code}"] if code else [])
        for file in (folder / "interpreter").iterdir():
            file.unlink()
        wrong += _broken(folder)
    for fault in wrong:
        print(f"bench.gpu.rehearsal: {fault}", file=sys.stderr)
    print(f"rehearsed in {time.monotonic() - start:.0f} s: {'something is wrong' if wrong else 'all is well'}")
    return 1 if wrong else 0


def _broken(folder: Path) -> list[str]:
    """What is wrong with a run one part of which breaks."""
    code = ran(folder, "--part", "determinants", "fit", **{_BROKEN: "determinants"})
    content = {name: folder / "interpreter" / f"{name}.json" for name in ("determinants", "fit")}
    rows = {name: json.loads(path.read_text(encoding="utf-8"))["rows"] for name, path in content.items()}
    wrong = [] if code == 1 else [f"a part broke, and the exit code is {code}"]
    if not rows["determinants"] or not all("code 3" in str(row["fault"]) for row in rows["determinants"]):
        wrong.append(f"a part broke, and its file has {rows['determinants']}")
    if not rows["fit"] or any(row["fault"] for row in rows["fit"]):
        wrong.append(f"a part broke, and the next one has {rows['fit']}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
