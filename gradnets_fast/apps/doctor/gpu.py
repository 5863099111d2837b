"""The NVIDIA driver, and the GPUs that PyTorch sees through it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...ops import _triton
from ...ops._kernels import capability_of, kernel_module
from .check import FAILURE, NOTE, OK, WARNING, Check, joined, numbers
from .examination import Request, has_kernels

_OF_KERNEL = Path("/proc/driver/nvidia/version")
_CUDA_BUILD = "install a torch that is built for CUDA {version}: see the selector at pytorch.org"
_GIB = 2**30


@dataclass(frozen=True)
class Driver:
    """The driver's library, as far as it answers.

    Attributes:
        version: the newest CUDA it runs, (12, 8); None if it cannot be loaded.
        fault: why it cannot be loaded, or what its start gives.
    """

    version: tuple[int, int] | None
    fault: str | None = None


def driver(library: str = "libcuda.so.1") -> Driver:
    """What the driver says of itself."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return Driver(None, str(error))
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    result = cuda.cuInit(0)
    if result == 0:
        return Driver(version)
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(result, ctypes.byref(name))
    return Driver(version, (name.value or str(result).encode()).decode())


def _driver(request: Request) -> Iterator[Check]:
    yield of_driver(driver(), torch.version.cuda, _OF_KERNEL.is_file())


def of_driver(found: Driver, cuda: str | None, in_kernel: bool) -> Check:
    """Whether the driver works, and for the CUDA that torch is built for; in_kernel: whether Linux has it loaded."""
    if found.version is None and not in_kernel:
        return Check("driver", NOTE, f"no NVIDIA driver ({found.fault}): operators run on the CPU")
    if found.version is None:
        advice = "in a container, start it with its GPUs: docker run --gpus all …; else install the driver anew"
        return Check("driver", FAILURE, f"Linux has it loaded, and programs cannot: {found.fault}", advice)
    if found.fault is None:
        return of_age(found.version, cuda)
    finding = f"it runs CUDA up to {_dotted(found.version)}, and starting it gives {found.fault}"
    if found.fault == "CUDA_ERROR_NO_DEVICE":
        return Check("driver", NOTE, finding)
    advice = "nvidia-smi says more; a driver that was updated works after a restart of the machine"
    return Check("driver", FAILURE, finding, advice)


def of_age(version: tuple[int, int], cuda: str | None) -> Check:
    """Whether a driver is new enough for the CUDA that torch is built for; None: for none."""
    finding = f"it runs CUDA up to {_dotted(version)}"
    if cuda is None or numbers(cuda)[:2] <= version:
        return Check("driver", OK, finding)
    advice = f"update the driver, or {_CUDA_BUILD.format(version=_dotted(version))}"
    if numbers(cuda)[0] > version[0]:
        return Check("driver", FAILURE, f"{finding}, and torch is built for {cuda}", advice)
    # Within a major version older drivers run the runtime; what needs the driver's own compiler may fail.
    return Check("driver", NOTE, f"{finding}, which is older than torch's {cuda} and of the same major version", advice)


def _seen(request: Request) -> Iterator[Check]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        yield Check("GPUs", OK, f"torch sees {count}")
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield why_none(driver(), torch.version.cuda, torch.version.hip, named, request.device)


def why_none(found: Driver, cuda: str | None, hip: str | None, visible: str | None, wanted: str | None) -> Check:
    """Why torch sees no GPU.

    cuda, hip: what torch is built for.  visible: CUDA_VISIBLE_DEVICES.  wanted: the device that was asked for.
    """
    asked = wanted is not None and wanted.startswith("cuda")
    working = found.version is not None and found.fault is None
    status = FAILURE if asked else WARNING if working else NOTE
    if cuda is None:
        version = "12" if found.version is None else _dotted(found.version)
        advice = _CUDA_BUILD.format(version=version) if asked or working else ""
        return Check("GPUs", status, f"torch sees none: it is built for {'ROCm' if hip else 'the CPU'}", advice)
    if visible is not None and not re.match(r"\d|GPU-|MIG-", visible.strip()):
        advice = "unset CUDA_VISIBLE_DEVICES, or set it to 0"
        finding = f"torch sees none: CUDA_VISIBLE_DEVICES is {visible!r}, which hides all"
        return Check("GPUs", FAILURE if asked else NOTE, finding, advice)
    if not working:
        advice = "see the driver above" if asked else ""
        return Check("GPUs", FAILURE if asked else NOTE, "torch sees none, as the driver gives it none", advice)
    advice = 'python -c "import torch; torch.zeros(1).cuda()" says why; nvidia-smi lists what there is'
    return Check("GPUs", FAILURE, "torch sees none, though the driver works", advice)


def _each(request: Request) -> Iterator[Check]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = [d.index for d in request.devices() if d.type == "cuda"] if request.device else range(count)
    for index in chosen:
        if index < count:
            yield _one(index)
        elif count:
            advice = f"choose among cuda:0 to cuda:{count - 1}"
            yield Check(f"GPU {index}", FAILURE, f"torch sees {count}, and no such one", advice)


def _one(index: int) -> Check:
    properties = torch.cuda.get_device_properties(index)
    capability = capability_of(index)
    memory = f"{properties.total_memory / _GIB:.0f} GiB"
    finding = f"{properties.name}, compute capability {capability / 10}, {memory}"
    name, device = f"GPU {index}", torch.device("cuda", index)
    if torch.version.hip is None and not covered(capability, torch.cuda.get_arch_list()):
        built = joined(torch.cuda.get_arch_list())
        version = torch.version.cuda
        advice = f"install a newer torch than {torch.__version__} (CUDA {version}), or one that has this architecture"
        return Check(name, FAILURE, f"{finding}; torch has code for {built} only", advice)
    refusal = _triton.why_not(device, torch.float32) if has_kernels() else "they are not part of the package"
    if refusal is not None:
        advice = "gradnets-fast tune" if "tune" in refusal else "see the group Triton below"
        return Check(name, WARNING, f"{finding}; the Triton kernels do not run on it: {refusal}", advice)
    configuration = kernel_module("configuration")
    tiles = f"tiles of {configuration.tabulated(capability) / 10}"
    tuned = ", tuned on this machine" if configuration.tuned_table().is_file() else ""
    return Check(name, OK, f"{finding}; {tiles}{tuned}")


def covered(capability: int, built: Sequence[str]) -> bool:
    """Whether torch's own code runs on a GPU; built: what torch.cuda.get_arch_list gives.

    >>> covered(86, ["sm_80", "sm_90"]), covered(120, ["sm_80", "sm_90"]), covered(120, ["sm_90", "compute_90"])
    (True, False, True)
    """
    for target in built:
        kind, _, number = target.partition("_")
        digits = int(re.sub(r"\D", "", number) or 0)
        exact = number.endswith("a")
        if kind == "compute" and digits <= capability:
            return True
        if kind == "sm" and (digits == capability if exact else digits <= capability < 10 * (digits // 10 + 1)):
            return True
    return not built


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


CHECKS = (_driver, _seen, _each)
