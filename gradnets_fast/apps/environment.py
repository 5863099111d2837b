"""Where and with what a figure was measured: part of every result file."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..ops import _cpp

_HERE = Path(__file__).resolve()


def environment(command: str, device: torch.device | None = None) -> dict[str, Any]:
    """Processor, GPU, versions, date and command of this run, and the commit if the package is in a git checkout."""
    known = _cpp.why_unavailable() is None
    where: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": _cpp.extension().instruction_set() if known else None,
    }
    if device is not None and device.type == "cuda":
        where |= {**_description(device), "triton": _installed("triton")}
    return where | versions(command)


def place(where: dict[str, Any]) -> str:
    """Where that was, in a few words; where: what `environment` gave."""
    if "device" in where:
        return f"{where['device']}, driver {where['driver']}"
    kernels = where["instruction_set"] or "without the extension"
    return f"{where['processor']}, {where['threads']} thread(s), {kernels}"


def versions(command: str) -> dict[str, object]:
    """The part of it that is the same for every device, and needs no compiled extension."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradnets_fast": __version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
    }


def _description(device: torch.device) -> dict[str, Any]:
    """Name, capability, memory, CUDA and driver, for the head of a result file."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": _driver(device),
    }


def _driver(device: torch.device) -> str | None:
    """The driver's version; None where there is no nvidia-smi to say it, or no answer in it."""
    try:
        return queried("driver_version", device)
    except (OSError, subprocess.SubprocessError, LookupError):
        return None


def queried(field: str, device: torch.device) -> str:
    """What nvidia-smi says of a GPU, by its identity: CUDA_VISIBLE_DEVICES may have renumbered them."""
    index = torch.cuda.current_device() if device.index is None else device.index
    query = ["nvidia-smi", f"--query-gpu=uuid,{field}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    identity = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    own = [row for row in rows if identity and row[0].endswith(identity)]
    return (own or rows[index:] or rows)[0][1]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        # Not the commit of a checkout that merely holds the environment where the package is installed.
        if _git("ls-files", _HERE.name) != _HERE.name:
            return None
        # Results and documents, which a measurement writes, change nothing that it measures.
        others = (":/", ":(exclude,top)bench/results", ":(exclude,top)docs")
        changed = _git("status", "--porcelain", "-uno", "--", *others)
        return _git("rev-parse", "--short", "HEAD") + ("-modified" if changed else "")
    except OSError:
        return None


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=_HERE.parent, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    return f"{known['model name']} (family {known.get('cpu family')}, model {known.get('model')})"
