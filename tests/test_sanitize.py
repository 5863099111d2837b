"""tests/sanitize.cpp: every kernel from blocks of memory between unreadable pages, here and on 64-bit Arm.

`make sanitize` runs the same program under the address and undefined-behaviour sanitizers; their build takes minutes.
"""

from __future__ import annotations

import shutil

import pytest

from cmake_build import build, poisoned_build, run
from gradnets_fast.ops import _cpp

pytestmark = pytest.mark.slow

ARM_COMPILER = "aarch64-linux-gnu-g++"
ARM = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}"]
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def test_kernels_touch_their_tensors_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = poisoned_build(tmp_path_factory) / "sanitize"
    names = ", ".join(_cpp.extension().available_instruction_sets())
    assert run(str(program), OMP_WAIT_POLICY="passive").endswith(f"kernel calls for {names}: clean\n")


@pytest.mark.skipif(shutil.which(ARM_COMPILER) is None, reason=f"needs {ARM_COMPILER} (g++-aarch64-linux-gnu)")
def test_aarch64(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = build("aarch64", tmp_path_factory, "-DGRADNETS_MODULE=OFF", "-DGRADNETS_CHECK=ON", *ARM)
    if QEMU is None:
        pytest.skip("compiles; needs qemu-aarch64 to run")
    output = run(QEMU, "-L", "/usr/aarch64-linux-gnu", str(folder / "sanitize"), "few", OMP_WAIT_POLICY="passive")
    assert output.endswith("kernel calls for baseline: clean\n")
