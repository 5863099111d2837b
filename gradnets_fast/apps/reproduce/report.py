"""What a finished run leaves beside its results: a table in Markdown, and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import place
from ..files import write_atomically
from .experiment import Experiment
from .runner import Run, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_FILE = "table.md"


def write(run: Run, out: Path) -> list[Path]:
    """Writes table and figures; returns their paths."""
    rows, experiment = run.rows, run.experiment
    paths = [out / TABLE_FILE]
    text = "\n".join(_lines(experiment, run.content)) + "\n"
    write_atomically(paths[0], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for name, figure in experiment.figures(rows, run.settings).items():
        paths.append(out / f"{name}.png")
        save(figure, paths[-1])
    return paths


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes a figure as PNG, on white, atomically."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format="png", facecolor="white"))


def _lines(experiment: Experiment, content: dict[str, Any]) -> Iterator[str]:
    rows, where = rows_of(content), content["environment"]
    yield from (f"# {experiment.name}", "", experiment.title, "", experiment.table(rows), "")
    yield from (f"Source: {experiment.source}", "")
    settings = ", ".join(
        f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in content["settings"].items()
    )
    yield from (f"Settings: {settings}.", "")
    for part in (where, *content.get("resumed", [])):
        versions = f"torch {part['torch']}, gradnets_fast {part['gradnets_fast']}, Python {part['python']}"
        yield f"On {place(part)}; {versions}, commit {part['commit']}, {part['date']}."
    seconds = sum(row["seconds"] for row in rows)
    yield from ("", f"By `{where['command']}`: {len(rows)} cases in {seconds:.0f} s.")
