"""Puts the site's sources together in one folder: docs/*.md and the root's, their links following, and the reference.

The texts are written for a forge, where their relative links lead to files of the repository.  On the site those to
pages and examples lead to theirs, and the other files are copied, so that they can be downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.site import reference, results

ROOT = Path(__file__).resolve().parents[2]
TREE: Mapping[str, tuple[str, ...]] = {
    "Use": (
        *("install", "tutorial", "gallery/index", "usage", "mathematics", "training", "calculus", "deep", "imaging"),
        *("swap", "scaling"),
    ),
    "Look up": ("api/index", "backends"),
    "What was measured": ("experiments", "benchmarks", "reproduction", "results"),
    "Change": (*("how-it-works", "contributing", "mutants", "reliability", "prebuilt", "release", "hub", "changelog"),),
}
"""The pages beside the first, in their order, by the captions of the navigation."""
_ELSEWHERE = {"docs/README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
"""Pages whose name is not that of a file of docs/."""
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)#\s]+)(#[^)\s]+)?(?=\))")
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)


def pages() -> dict[str, str]:
    """The site's page of each text, by its path in the repository."""
    own = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/*.md")))
    return {path: Path(path).stem for path in own} | _ELSEWHERE


def write(folder: Path) -> None:
    """Writes all sources; files that are as they were are left alone, so that a second build is quick."""
    written = set()
    for path, content in _files():
        target = folder / path
        written.add(target)
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in folder.rglob("*"):
        if path.is_file() and path not in written and "gallery" not in path.relative_to(folder).parts:
            path.unlink()


def _files() -> Iterator[tuple[str, bytes]]:
    """The sources, by their paths in the folder."""
    copied: set[str] = set()
    for source, page in pages().items():
        text = linked(source, (ROOT / source).read_text(encoding="utf-8"), copied)
        yield f"{page}.md", (text + _navigation() if page == "index" else text).encode()
    yield "results.md", linked("docs/results.md", results.page(), copied).encode()
    for page, text in reference.pages():
        yield f"{page}.rst", text.encode()
    for path in sorted(copied):
        yield path, (ROOT / path.removeprefix("files/") if path.startswith("files/") else ROOT / path).read_bytes()


def linked(source: str, text: str, copied: set[str]) -> str:
    """A text of the repository with the links of the site; adds to `copied` what the site needs besides.

    >>> files = set()
    >>> linked("docs/use.md", "[a](../CONTRIBUTING.md#b) [c](../examples/score.py) [d](../LICENSE) [e](../csrc)", files)
    '[a](contributing.md#b) [c](gallery/score.rst) [d](files/LICENSE) e'
    >>> files
    {'files/LICENSE'}
    """
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        moved = _LINK.sub(lambda match: _target(source, match, copied), parts[i])
        parts[i] = _TABLE.sub(lambda match: _unbroken(match[0]), _without_folders(source, moved))
    return "".join(parts)


def _unbroken(row: str) -> str:
    """A row of a table whose numbers stay beside their units, and beside each other in sizes.

    >>> _unbroken("| 3 layers | 10, 2 | 1.2 ms / 3 ms |") == "| 3 layers | 10,\\xa02 | 1.2\\xa0ms / 3\\xa0ms |"
    True
    """
    return re.sub(r"(?<=\d) (?=(?:ms|µs|s|dB|MiB)\b|±)|(?<=±) |(?<=\d,) (?=\d)", "\xa0", row)


def _target(source: str, match: re.Match[str], copied: set[str]) -> str:
    path, anchor = os.path.normpath(os.path.join(os.path.dirname(source), match[1])), match[2] or ""
    if path in pages():
        return f"{pages()[path]}.md{anchor}"
    if path == "examples":
        return "gallery/index.rst"
    if path.startswith("examples/"):
        return f"gallery/{Path(path).stem}.rst"
    if not (ROOT / path).is_file():
        return match[0]
    file = f"files/{path}"
    copied.add(file)
    return file


def _without_folders(source: str, text: str) -> str:
    """The text without links to folders, of which a site has no listing."""

    def plain(match: re.Match[str]) -> str:
        path = ROOT / os.path.dirname(source) / match[2]
        return match[1] if path.is_dir() else match[0]

    return re.sub(r"\[([^]]+)\]\((\.\.?/[^)#\s]+)\)", plain, text)


def _navigation() -> str:
    """The toctrees of the first page, which show nothing there."""
    trees = (
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""])
        for caption, names in TREE.items()
    )
    return "".join(trees)
