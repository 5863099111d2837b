"""Where a figure was measured, for the scripts of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from gradnets_fast.apps.bench import environment as package

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def environment() -> dict[str, object]:
    """Processor, versions, commit and command of this run."""
    return package.environment(" ".join(["python -m", "bench." + Path(sys.argv[0]).stem, *sys.argv[1:]]))
