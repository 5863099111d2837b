"""Checks of the NVIDIA driver, and of the GPUs that PyTorch sees through it, in torch's own words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils import collect_env

from ...ops import _triton
from ...ops._kernels import capability_of, kernel_module
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, described, has_kernels

_IN_LINUX = Path("/proc/driver/nvidia/version")
_SELECTOR = "see the selector at pytorch.org"


def _gpus(request: Request) -> Iterator[Check]:
    driver = collect_env.get_nvidia_driver_version(collect_env.run)
    yield of_driver(driver, _IN_LINUX.is_file())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        try:
            torch.cuda.init()
            cause = "it is given none"
        except (AssertionError, RuntimeError) as error:
            cause = described(error)
        asked = request.device is not None and request.device.startswith("cuda")
        yield why_none(cause, asked, driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return
    yield Check("GPUs", OK, f"torch sees {count}")
    chosen = [d.index for d in request.devices() if d.type == "cuda"] if request.device else range(count)
    for index in chosen:
        if index < count:
            yield _one(index)
        else:
            advice = f"choose among cuda:0 to cuda:{count - 1}"
            yield Check(f"GPU {index}", FAILURE, f"torch sees {count}, and no such one", advice)


def of_driver(version: str | None, in_linux: bool) -> Check:
    """Whether NVIDIA's driver answers; in_linux: whether Linux has it loaded."""
    if version:
        return Check("driver", OK, f"NVIDIA's {version}")
    if in_linux:
        advice = "in a container, start it with its GPUs: docker run --gpus all …; else install the driver anew"
        return Check("driver", FAILURE, "Linux has NVIDIA's loaded, and nvidia-smi does not reach it", advice)
    return Check("driver", NOTE, "none of NVIDIA: operators run on the CPU")


def why_none(cause: str, asked: bool, driver: str | None, cuda: str | None, visible: str | None) -> Check:
    """A finding where torch sees no GPU.

    Args:
        cause: torch's own words.
        asked: whether a GPU was asked for.
        driver: the version of NVIDIA's, if it answers.
        cuda: the version that torch is built for.
        visible: CUDA_VISIBLE_DEVICES.
    """
    finding, hidden = f"torch sees none: {cause}", cuda is not None and visible is not None
    if hidden:
        finding, advice = f"{finding}; CUDA_VISIBLE_DEVICES is {visible!r}", "unset CUDA_VISIBLE_DEVICES"
    else:
        advice = f"install a torch for the CUDA of the driver, or update the driver: {_SELECTOR}"
    status = NOTE if hidden or not driver else FAILURE if cuda else WARNING
    return Check("GPUs", FAILURE if asked else status, finding, advice if asked or driver else "")


def _one(index: int) -> Check:
    name, device = f"GPU {index}", torch.device("cuda", index)
    properties, capability = torch.cuda.get_device_properties(index), capability_of(index)
    finding = f"{properties.name}, compute capability {capability / 10}, {properties.total_memory / 2**30:.0f} GiB"
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        finding += f"; torch {torch.__version__} cannot compute on it: {described(error)}"
        return Check(name, FAILURE, finding, f"install a torch that has code for its architecture: {_SELECTOR}")
    refusal = _triton.why_not(device, torch.float32) if has_kernels() else "they are not part of the package"
    if refusal is not None:
        advice = "gradnets-fast tune" if "tune" in refusal else "see the group Triton below"
        return Check(name, WARNING, f"{finding}; the Triton kernels do not run on it: {refusal}", advice)
    configuration = kernel_module("configuration")
    tuned = ", tuned on this machine" if configuration.tuned_table().is_file() else ""
    return Check(name, OK, f"{finding}; tiles of {configuration.tabulated(capability) / 10}{tuned}")


CHECKS = (_gpus,)
