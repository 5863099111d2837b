"""Follows the links of a site: every file and every anchor that a page names must be there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value:
                self.targets.append(value)


def broken(site: Path) -> list[str]:
    """The links of a site's pages that lead to no file or no anchor of it, each with its page; those elsewhere pass."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            linked = linked / "index.html" if linked.is_dir() else linked
            anchor = unquote(parts.fragment)
            if not linked.is_file():
                faults.append(f"{path.relative_to(site.resolve())}: {target}: no such file")
            elif anchor and linked in pages and anchor not in pages[linked].anchors:
                faults.append(f"{path.relative_to(site.resolve())}: {target}: no such anchor")
    return faults


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
