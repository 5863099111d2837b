"""The documents: their code runs, their figures stand in result files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import tables

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_readme_code_runs(index: int) -> None:
    names: dict[str, object] = {}
    for block in BLOCKS[: index + 1]:
        exec(compile(block, "README.md", "exec"), names)


def test_readme_has_code() -> None:
    assert len(BLOCKS) >= 2


def test_tables_are_those_of_the_result_files() -> None:
    assert tables.rendered(README) == README


def test_relative_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), target
