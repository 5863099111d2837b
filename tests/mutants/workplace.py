"""A copy of a checkout and of its environment, in which faults are seeded one at a time.

Compiling the kernels takes minutes, so the faults of C++ are all compiled in at once, and a variable says which is on.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .faults import Fault

_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
_LIMIT = 1800
"""Seconds for one run of tests: a fault may make one wait for ever."""

_SWITCH = "GRADNETS_FAST_SEEDED_FAULT"
_DECLARATION = 'extern "C" int gradnets_seeded_fault;\n'
_DEFINITION = f"""
{_DECLARATION}int gradnets_seeded_fault = [] {{
    const char *number = std::getenv("{_SWITCH}");
    return number == nullptr ? 0 : std::atoi(number);
}}();
"""


@dataclass(frozen=True)
class Outcome:
    """What a fault led to.

    Attributes:
        outcome: "caught", "missed" or "error".
        by: the test that failed first, or what went wrong.
        seconds: of processor time.
    """

    outcome: str
    by: str
    seconds: float


class Workplace:
    """A copy of the tracked files of `tree` in `folder`, with hard links to the packages of its .venv."""

    def __init__(self, tree: Path, folder: Path, faults: Sequence[Fault]) -> None:
        self.tree, self.folder = tree.resolve(), folder.resolve()
        self.root = self.folder / "tree"
        self._native = [fault for fault in faults if fault.native]
        self._compiled = False
        if not (self.folder / "ready").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._copy()
        if not (self.folder / "ready").exists():
            shutil.copytree(self.tree / ".venv", self.root / ".venv", symlinks=True, copy_function=os.link)
            self._readdress()
            (self.folder / "ready").touch()

    def _copy(self) -> None:
        """The files, also those in which a run that was interrupted has left a fault; of csrc/ with all of its own.

        An extension that is there stays: it is what `_compile` has made of them.
        """
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=self.tree, capture_output=True, text=True, check=True)
        extensions = [path.relative_to(self.tree) for path in (self.tree / "gradnets_fast").glob("_C*.so")]
        switched = self._with_switches()
        missing = [path for path in extensions if not (self.root / path).exists()]
        for name in [*filter(None, listed.stdout.split("\0")), *map(str, missing)]:
            target, data = self.root / name, switched.get(name) or (self.tree / name).read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != data:
                target.unlink(missing_ok=True)
                target.write_bytes(data)
                shutil.copymode(self.tree / name, target)

    def _with_switches(self) -> dict[str, bytes]:
        """The files of csrc/ that differ, by name."""
        if not self._native:
            return {}
        texts: dict[str, str] = {}
        for number, fault in enumerate(self._native, 1):
            text = texts.get(fault.file) or (self.tree / fault.file).read_text(encoding="utf-8")
            texts[fault.file] = text.replace(fault.old, fault.switched(f"gradnets_seeded_fault == {number}"))
        for name, more in (("csrc/common.h", _DECLARATION), ("csrc/runtime.cpp", _DEFINITION)):
            text = texts.get(name) or (self.tree / name).read_text(encoding="utf-8")
            texts[name] = (
                text.replace("#pragma once\n", f"#pragma once\n{more}") if name.endswith(".h") else text + more
            )
        return {name: text.encode() for name, text in texts.items()}

    def _readdress(self) -> None:
        """Has the environment's own files name the copy, where they name the checkout."""
        site = next((self.root / ".venv" / "lib").glob("python*/site-packages"))
        own = [
            *site.glob("__editable__*"),
            *site.glob("gradnets_fast*/*.json"),
            *(self.root / ".venv" / "bin").iterdir(),
        ]
        for path in own:
            if path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            if str(self.tree).encode() in data and b"\0" not in data:
                mode = path.stat().st_mode
                path.unlink()  # the checkout's own file is the same one
                path.write_bytes(data.replace(str(self.tree).encode(), str(self.root).encode()))
                path.chmod(mode)
        for cache in site.glob("__pycache__/__editable__*"):
            cache.unlink()

    def outcome(self, fault: Fault) -> Outcome:
        """Runs a fault's tests until one fails, and that one without the fault, when it must pass."""
        before = _processor_time()
        try:
            self._compile()
            if fault.native:
                outcome, by = self._test(fault.tests, str(self._native.index(fault) + 1))
            else:
                original = (self.root / fault.file).read_bytes()
                fault.seed(self.root)
                try:
                    outcome, by = self._test(fault.tests, "0")
                finally:
                    (self.root / fault.file).write_bytes(original)
            if outcome == "caught" and "::" in by and self._test((by,), "0")[0] != "missed":
                outcome, by = "error", f"fails without the fault too: {by}"
        except subprocess.CalledProcessError as error:
            outcome, by = "error", f"does not compile: {(error.stdout or '')[-1000:]}"
        return Outcome(outcome, by, round(_processor_time() - before, 1))

    def _test(self, tests: Sequence[str], switch: str) -> tuple[str, str]:
        # Bytecode is told from its source by size and second alone.
        variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_WAIT_POLICY": "passive", _SWITCH: switch}
        options = ["-q", "-x", "-rfE", "--no-header", "--tb=no", "-p", "no:xdist"]
        command = [self._python, "-m", "pytest", *options, *tests]
        try:
            done = subprocess.run(command, cwd=self.root, env=variables, capture_output=True, text=True, timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            return "caught", f"no end within {_LIMIT} s"
        if done.returncode == 0:
            return "missed", ""
        found = _FAILED.search(done.stdout)
        if found:
            return "caught", found.group(1)
        if done.returncode < 0 or done.returncode > 128:
            return "caught", "the process died"
        return "error", (done.stdout + done.stderr).strip()[-300:]

    @property
    def _python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")

    def _compile(self) -> None:
        """The extension with the faults of C++, for the instruction sets that run here.

        It is built where an installation builds it, for tests of native code link its kernels; and before any test
        runs, for the checkout's extension is not of these sources.
        """
        if self._compiled or not self._native:
            return
        pybind11 = self._run(self._python, "-c", "import pybind11; print(pybind11.get_cmake_dir())").strip()
        script = "from gradnets_fast.ops import _cpp; print(_cpp.extension().instruction_set())"
        active = self._run(str(self.tree / ".venv" / "bin" / "python"), "-c", script, cwd=self.tree).strip()
        sets = [active.removesuffix("_bf16"), active] if active.endswith("_bf16") else [active]
        folder = self.root / "build" / "editable"
        options = [
            "-DGRADNETS_WERROR=ON",  # as tests have it: with other options they would compile anew
            f"-DPython_EXECUTABLE={self._python}",
            f"-Dpybind11_DIR={pybind11}",
            f"-DGRADNETS_ISAS={';'.join(sets)}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={self.root / 'gradnets_fast'}",
        ]
        self._run("cmake", "-S", str(self.root), "-B", str(folder), "-G", "Ninja", *options)
        self._run("cmake", "--build", str(folder), "--target", "_C")
        self._compiled = True

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        variables = {**os.environ, "PATH": f"{self.root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        output, errors = subprocess.PIPE, subprocess.STDOUT
        return subprocess.run(
            command, cwd=cwd or self.root, env=variables, stdout=output, stderr=errors, text=True, check=True
        ).stdout


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
