"""The documents: their code runs, their figures stand in result files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import tables

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {
    path.name: re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in (ROOT / "README.md", ROOT / "docs" / "scaling.md")
}


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, blocks in BLOCKS.items() for i in range(len(blocks))])
def test_code_runs(name: str, index: int) -> None:
    names: dict[str, object] = {}
    for block in BLOCKS[name][: index + 1]:
        exec(compile(block, name, "exec"), names)


def test_documents_have_code() -> None:
    assert all(len(blocks) >= 3 for blocks in BLOCKS.values())


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert tables.rendered(document, text) == text


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
