"""Every instruction set that this processor has, built with warnings as errors and scratch memory full of NaN; and the
threads that kernels run on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_derivative_operators

import test_operators
from cmake_build import ROOT, kernels, poisoned_build, run
from gradnets_fast.ops import _cpp

INSTRUCTION_SETS = _cpp.extension().available_instruction_sets()

CHECK = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("gradnets_fast._C", sys.argv[1])
sys.modules["gradnets_fast._C"] = extension = importlib.util.module_from_spec(spec)
spec.loader.exec_module(extension)
import gradnets_fast, torch
from gradnets_fast.ops import _cpp
assert _cpp.extension() is extension and extension.instruction_set() == sys.argv[2]
sys.path.insert(0, sys.argv[3])
import test_operators
torch.use_deterministic_algorithms(True)
torch.manual_seed(0)
from covering import with_each_in_turn
checked, first = 0, int(sys.argv[4])
dtypes = [*test_operators.DTYPES[first:], *test_operators.DTYPES[:first]]
for call, size, dtype in with_each_in_turn(dtypes, test_operators.CALLS, test_operators.SIZES):
    print(call.name, size, dtype, file=sys.stderr)
    test_operators.check_values_and_gradients(call, size, dtype)
    checked += 1
import test_derivative_operators as derivatives
for call in test_operators.CALLS:
    for quantity in derivatives.QUANTITIES:
        for size in derivatives.QUANTITY_SIZES[1:3]:
            print(call.name, quantity, size, file=sys.stderr)
            derivatives.check_quantity(quantity, call, size, torch.float32)
            checked += 1
print(checked, "cases")
"""


@pytest.fixture(scope="module", name="poisoned_build")
def _poisoned_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poisoned_build(tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_instruction_set(name: str, poisoned_build: Path) -> None:
    """Each case in one of the dtypes, and in another for each instruction set."""
    (extension,) = poisoned_build.glob("_C*.so")
    place = str(INSTRUCTION_SETS.index(name) % len(test_operators.DTYPES))
    command = [sys.executable, "-c", CHECK, str(extension), name, str(ROOT / "tests"), place]
    cases = len(test_operators.CALLS) * (len(test_operators.SIZES) + 2 * len(test_derivative_operators.QUANTITIES))
    assert run(*command, GRADNETS_FAST_CPU_ISA=name).strip() == f"{cases} cases"


@pytest.mark.slow
def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    script = "import torch, gradnets_fast; print(gradnets_fast.explain('ridge', torch.zeros(1, 1)))"
    environment = {**os.environ, "GRADNETS_FAST_CPU_ISA": "mmx"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert "backend   reference" in run.stdout
    assert f"expected one of {', '.join(INSTRUCTION_SETS)}" in run.stdout
    assert "got mmx" in run.stdout


WITHOUT_ANY = """
#include "runtime.h"
#include <cstdio>
#include <stdexcept>
int main() {
    try {
        gradnets::active_instruction_set();
    } catch (const std::runtime_error &error) {
        std::puts(error.what());
    }
}
"""


def test_a_processor_without_any_instruction_set_that_was_built_is_told_so(tmp_path: Path) -> None:
    """An error of the kind that the package takes for a reason, by csrc/runtime.cpp as if none had been built."""
    compiler, program = shutil.which("c++") or shutil.which("g++"), tmp_path / "without_any"
    assert compiler is not None
    program.with_suffix(".cpp").write_text(WITHOUT_ANY)
    sources = [f"{program}.cpp", str(ROOT / "csrc" / "runtime.cpp")]
    run(compiler, "-std=c++17", f"-I{ROOT / 'csrc'}", *sources, "-o", str(program))
    words = "expected the instructions that the extension was built for, got one without them"
    assert words in run(str(program))


RUNTIME = """
import sys
from pathlib import Path
from gradnets_fast.ops import _cpp
maps = Path("/proc/self/maps").read_text().split()
print(_cpp.extension().threading(), *{word for word in maps if "libgomp" in word or "omp.so" in word or "omp5" in word})
"""


@pytest.fixture(scope="module", name="runtime")
def _runtime() -> Path:
    """The OpenMP runtime in a process that has loaded PyTorch and the extension, and nothing else."""
    name, file = run(sys.executable, "-c", RUNTIME).split()
    assert name == Path(file).name
    return Path(file)


@pytest.mark.slow
def test_there_is_one_openmp_runtime_and_it_is_that_of_pytorch(runtime: Path) -> None:
    script = "import torch; from pathlib import Path; print(Path('/proc/self/maps').read_text())"
    assert str(runtime) in run(sys.executable, "-c", script)


@pytest.mark.slow
def test_threads_without_openmp(poisoned_build: Path) -> None:
    assert run(str(poisoned_build / "threads"), "for want of OpenMP") == "clean\n"


@pytest.mark.slow
def test_threads_of_a_runtime_that_is_loaded_for_everyone(poisoned_build: Path, runtime: Path) -> None:
    assert run(str(poisoned_build / "threads"), runtime.name, LD_PRELOAD=str(runtime)) == "clean\n"


@pytest.mark.slow
def test_threads_of_a_runtime_that_another_extension_has_loaded(poisoned_build: Path, runtime: Path) -> None:
    assert run(str(poisoned_build / "threads"), runtime.name, str(runtime)) == "clean\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, of binutils")
def test_units_of_one_instruction_set_share_no_symbols() -> None:
    """A weak symbol outside the unit's namespace could be linked into code for machines without its instructions."""
    folder = kernels()
    objects = sorted(folder.glob("CMakeFiles/kernels_*.dir/**/*.o"))
    compiler_knows_bf16 = "GRADNETS_COMPILER_KNOWS_BF16:INTERNAL=1" in (folder / "CMakeCache.txt").read_text()
    assert len(objects) == (3 + compiler_knows_bf16 if platform.machine() == "x86_64" else 1)
    for path in objects:
        name = path.relative_to(folder / "CMakeFiles").parts[0].removeprefix("kernels_").removesuffix(".dir")
        symbols = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
        for line in symbols.splitlines():
            kind, symbol = line[17:18], line[19:]
            if kind in "WVuT":
                assert f"8gradnets{len(name)}{name}" in symbol, symbol  # mangled: nm cannot read every lambda's
        assert "_GLOBAL__sub_I" not in symbols
