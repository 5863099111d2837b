"""The documents: their code runs, their figures stand in result files, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import gradnets_fast
from bench import tables
from gradnets_fast import convex, export, flows, functional, nn

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
ELSEWHERE = {"hub.md"}
"""Documents whose code another test runs: this one's needs a generated folder."""
BLOCKS = {
    path.relative_to(ROOT).as_posix(): re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL)
    for path in DOCUMENTS
    if path.name not in ELSEWHERE
}
EXAMPLES = {
    "convex_field": {"relative error of the field": 0.02, "asymmetry of the Jacobian": 1e-5},
    "density": {"−log p, convex potential flow": 1.7},
    "hamiltonian": {"energy off by, gradient network": 0.15, "energy off by, exact": 1e-4},
    "inverse_problem": {"learned regulariser": 0.017},
    "poisson": {"relative L2 error": 0.01},
    "score": {
        "relative error of the score by matching": 0.08,
        "relative error of the score by denoising": 0.1,
        "share of steps rejected": 0.1,
        "error of the samples' covariance": 0.15,
    },
    "transport": {"relative error of the map": 0.03, "Kullback–Leibler divergence": 0.01},
}
"""What each example's results may be at most."""
BETTER = {
    "density": ("−log p, convex potential flow", "−log p, normal distribution"),
    "hamiltonian": ("energy off by, gradient network", "energy off by, plain network"),
    "inverse_problem": ("learned regulariser", "best quadratic regulariser"),
}
"""Which of an example's results is below which other."""


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what they write
    names: dict[str, object] = {}
    for i, block in enumerate(BLOCKS[name]):
        exec(compile(block, f"{name}, block {i}", "exec"), names)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("README.md", 1), ("docs/README.md", 1), ("docs/tutorial.md", 8)]
    + [(f"docs/{name}.md", 3) for name in ("calculus", "deep", "imaging", "scaling", "swap", "usage")],
)
def test_documents_have_code(name: str, blocks: int) -> None:
    assert len(BLOCKS[name]) >= blocks


QUICK = {"convex_field", "inverse_problem", "transport"}
"""Examples that `make test` runs."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES]
)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))  # where there is a display, it would wait
    results = runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")["results"]
    for quantity, most in EXAMPLES[name].items():
        assert results[quantity] <= most, results
    assert results.get("smallest eigenvalue of the Jacobian", 1.0) > -1e-5
    if name in BETTER:
        ours, other = BETTER[name]
        assert results[ours] < results[other], results


def _script(path: str) -> Any:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    _script("docs/picture.py").main(tmp_path / "picture.png", steps=2)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_every_example_is_tested_and_short() -> None:
    paths = {path.stem: path for path in ROOT.glob("examples/*.py")}
    assert set(paths) == set(EXAMPLES)
    assert all(len(path.read_text("utf-8").splitlines()) < 90 for path in paths.values())


def test_the_gallery_names_every_example() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for name in EXAMPLES:
        assert f"](../examples/{name}.py)" in index, name


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert tables.rendered(document, text) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_measured_figure_names_its_file(path: Path) -> None:
    text = re.sub(r"<!-- table: .*?<!-- end of table -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for paragraph in text.split("\n\n"):
        if re.search(r"\d ?(ms|µs|dB|GFLOP/s|times faster)\b|\d×", paragraph):
            assert "bench/results/" in paragraph or "tests/" in paragraph, paragraph


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", path.read_text(encoding="utf-8")):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), f"{target}#{anchor}"


def _anchors(document: Path) -> set[str]:
    """The names that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist(path: Path) -> None:
    """The subcommands and options of `gradnets-fast …`, and the targets of `make …`, that a document names."""
    import typer.main

    from gradnets_fast.apps.cli import app

    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    commands: Any = typer.main.get_command(app)
    for name, rest in re.findall(r"gradnets[-_]fast (\w[\w-]*)\b([^`#\n]*)", "\n".join(_shell(text))):
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--[\w-]+", rest)) <= {*options, "--help"}, (name, rest)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z][\w-]+)", "\n".join(_shell(text))):
        assert target in targets, target


def _shell(text: str) -> list[str]:
    """What a document has of the command line: blocks of sh, and code within lines."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def test_the_readme_is_short_and_names_the_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 75
    assert "make demo" in text
    assert "make test" in text


PUBLIC: dict[str, Any] = {
    name: getattr(home, name)
    for home in (gradnets_fast, convex, export, flows)
    for name in home.__all__
    if name != "__version__"
}
MATHEMATICAL = {*functional.__all__, *nn.__all__, *flows.__all__}
MATHEMATICAL |= {name for name in convex.__all__ if not inspect.isclass(PUBLIC[name])}
SECTION = re.compile(
    r"^((?:Args|Shapes|Returns|Raises|Attributes)(?:, (?:Args|Shapes|Raises))*|Equivalent to|Source)\b", re.M
)


def _sections(docstring: str) -> dict[str, str]:
    """A docstring's sections by name; "Args, Raises: as `X`" counts for each of its names."""
    parts = SECTION.split(docstring)
    return {name: text for names, text in zip(parts[1::2], parts[2::2]) for name in names.split(", ")}


def _required(name: str) -> set[str]:
    public = PUBLIC[name]
    if name in MATHEMATICAL:
        result = {"Shapes"} if inspect.isclass(public) else {"Returns"}
        return {"Equivalent to", "Args", "Raises", "Source", *result}
    if inspect.isclass(public):
        return set() if issubclass(public, Exception) else {"Attributes"}
    nothing = inspect.signature(public).return_annotation == "None"
    return {"Args", "Raises"} if nothing else {"Args", "Raises", "Returns"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_page_of_reference(name: str) -> None:
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    summary = docstring.split("\n\n")[0]
    assert re.match(r"[A-Z]", summary), "begin with a noun phrase or a verb"
    assert not re.match(r"(Of|That|Those|These) ", summary), "a docstring is read without the line above it"
    assert summary.endswith("."), "begin with one whole sentence"
    assert ">>> " in docstring, "show a runnable example"
    assert _required(name) <= _sections(docstring).keys()


@pytest.mark.parametrize("name", [name for name in PUBLIC if "Args" in _required(name)])
def test_every_argument_is_documented(name: str) -> None:
    public = PUBLIC[name]
    text = _sections(inspect.getdoc(public) or "")["Args"]
    inherited = re.search(r"as `(\w+)`", text)
    if inspect.isclass(public) and inherited:
        text += _sections(inspect.getdoc(PUBLIC[inherited[1]]) or "")["Args"]
    for parameter in inspect.signature(public).parameters:
        assert re.search(rf"(^|, ) *{parameter}(, \w+)*:", text, re.M) or f"`{parameter}`" in text, parameter
