"""Checks of the NVIDIA driver, and of the GPUs that PyTorch sees through it, in torch's own words."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch.utils import collect_env

from ...ops import _triton
from ...ops._kernels import capability_of
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, described, has_kernels

_SELECTOR = "see the selector at pytorch.org"


def _gpus(request: Request) -> Iterator[Check]:
    driver = collect_env.get_nvidia_driver_version(collect_env.run)
    yield Check("driver", OK if driver else NOTE, f"NVIDIA's {driver}" if driver else "nvidia-smi finds none of NVIDIA")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield why_none(request.device is not None and request.device.startswith("cuda"), driver)
    chosen = [d.index for d in request.devices() if d.type == "cuda"] if request.device else range(count)
    for index in chosen if count else ():
        if index < count:
            yield _one(index)
        else:
            advice = f"choose among cuda:0 to cuda:{count - 1}"
            yield Check(f"GPU {index}", FAILURE, f"torch sees {count}, and no such one", advice)


def why_none(asked: bool, driver: str | None) -> Check:
    """A finding where torch sees no GPU; asked: whether one was asked for; driver: the version of NVIDIA's, if any."""
    try:
        torch.cuda.init()
        finding = "torch sees none"
    except (AssertionError, RuntimeError) as error:
        finding = f"torch sees none: {described(error)}"
    advice, visible = f"install a torch for the CUDA of the driver, or a driver: {_SELECTOR}", None
    if torch.version.cuda is not None and "CUDA_VISIBLE_DEVICES" in os.environ:
        visible, advice = os.environ["CUDA_VISIBLE_DEVICES"], "unset CUDA_VISIBLE_DEVICES"
        finding += f"; CUDA_VISIBLE_DEVICES is {visible!r}"
    status = FAILURE if asked else WARNING if driver and visible is None else NOTE
    return Check("GPUs", status, finding, advice if asked or driver else "")


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
    if refusal is None:
        return Check(name, OK, finding)
    advice = "gradnets-fast tune" if "tune" in refusal else "see the group Triton below"
    return Check(name, WARNING, f"{finding}; the Triton kernels do not run on it: {refusal}", advice)


CHECKS = (_gpus,)
