"""How large wheels are, and what is in them: bench/results/wheel_sizes.json.

python -m bench.wheel_sizes dist/*.whl
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.environment import RESULTS
from gradnets_fast.apps.environment import versions
from gradnets_fast.apps.files import write_json
from gradnets_fast.errors import message

_KERNELS = "gradnets_fast/kernels/prebuilt.zip"


def described(wheel: Path) -> dict[str, Any]:
    """One wheel's bytes, those of its extension and of its kernels compiled ahead of time, and how many these are."""
    with zipfile.ZipFile(wheel) as file:
        (extension,) = (entry for entry in file.infolist() if entry.filename.endswith(".so"))
        row = {"wheel": wheel.name, "bytes": wheel.stat().st_size, "extension_bytes": extension.file_size}
        if _KERNELS not in file.namelist():
            return row
        with file.open(_KERNELS) as inner, zipfile.ZipFile(inner) as kernels:
            manifest = json.loads(kernels.read("manifest.json"))
        counts = Counter(entry["target"] for entry in manifest["kernels"])
        made_by = {"triton": manifest["triton"], "cuda": manifest["toolkit"]}
        return (
            row | made_by | {"kernels_bytes": file.getinfo(_KERNELS).file_size, "kernels": dict(sorted(counts.items()))}
        )


def main(words: list[str]) -> int:
    """The exit code."""
    wheels = [Path(word) for word in words]
    missing = [str(wheel) for wheel in wheels if not wheel.is_file()]
    if not wheels or missing:
        got = ", ".join(missing) or "none"
        fix = "python -m build makes one"
        print(message("bench.wheel_sizes", "wheels", "files of wheels", got, fix), file=sys.stderr)
        return 2
    command = " ".join(["python -m bench.wheel_sizes", *(wheel.name for wheel in wheels)])
    result = {"environment": versions(command), "rows": [described(wheel) for wheel in wheels]}
    write_json(RESULTS / "wheel_sizes.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
