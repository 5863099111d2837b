"""Launches through the CUDA driver's interface, beside a library that stands for the driver and writes down its calls.

That results are right needs a GPU: python -m bench.gpu --part prebuilt.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from few_kernels import FEW, HERE, archive, manifest_of, python
from gradnets_fast.ops import _cpp

pytestmark = pytest.mark.slow

SCRIPT = """
from pathlib import Path
import torch
import gradnets_fast
from few_kernels import few
from gradnets_fast.kernels import compiler, configuration, prebuilt
from gradnets_fast.ops import _prebuilt

class Pretended(torch.Tensor):
    is_cuda = True
    device_number = 0
    get_device = lambda self: Pretended.device_number

def tensor(kind, offset=0):
    dtype = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*i32": torch.int32}[kind]
    return torch.zeros(64, dtype=dtype)[offset:].as_subclass(Pretended)

class Stream:
    cuda_stream = 77

torch.cuda.current_stream = lambda device: Stream()
torch.cuda.get_device_capability = lambda device: (9, 0)
prebuilt.PATH = Path(sys.argv[1])

def launch_of(kernel):
    return next(launch for _, launch in few(90) if launch.kernel == kernel)

def arguments_of(launch, h, offset=0):
    numbers = iter(range(100, 200))
    def value(name, kind):
        if kind is None:
            return None
        if kind == "i32":
            return h if name == "h" else 16 * next(numbers)
        return tensor(kind, offset if name == "W" else 0)
    return tuple(value(name, kind) for name, kind in launch.types.items())

def launched(launch, arguments, grid=(3,)):
    return _prebuilt.launched(launch.function, grid, arguments, launch.constants)
"""

LAUNCHES = """
for kernel in sys.argv[2:]:
    launch = launch_of(kernel)
    arguments = arguments_of(launch, 32)
    again = launched(launch, arguments)
    assert again, kernel
    again(77, arguments)
    print(*(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments if a is not None))
"""


@pytest.fixture(name="archive", scope="module")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory)


@pytest.fixture(name="driver")
def _driver(tmp_path: Path) -> dict[str, str]:
    """The variables with which a process finds the library; types: those of no kernel."""
    library = tmp_path / "libcuda.so.1"
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    source = HERE / "fake_driver.c"
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    log = tmp_path / "log"
    log.touch()
    return {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_DRIVER_LOG": str(log), "FAKE_DRIVER_TYPES": ""}


def _log(driver: dict[str, str]) -> list[list[str]]:
    return [line.split() for line in Path(driver["FAKE_DRIVER_LOG"]).read_text().splitlines()]


@pytest.mark.parametrize("kernel", sorted(kernel for kernel, *_ in FEW))
def test_a_launch_hands_over_what_it_was_given(kernel: str, archive: Path, driver: dict[str, str]) -> None:
    entry = next(e for e in manifest_of(archive)["kernels"] if e["kernel"] == kernel and e["target"] == "sm_90a")
    types = "".join("p" if kind == "u64" else "i" for kind in entry["parameters"])
    text = python(SCRIPT + LAUNCHES, str(archive), kernel, **driver | {"FAKE_DRIVER_TYPES": types})
    context, load, *others = _log(driver)
    assert context == ["context", "of", "device", "0"]
    assert load == ["load", "ELF", "1"]
    attribute = [["attribute", "8", "=", str(entry["shared"])]] if entry["shared"] > 48 << 10 else []
    # Two of the kernels' parameters are pointers to scratch memory.
    launch = ["launch", entry["symbol"], "3", "1", "1", str(entry["threads"]), "1", "1", str(entry["shared"]), "77"]
    assert others == [*attribute, *[[*launch, *text.split(), "0", "0"]] * 2]


ELSEWHERE = """
import threading
forward = launch_of("entry.forward")
def launch_on(device):
    Pretended.device_number = device
    assert launched(forward, arguments_of(forward, 32))
launch_on(0)
launch_on(1)
launch_on(0)
thread = threading.Thread(target=launch_on, args=(1,))
thread.start()
thread.join()
"""


def test_each_launch_is_within_the_context_of_its_device(archive: Path, driver: dict[str, str]) -> None:
    python(SCRIPT + ELSEWHERE, str(archive), **driver | {"FAKE_DRIVER_TELLS_CONTEXTS": "1"})
    assert [line[1] for line in _log(driver) if line[0] == "within"] == ["0", "1", "0", "1"]
    assert sum(line[0] == "load" for line in _log(driver)) == 2, "once for each device"


def test_one_of_them_has_more_shared_memory_than_a_plain_launch(archive: Path) -> None:
    assert any(e["shared"] > 48 << 10 for e in manifest_of(archive)["kernels"] if e["target"] == "sm_90a")


OTHERS = """
forward, backward = launch_of("entry.forward"), launch_of("entry.backward")
assert not launched(forward, arguments_of(forward, 33)), "h of an even kernel"
assert launched(backward, arguments_of(backward, 33)), "h of an uneven one"
assert not launched(forward, arguments_of(forward, 32, offset=1)), "an address that is no multiple of 16"
assert not launched(forward, arguments_of(forward, 2**31)), "a number of 64 bits"
other = {**forward.constants, "D": 3}
assert not _prebuilt.launched(forward.function, (3,), arguments_of(forward, 32), other), "another d"
arguments = arguments_of(forward, 32)
double = tuple(a.double().as_subclass(Pretended) if isinstance(a, torch.Tensor) else a for a in arguments)
assert not launched(forward, double), "another dtype"
assert not launched(forward, arguments[:-1]), "an argument less"
plain = tuple(a.as_subclass(torch.Tensor) if isinstance(a, torch.Tensor) else a for a in arguments)
assert not launched(forward, plain), "tensors of the CPU"
print(_prebuilt.describe(0, {"f": ("entry.forward", forward.constants), "others": ("entry.forward", other)}))
"""


def test_what_a_kernel_was_not_compiled_for_is_left_to_triton(archive: Path, driver: dict[str, str]) -> None:
    assert python(SCRIPT + OTHERS, str(archive), **driver) == "compiled ahead of time: f\n"


REFUSED = """
launch = launch_of("entry.forward")
assert not launched(launch, arguments_of(launch, 32))
print(_prebuilt.describe(0, {"f": ("entry.forward", launch.constants)}))
"""


def test_code_that_the_driver_does_not_take_is_left_to_triton(archive: Path, driver: dict[str, str]) -> None:
    text = python(SCRIPT + REFUSED, str(archive), **driver | {"FAKE_DRIVER_REFUSES": "222"})
    assert text.startswith(
        "compiled at the first call (no kernels compiled ahead of time: the driver does not take them"
    )
    assert "cuModuleLoadData: CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in text


LATER = """
import os
launch = launch_of("entry.forward")
assert not launched(launch, arguments_of(launch, 32))
os.unsetenv("FAKE_DRIVER_REFUSES")
assert launched(launch, arguments_of(launch, 32))
"""


def test_memory_that_is_short_for_once_leaves_one_call_to_triton(archive: Path, driver: dict[str, str]) -> None:
    python(SCRIPT + LATER, str(archive), **driver | {"FAKE_DRIVER_REFUSES": "2"})


GONE = """
prebuilt.installed()
launch = launch_of("entry.forward")
Path(sys.argv[1]).unlink()
assert not launched(launch, arguments_of(launch, 32))
print(_prebuilt.describe(0, {"f": ("entry.forward", launch.constants)}))
"""


def test_a_file_that_has_gone_is_left_to_triton(archive: Path, driver: dict[str, str], tmp_path: Path) -> None:
    copy = shutil.copy(archive, tmp_path / "copy.zip")
    assert "cannot be read" in python(SCRIPT + GONE, str(copy), **driver)


def test_they_can_be_switched_off(archive: Path, driver: dict[str, str]) -> None:
    text = python(SCRIPT + REFUSED, str(archive), **driver | {"GRADNETS_FAST_PREBUILT": "0"})
    assert "GRADNETS_FAST_PREBUILT is 0" in text
    assert _log(driver) == []


def test_without_a_driver_the_extension_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"no NVIDIA driver: libcuda\.so\.1"):
        _cpp.extension().driver_version()
    with pytest.raises(RuntimeError, match="no NVIDIA driver"):
        _cpp.extension().DriverKernel(b"", "forward", "Pi", 128, 0, 0)
