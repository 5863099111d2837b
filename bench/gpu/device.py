"""The GPU that is there: its name, its versions, how PyTorch is told of float32 products."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton

from bench.environment import RESULTS
from gradnets_fast.benchmark.environment import versions

CPU = torch.device("cpu")


def found() -> torch.device:
    """The current GPU, or the CPU where Triton interprets; SystemExit where neither can run the kernels."""
    import gradnets_fast

    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
    try:
        gradnets_fast.explain("ridge", torch.zeros(1, 2, device=device), backend="triton")
    except gradnets_fast.BackendUnavailableError as error:
        raise SystemExit(f"bench.gpu: {error}") from None
    return device


def name(device: torch.device) -> str:
    """As a folder of bench/results is called.

    >>> name(CPU)
    'interpreter'
    """
    if device == CPU:
        return "interpreter"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


def environment(device: torch.device, command: str) -> dict[str, object]:
    """Device, driver, versions, commit and command of this run."""
    where: dict[str, object] = {"device": name(device), "triton": triton.__version__, **versions(command)}
    if device != CPU:
        properties = torch.cuda.get_device_properties(device)
        where |= {
            "device": torch.cuda.get_device_name(device),
            "capability": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(device),
        }
    return where


def _driver(device: torch.device) -> str | None:
    try:
        return str(torch.cuda._get_nvml_device_index and _nvml("driver_version", device))
    except (ImportError, AttributeError, RuntimeError):
        return None


def _nvml(field: str, device: torch.device) -> str:
    import subprocess

    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", f"--id={device.index}"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def clock(device: torch.device) -> float:
    """The highest clock of the multiprocessors, in hertz."""
    return 1e6 * float(_nvml("clocks.max.sm", device).split()[0])


@contextmanager
def products(dtype: str) -> Iterator[None]:
    """Float32 products in TF32 for "tf32", else as PyTorch is by default."""
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    if dtype != "tf32" and hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "none"  # by default nothing is asked for; "highest" asks for IEEE
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        if hasattr(matmul, "fp32_precision"):
            matmul.fp32_precision = "none"


def folder(device: torch.device) -> str:
    """Where this device's results go."""
    path = RESULTS / name(device)
    path.mkdir(parents=True, exist_ok=True)
    return str(path)
