"""Memory that is left, so that a size is refused before memory is asked for: used by all applications."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from pathlib import Path

from ..errors import message

_LIMITS = ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData"))


def check_memory(where: str, argument: str, needed: int, fix: str) -> None:
    """Raise MemoryError if so many bytes are more than `memory_left`, which a step may need several times."""
    left = memory_left()
    if needed > left:
        got = f"{min(needed, 1e30) / 1e9:.3g} GB"
        raise MemoryError(message(where, argument, f"a size that fits into the {left / 1e9:.3g} GB left", got, fix))


def memory_left() -> float:
    """Bytes that the machine, the container and this process's limits leave; infinite where nothing tells."""
    left = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        left.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, KeyError, ValueError):
        left.append(_kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/meminfo", "SwapFree"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # no limit is the word "max"
            left.append(int(Path("/sys/fs/cgroup", file).read_text()))
    for limit, used in _LIMITS:
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            with contextlib.suppress(OSError, KeyError, ValueError):
                left.append(most - _kilobytes("/proc/self/status", used))
    return min(left)


def _kilobytes(file: str, name: str) -> int:
    """A line such as `MemAvailable: 12 kB`, in bytes."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines() if ":" in line)
    return 1024 * int(lines[name].split()[0])
