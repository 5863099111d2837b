"""The documents: their code runs, their figures stand in result files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def result(name: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((ROOT / "bench" / "results" / name).read_text())["rows"]
    return rows


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_readme_code_runs(index: int) -> None:
    names: dict[str, object] = {}
    for block in BLOCKS[: index + 1]:
        exec(compile(block, "README.md", "exec"), names)


def test_readme_has_code() -> None:
    assert len(BLOCKS) >= 2


def test_readme_table_of_errors_is_the_result_file() -> None:
    for row in result("published_2d.json"):
        assert f"{row['mean_db']:.2f} ± {row['spread_db']:.2f}" in README
        assert f"{row['published_db']:.2f} ± {row['published_spread_db']:.2f}" in README


def test_readme_table_of_speeds_is_the_result_file() -> None:
    for row in result("cpu_layers.json"):
        gain = row["gain"]
        assert isinstance(gain, dict)
        assert f"| {row['batch']}, {row['d']}, {row['h']} |" in README
        assert f"{gain['forward']:.1f}× / {gain['step']:.1f}×" in README


def test_relative_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), target
