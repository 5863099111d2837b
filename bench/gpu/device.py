"""The GPU that is there, and what a run on it is called."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bench.gpu import rehearsal
from gradnets_fast.apps import environment as package
from gradnets_fast.backend import why_not
from gradnets_fast.errors import message

CPU = torch.device("cpu")


def found(part: str, small: bool) -> torch.device:
    """The current GPU, or the CPU where Triton interprets and a part can run there.

    Raises:
        RuntimeError: neither can.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
    refusal = why_not("triton", device, torch.float32)
    runs_on_cpu = rehearsal.is_on() or (part == "checks" and small)
    if device == CPU and (refusal is not None or not runs_on_cpu):
        refusal = "none"
    if refusal is not None:
        fix = "run it where there is one, or try TRITON_INTERPRET=1 python -m bench.gpu --part checks --small"
        raise RuntimeError(message("bench.gpu", "device", "an NVIDIA GPU", refusal, fix))
    return device


def memory_of(device: torch.device) -> int:
    """The bytes that a GPU has; of a rehearsal on the CPU 0."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def folder(device: torch.device, out: Path) -> Path:
    """The folder of this device's results.

    >>> folder(CPU, Path("results"))
    PosixPath('results/interpreter')
    """
    name = "interpreter" if device == CPU else torch.cuda.get_device_name(device)
    return out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def environment(device: torch.device, command: str, commit: str | None) -> dict[str, object]:
    """Device, driver, versions, commit and command of this run; commit: in place of what git says."""
    where = package.environment(command, device) | ({} if commit is None else {"commit": commit})
    return where | (rehearsal.ENVIRONMENT if device == CPU else {})
