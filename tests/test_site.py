"""The documentation site: its links, its reference, and the whole of it built."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import backends
from docs.site import docstring, links, reference, results, staging
from docs.site.docstring import as_rest
from gradnets_fast import functional
from gradnets_fast.ops import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "gradnets_fast",
    *(f"gradnets_fast.{name}" for name in ("nn", "convex", "flows", "export", "score", "structure")),
)


def _text(*lines: str) -> list[str]:
    return [line for line in as_rest(lines, {"ridge": "gradnets_fast.ridge"}) if line]


@pytest.mark.parametrize("module", [docstring, staging], ids=lambda module: module.__name__)
def test_the_examples_of_the_site(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, bool(tried)) == (0, True)


def test_sections_of_a_docstring_become_fields() -> None:
    lines = ("Args:", "    x, y: points of", "        `ridge`.", "    z: *a*.", "", "Raises:", "    A: b.  C: d.")
    assert _text(*lines) == [
        ":Args:",
        r"    * **x, y**: points of \ :py:obj:`ridge <gradnets_fast.ridge>`\ .",
        r"    * **z**: \*a\*.",
        ":Raises:",
        "    * **A**: b.",
        "    * **C**: d.",
    ]
    assert _text("Shapes: x (n, d)", "→ (n,).", "", "Source: a.") == [":Shapes: x (n, d) → (n,).", ":Source: a."]


def test_code_of_a_docstring_stays_as_it_is() -> None:
    assert _text("Equivalent to, for one:", "    x_ @ W") == [
        ":Equivalent to, for one:",
        "    .. code-block:: python",
        "        x_ @ W",
    ]
    assert _text("f of", "", "    Σ_j |u|", "", ">>> f(x_)", "`1`")[1:] == [
        ".. code-block:: text",
        "    Σ_j |u|",
        ">>> f(x_)",
        "`1`",
    ]
    assert _text("and with it:", "    a · b", "of `x`.") == [
        "and with it:",
        ".. code-block:: text",
        "    a · b",
        r"of \ ``x``\ .",
    ]


def test_a_table_of_a_docstring_becomes_one() -> None:
    lines = _text("| a | b |", "|---|---|", "| `ridge` | |x|", "|y| is no table")
    assert lines[:4] == [".. list-table::", "   :header-rows: 1", "   * - a", "     - b"]
    assert _text("|x| is", "no table") == [r"\|x\| is", "no table"]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module: str) -> None:
    entries = {name for page in reference.PAGES for name in reference.entries(page)}
    for name in importlib.import_module(module).__all__:
        public = f"gradnets_fast.{name}" if module == "gradnets_fast.nn" else f"{module}.{name}"
        assert public in entries or name == "__version__", public


def test_links_follow_to_the_site() -> None:
    copied: set[str] = set()
    text = (
        "[a](../CONTRIBUTING.md#b) [c](../examples/transport.py) ![d](surface.png) [e](https://a.b/c.md) [f](#g)\n"
        "```python\nx[a](../LICENSE)\n```\n[h](../csrc) [i](../bench/results/fit.json) [j](README.md)"
    )
    assert staging.linked("docs/use.md", text, copied) == (
        "[a](contributing.md#b) [c](gallery/transport.rst) ![d](files/docs/surface.png) [e](https://a.b/c.md) [f](#g)\n"
        "```python\nx[a](../LICENSE)\n```\nh [i](files/bench/results/fit.json) [j](index.md)"
    )
    assert copied == {"files/docs/surface.png", "files/bench/results/fit.json"}


def test_every_page_is_in_the_navigation() -> None:
    named = [page for pages in staging.TREE.values() for page in pages]
    assert len(named) == len({*named})
    assert {*staging.pages().values()} <= {*named, "index"}


def test_result_files_have_a_row_each() -> None:
    text = results.page()
    for path in (ROOT / "bench" / "results").rglob("*.json"):
        assert f"]({Path('../bench/results') / path.relative_to(ROOT / 'bench' / 'results')})" in text
    assert "--out /" not in text


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="x"><a href="b/#y"></a><a href="#x"></a><a href="http://z">', "utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<a href="../a.html#w"></a><img src="c.png">', "utf-8")
    assert links.broken(tmp_path) == [
        "a.html: b/#y: no such anchor",
        "b/index.html: ../a.html#w: no such anchor",
        "b/index.html: c.png: no such file",
    ]


def test_the_table_of_backends_has_every_operator() -> None:
    assert {*backends.VARIANTS} == {name for name, quantities in OPERATORS.items() if "value" in quantities}
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    assert all(f"| `{operator}` |" in text for operator in functional.__all__)
    assert "**wrong**" not in text


_ENTRIES = """
import json
from docs.site import reference
print(json.dumps({page: reference.entries(page) for page in reference.PAGES}))
"""


def _printed(script: str) -> str:
    """What a process of its own prints, where libraries are importable or not as they are for the site."""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    """Warnings and links that lead nowhere are errors there."""
    pytest.importorskip("furo", reason="the site needs the extra docs")
    run = subprocess.run(
        [sys.executable, "-m", "docs.site", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "site" / "api").glob("*.html")}
    for page, names in json.loads(_printed(_ENTRIES)).items():
        assert [name for name in names if f'id="{name}"' not in pages[page]] == []
    assert 'id="gradnets_fast.__version__"' in pages["index"]
    for example in (ROOT / "examples").glob("*.py"):
        html = (tmp_path / "site" / "gallery" / f"{example.stem}.html").read_text(encoding="utf-8")
        assert re.search(r'<img [^>]*src="\.\./_images/', html), example.stem
        assert re.search(rf'href="\.\./_downloads/\w+/{example.name}"', html), example.stem
    assert "<math" in (tmp_path / "site" / "mathematics.html").read_text(encoding="utf-8")
