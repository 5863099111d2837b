"""The page of result files: what each was measured with, printed from the files themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HEAD = """# Result files

Every figure of these pages comes from one of the files below, each of which names the command that wrote it. They are
in `bench/results` of the repository; a commit that ends in “-modified” had changes that were committed with the result.

| file | command | commit | day | measured on |
|---|---|---|---|---|
"""


def page(folder: Path = ROOT / "bench" / "results") -> str:
    """The page's text, a row for each file."""
    return _HEAD + "\n".join(_row(folder, path) for path in sorted(folder.rglob("*.json"))) + "\n"


def _row(folder: Path, path: Path) -> str:
    where = json.loads(path.read_text(encoding="utf-8")).get("environment", {})
    device = where.get("device") or f"{where.get('processor', 'a CPU')}, {where.get('threads', '?')} threads"
    cells = [
        f"[{path.relative_to(folder).as_posix()}](../bench/results/{path.relative_to(folder).as_posix()})",
        f"`{re.sub(' --out /[^ ]+', '', where['command'])}`" if "command" in where else "",
        where.get("commit", ""),
        str(where.get("date", ""))[:10],
        device if where else "",
    ]
    return f"| {' | '.join(cells)} |"
