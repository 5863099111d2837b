"""The whole check of a wheel: built once, installed where there is no compiler, tested beside two versions of PyTorch.

python -m release.check_wheel [--torch VERSION ...] [--wheel FILE]

By default beside the oldest PyTorch that the package admits and the one that constraints.txt names.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from gradnets_fast.errors import message

from . import extension

ROOT = Path(__file__).resolve().parents[1]
NAME = "gradnets_fast"

TESTS = (
    "test_contract.py",
    "test_operators.py",
    "test_derivative_operators.py",
    "test_nn.py",
    "test_transforms.py",
    "test_amp.py",
    "test_activations.py",
    "test_errors.py",
    "test_soft_maximum.py",
    "test_chunks.py",
    "test_swap.py",
)
"""Tests of the package alone: they need neither the sources nor a compiler."""

COMPILING = "compil and not triton"
"""The pytest expression of tests for torch.compile, which call a compiler."""

WITHOUT = "not triton and not compil and not generated_files"
"""The pytest expression of the others.  Triton is too old beside old PyTorch; generated files need the checkout."""

_KEPT = re.compile(r"PIP_|SSL_|REQUESTS_|CURL_|LANG$|TERM$|.*_proxy$", re.IGNORECASE)


def run(*command: str | Path, **options: str | Path | dict[str, str] | None) -> None:
    """Run a command, which is shown first; CalledProcessError if it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)  # type: ignore[call-overload]


def build(source: Path, folder: Path, *options: str) -> tuple[Path, Path]:
    """Build the source archive of a checkout, and a wheel with the extension from it; return both paths."""
    variables = {**os.environ, extension.VARIABLE: "1"}
    run(sys.executable, "-m", "build", *options, "--outdir", folder, source, env=variables)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def libraries(wheel: Path) -> set[str]:
    """The shared libraries in a wheel."""
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if re.search(r"\.so(\.|$)", name)}


def repaired(wheel: Path, folder: Path) -> Path:
    """Tag the wheel with the manylinux policy that it keeps; return the tagged file.

    Raises:
        ValueError: auditwheel would bundle a library.
    """
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel, env=tools)
    (result,) = folder.glob("*.whl")
    if libraries(result) != libraries(wheel):
        added = ", ".join(sorted(libraries(result) - libraries(wheel)))
        raise ValueError(message("check_wheel", "wheel", "no library but its own", added, "find out who links it"))
    return result


def environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """Make a virtual environment; return its interpreter, and variables that leave no compiler on PATH."""
    venv.create(folder, with_pip=True)
    kept = {name: value for name, value in os.environ.items() if _KEPT.match(name)}
    return folder / "bin" / "python", {**kept, "PATH": str(folder / "bin"), "HOME": str(folder)}


def without_compiler(variables: dict[str, str]) -> None:
    """Raise ValueError if there is a compiler on an environment's PATH."""
    found = [
        name for name in ("c++", "g++", "clang++", "cc", "gcc", "cmake") if shutil.which(name, path=variables["PATH"])
    ]
    if found:
        fix = "this check must run without one"
        raise ValueError(message("check_wheel", "PATH", "no compiler", ", ".join(found), fix))


def check(wheel: Path, torch: str, folder: Path) -> None:
    """Install the wheel beside one version of PyTorch, and test it there."""
    python, variables = environment(folder / "venv")
    without_compiler(variables)
    requirements = (f"torch=={torch}", f"{NAME}[train] @ {wheel.as_uri()}", "mpmath", "pytest")
    run(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements, env=variables)
    shutil.copy(ROOT / "release" / "smoke.py", folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    run(python, "smoke.py", cwd=folder, env=variables)
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS)]
    run(*tests, "-k", WITHOUT, cwd=folder, env=variables)
    with_compiler = {**variables, "PATH": f"{variables['PATH']}{os.pathsep}{os.environ['PATH']}"}
    run(*tests, "-k", COMPILING, cwd=folder, env=with_compiler)


def oldest(wheel: Path) -> str:
    """The lowest version of PyTorch that a wheel's metadata admits."""
    with zipfile.ZipFile(wheel) as file:
        (place,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"^Requires-Dist: torch>=([\d.]+)", file.read(place).decode(), re.MULTILINE)
    assert found is not None
    return f"{found[1]}.*"


def pinned() -> str:
    """The version that constraints.txt names."""
    found = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code, 0 if all checks passed."""
    parser = argparse.ArgumentParser(prog="check_wheel", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch", action="append", metavar="VERSION", help="repeatable; default: the oldest, the pinned"
    )
    parser.add_argument("--wheel", type=Path, help="default: built from this checkout")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as name:
        folder = Path(name)
        try:
            wheel = options.wheel.resolve() if options.wheel else build(ROOT, folder / "dist")[1]
            final = repaired(wheel, folder / "repaired")
            versions = options.torch or [oldest(final), pinned()]
            for version in versions:
                print(f"check_wheel: {final.name}, torch {version}", flush=True)
                check(final, version, folder / f"torch-{version.rstrip('.*')}")
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"check_wheel: {error}", file=sys.stderr)
            return 1
    print(f"check_wheel: {final.name} is right with torch {' and '.join(versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
