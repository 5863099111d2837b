"""Checks of the compiled extension, and of the threads it runs on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from ...ops import _cpp
from .examination import FAILURE, NOTE, OK, REINSTALL, WARNING, Check, Request, joined
from .software import HOME

_OPENMP = re.compile(r"\S+ \S+ \S+ (\S+ \S+) +(/.*/lib(?:gomp|iomp5|omp)\b[^/]*\.(?:so|dylib)[^/\n]*)")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _extension(request: Request) -> Iterator[Check]:
    reason = _cpp.why_unavailable()
    if reason is None:
        extension = _cpp.extension()
        yield Check("extension", OK, str(extension.__file__))
        used, available = extension.instruction_set(), extension.available_instruction_sets()
        slower = used != available[0]
        advice = "for full speed: unset GRADNETS_FAST_CPU_ISA" if slower else ""
        finding = f"{used} in use; this processor has {', '.join(available)}"
        yield Check("instruction sets", NOTE if slower else OK, finding, advice)
        return
    others = [path.name for path in sorted(HOME.glob("_C.*")) if path.suffix in (".so", ".pyd")]
    if others and not any(name.endswith(suffix) for name in others for suffix in EXTENSION_SUFFIXES):
        reason += f"; there is {joined(others)}, and this Python takes {EXTENSION_SUFFIXES[0]}"
    advice = REINSTALL
    if "GRADNETS_FAST_CPU_ISA" in reason:
        advice = "unset GRADNETS_FAST_CPU_ISA"
    elif (HOME.parent / "setup.py").is_file():
        advice = f"build it: pip install -e {HOME.parent} (needs a C++17 compiler)"
    yield Check("extension", FAILURE, f"{reason}; meanwhile CPU tensors take the reference", advice)


def _openmp(request: Request) -> Iterator[Check]:
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        yield Check("OpenMP", NOTE, "the runtimes in a process can be listed on Linux only")
        return
    found = openmp_runtimes(maps.read_text(encoding="utf-8", errors="replace"))
    kernels = "" if _cpp.why_unavailable() else f"; the kernels run on {_cpp.extension().threading()}"
    if len(found) == 1:
        yield Check("OpenMP", OK, found[0] + kernels)
    elif found:
        finding = f"{len(found)} runtimes, each with its threads: {joined(found)}{kernels}"
        advice = "install torch and the packages that bring the others from one source; meanwhile OMP_NUM_THREADS=1"
        yield Check("OpenMP", WARNING, finding, advice)
    else:
        advice = "install torch anew, which brings libgomp: pip install --force-reinstall torch"
        yield Check("OpenMP", WARNING, f"no runtime in the process{kernels}", advice)


def openmp_runtimes(maps: str) -> list[str]:
    """The files of OpenMP runtimes in the text of /proc/self/maps.

    >>> openmp_runtimes("7f-80 r-xp 0 08:01 5  /usr/lib/libgomp.so.1\\n80-81 r--p 0 08:01 6  /usr/lib/libm.so.6")
    ['/usr/lib/libgomp.so.1']
    """
    # A file may have several names, but only one device and inode.
    return sorted({match[1]: match[2] for match in _OPENMP.finditer(maps)}.values())


def _threads(request: Request) -> Iterator[Check]:
    threads, cores, named = torch.get_num_threads(), available_cores(), os.environ.get("OMP_NUM_THREADS")
    finding = f"torch runs {threads}, of {cores} core(s) that this process may use"
    finding += f" (OMP_NUM_THREADS={named})" if named else ""
    if threads > cores:
        advice = f"OMP_NUM_THREADS={cores}, or torch.set_num_threads({cores})"
        yield Check("threads", WARNING, f"{finding}: they wait for one another", advice)
    else:
        yield Check("threads", OK, finding)


def available_cores(quota: Path = _QUOTA) -> int:
    """The cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    allowed, period = quota.read_text().split() if quota.is_file() else ("max", "")
    return cores if allowed == "max" else min(cores, max(1, round(int(allowed) / int(period))))


CHECKS = (_extension, _openmp, _threads)
