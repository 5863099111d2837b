"""Where and with what a figure was measured: part of every result file."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

import gradnets_fast
from gradnets_fast.ops import _cpp

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def environment() -> dict[str, object]:
    """Processor, versions, commit and command of this run."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": _cpp.extension().instruction_set(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradnets_fast": gradnets_fast.__version__,
        "commit": _git("rev-parse", "--short", "HEAD") + ("-modified" if _git("status", "--porcelain", "-uno") else ""),
        "command": " ".join(["python -m", "bench." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
    }


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    return f"{known['model name']} (family {known.get('cpu family')}, model {known.get('model')})"
