"""Where a figure was measured, for the scripts of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gradnets_fast.apps import environment as package

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def environment() -> dict[str, object]:
    """Processor, versions, commit and command of this run."""
    waiting = [f"OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}"] if "OMP_WAIT_POLICY" in os.environ else []
    spec = sys.modules["__main__"].__spec__
    script = ["python", sys.argv[0]] if spec is None else ["python -m", spec.name]
    return package.environment(" ".join([*waiting, *script, *sys.argv[1:]]))
