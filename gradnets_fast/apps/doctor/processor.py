"""The compiled extension, and the threads it runs on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from ...ops import _cpp
from .check import FAILURE, NOTE, OK, WARNING, Check, joined
from .examination import Request
from .software import HOME

_OPENMP = re.compile(r"/lib(gomp|iomp5|omp)\b[^/]*\.(so|dylib)[^/]*$")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _extension(request: Request) -> Iterator[Check]:
    reason = _cpp.why_unavailable()
    if reason is None:
        file = Path(str(_cpp.extension().__file__))
        yield Check("extension", OK, str(file))
        return
    others = [path.name for path in sorted(HOME.glob("_C.*")) if path.suffix in (".so", ".pyd")]
    if others and not any(name.endswith(suffix) for name in others for suffix in EXTENSION_SUFFIXES):
        reason += f"; there is {joined(others)}, and this Python takes {EXTENSION_SUFFIXES[0]}"
    yield Check("extension", FAILURE, f"{reason}; meanwhile CPU tensors take the reference", _remedy(reason))


def _remedy(reason: str) -> str:
    if "GRADNETS_FAST_CPU_ISA" in reason:
        return "unset GRADNETS_FAST_CPU_ISA"
    if (HOME.parent / "setup.py").is_file():
        return f"build it: pip install -e {HOME.parent} (needs a C++17 compiler)"
    return "install it anew: pip install --force-reinstall --no-deps gradnets_fast"


def _instruction_sets(request: Request) -> Iterator[Check]:
    if _cpp.why_unavailable() is not None:
        return
    extension = _cpp.extension()
    used, available = extension.instruction_set(), extension.available_instruction_sets()
    finding = f"{used} in use; this processor has {', '.join(available)}"
    restricted = used != available[0]
    advice = "for full speed: unset GRADNETS_FAST_CPU_ISA" if restricted else ""
    yield Check("instruction sets", NOTE if restricted else OK, finding, advice)


def _openmp(request: Request) -> Iterator[Check]:
    of_kernels = "" if _cpp.why_unavailable() else f"; the kernels run on {_cpp.extension().threading()}"
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        yield Check("OpenMP", NOTE, f"runtimes in a process can be listed on Linux only{of_kernels}")
        return
    found = openmp_runtimes(maps.read_text(encoding="utf-8", errors="replace"))
    if len(found) > 1:
        advice = "install torch and the packages that bring the others from one source; meanwhile OMP_NUM_THREADS=1"
        yield Check(
            "OpenMP", WARNING, f"{len(found)} runtimes, each with its threads: {joined(found)}{of_kernels}", advice
        )
    elif not found:
        advice = "install torch anew, which brings libgomp: pip install --force-reinstall torch"
        yield Check("OpenMP", WARNING, f"no runtime in the process{of_kernels}", advice)
    else:
        yield Check("OpenMP", OK, f"{found[0]}{of_kernels}")


def openmp_runtimes(maps: str) -> list[str]:
    """The files of OpenMP runtimes in the text of /proc/self/maps.

    >>> openmp_runtimes("7f-80 r-xp 0 08:01 5  /usr/lib/libgomp.so.1\\n80-81 r--p 0 08:01 6  /usr/lib/libm.so.6")
    ['/usr/lib/libgomp.so.1']
    """
    files: dict[tuple[str, str], str] = {}
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and _OPENMP.search(fields[5]):
            files.setdefault((fields[3], fields[4]), fields[5])  # device and inode: a file may have several names
    return sorted(files.values())


def _threads(request: Request) -> Iterator[Check]:
    yield of_threads(torch.get_num_threads(), available_cores(), os.environ.get("OMP_NUM_THREADS"))


def of_threads(threads: int, cores: int, named: str | None) -> Check:
    """Whether torch's threads have a core each; named: OMP_NUM_THREADS."""
    finding = f"torch runs {threads}, of {cores} core(s) that this process may use"
    finding += f" (OMP_NUM_THREADS={named})" if named else ""
    if threads > cores:
        advice = f"OMP_NUM_THREADS={cores}, or torch.set_num_threads({cores})"
        return Check("threads", WARNING, f"{finding}: they wait for one another", advice)
    return Check("threads", OK, finding)


def available_cores(quota: Path = _QUOTA) -> int:
    """Of this process, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if quota.is_file():
        allowed, period = quota.read_text().split()
        if allowed != "max":
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    return cores


CHECKS = (_extension, _instruction_sets, _openmp, _threads)
