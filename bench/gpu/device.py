"""The GPU that is there: its name, its versions, its clock."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from gradnets_fast.backend import why_not
from gradnets_fast.benchmark.environment import versions
from gradnets_fast.errors import message

CPU = torch.device("cpu")


def found(part: str, small: bool) -> torch.device:
    """The current GPU, or the CPU where Triton interprets and a part can run there.

    Raises:
        RuntimeError: neither can.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
    refusal = why_not("triton", device, torch.float32)
    if device == CPU and (refusal is not None or part != "checks" or not small):
        refusal = "none"
    if refusal is not None:
        fix = "run it where there is one, or try TRITON_INTERPRET=1 python -m bench.gpu --part checks --small"
        raise RuntimeError(message("bench.gpu", "device", "an NVIDIA GPU", refusal, fix))
    return device


def folder(device: torch.device, out: Path) -> Path:
    """Where this device's results go.

    >>> folder(CPU, Path("results"))
    PosixPath('results/interpreter')
    """
    name = "interpreter" if device == CPU else torch.cuda.get_device_name(device)
    return out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def environment(device: torch.device, command: str, commit: str | None) -> dict[str, object]:
    """Device, driver, versions, commit and command of this run; commit: in place of what git says."""
    where: dict[str, object] = {"device": "Triton's interpreter", "triton": version("triton"), **versions(command)}
    if commit is not None:
        where["commit"] = commit
    if device == CPU:
        return where
    properties = torch.cuda.get_device_properties(device)
    return where | {
        "device": torch.cuda.get_device_name(device),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": _queried("driver_version"),
    }


def clock() -> float:
    """The highest clock of the multiprocessors, in hertz."""
    return 1e6 * float(_queried("clocks.max.sm").split()[0])


def _queried(field: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return answer.splitlines()[torch.cuda.current_device()].strip()
