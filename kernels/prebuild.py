"""Compiles the kernels of `hot` into one file, without a GPU and without torch.

python -m gradnets_fast.kernels.prebuild --out prebuilt.zip

The file is a zip archive: manifest.json, and an image for each kernel: a cubin, or PTX, from which the driver of a
later GPU makes machine code.  The build fails on a kernel that spills, or that takes other arguments than the launcher
hands over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton

from . import configuration, hot, sources
from .compiler import Launch, compiled, toolkit, usage
from .prebuilt import FORMAT, MANIFEST

_PARAMETER = {"*": "u64", "i": "u32"}
_SCRATCH = ("u64", "u64")
"""Two pointers that Triton appends; they are null where a kernel needs no scratch memory."""

_PTX_VERSION = 80
"""The PTX version of CUDA 12.0: drivers take none that is later than their own."""

_PORTABLE = 80
"""The architecture whose PTX is packed beside its cubins."""

_TIME = (1980, 1, 1, 0, 0, 0)


class BuildError(RuntimeError):
    """A kernel that must not be packed."""


def built(launch: Launch, architecture: int) -> tuple[dict[str, Any], bytes, str]:
    """A kernel's entry in the manifest, its cubin and its PTX.

    Raises:
        BuildError: it spills, or its arguments are not what the launcher hands over.
    """
    kernel = compiled(launch, architecture, {"ptx_version": _PTX_VERSION} if architecture == _PORTABLE else {})
    cubin, ptx = kernel.asm["cubin"], kernel.asm["ptx"]
    registers, stack, _ = usage(cubin)
    label = f"{launch.kernel} {launch.constants} for {architecture}"
    if stack or kernel.metadata.shared > 1024 * configuration.SHARED_KB[architecture]:
        raise BuildError(f"{label}: {stack} bytes of stack, {kernel.metadata.shared} of shared memory: it does not fit")
    parameters = check_arguments(label, launch, ptx, kernel.metadata)
    entry = {
        "kernel": launch.kernel,
        "constants": launch.constants,
        "types": launch.types,
        "multiples": sorted(launch.multiples),
        "target": _found(r"^\.target (\w+)", ptx),
        "symbol": kernel.metadata.name,
        "threads": int(_found(r"^\.reqntid (\d+)", ptx)),
        "shared": kernel.metadata.shared,
        "registers": registers,
        "stack": stack,
        "parameters": parameters,
        "sources": sources.digest(launch.kernel, sources.names_in(launch.constants)),
    }
    return entry, cubin, ptx


def check_arguments(label: str, launch: Launch, ptx: str, metadata: Any) -> list[str]:
    """The types of the compiled kernel's arguments.

    Raises:
        BuildError: they are not those of the launch and two pointers to scratch memory; or the kernel wants such
        memory, a cluster, or a special kind of launch.
    """
    expected = [_PARAMETER[of[0]] for of in launch.types.values() if of is not None] + [*_SCRATCH]
    head = _found(r"\.visible \.entry \w+\(([^)]*)\)", ptx)
    found = re.findall(r"\.param \.(\w+)", head)
    if found != expected:
        raise BuildError(f"{label}: expected the arguments {expected}, and the compiled kernel takes {found}")
    special = {name: getattr(metadata, name, value) for name, value in _PLAIN.items()}
    if special != _PLAIN:
        raise BuildError(f"{label}: expected a plain launch, {_PLAIN}, and the compiled kernel wants {special}")
    return found


_PLAIN = {
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
    "num_ctas": 1,
    "launch_cooperative_grid": False,
    "launch_pdl": False,
}


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise BuildError(f"expected {pattern!r} in the compiled code, and it is not there")
    return match[1]


def _task(task: tuple[int, Launch]) -> tuple[dict[str, Any], bytes, str]:
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # half of the size
    architecture, launch = task
    return built(launch, architecture)


def build(path: Path, tasks: Sequence[tuple[int, Launch]], processes: int | None = None) -> dict[str, Any]:
    """Compiles each (architecture, launch), and writes the file when all are there; returns the manifest."""
    entries: list[dict[str, Any]] = []
    images: dict[str, bytes] = {}
    with ProcessPoolExecutor(processes) as pool:
        for number, (entry, cubin, ptx) in enumerate(pool.map(_task, tasks, chunksize=4)):
            entries.append(entry | {"image": _kept(images, entry["target"], cubin, "cubin")})
            if entry["target"] == f"sm_{_PORTABLE}":
                entries.append(entry | {"target": "ptx", "image": _kept(images, "ptx", ptx.encode(), "ptx")})
            if number % 50 == 49 or number + 1 == len(tasks):
                print(f"{number + 1} of {len(tasks)} kernels compiled", flush=True)
    manifest = {"format": FORMAT, "triton": triton.__version__, "toolkit": toolkit(), "kernels": entries}
    _write(path, manifest, images)
    return manifest


def _kept(images: dict[str, bytes], folder: str, image: bytes, kind: str) -> str:
    name = f"{folder}/{hashlib.sha256(image).hexdigest()[:24]}.{kind}"
    images[name] = image
    return name


def _write(path: Path, manifest: dict[str, Any], images: dict[str, bytes]) -> None:
    """Write the archive, with the same bytes for the same content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for name, content in {MANIFEST: json.dumps(manifest, indent=1).encode(), **images}.items():
                file.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def tasks(architectures: Iterable[int]) -> list[tuple[int, Launch]]:
    """Every different launch of `hot` for these architectures."""
    different = {repr((a, launch)): (a, launch) for a in architectures for launch in hot.launches(a)}
    return list(different.values())


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gradnets_fast.kernels.prebuild", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architectures", default=",".join(map(str, configuration.ARCHITECTURES)))
    parser.add_argument("--processes", type=int, help="(default: as many as there are processors)")
    arguments = parser.parse_args(words)
    try:
        manifest = build(arguments.out, tasks(map(int, arguments.architectures.split(","))), arguments.processes)
    except (BuildError, ValueError) as error:
        print(f"prebuild: {error}", file=sys.stderr)
        return 1
    size = arguments.out.stat().st_size / 1e6
    print(f"{len(manifest['kernels'])} kernels, Triton {manifest['triton']}, CUDA {manifest['toolkit']}, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
