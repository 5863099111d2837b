"""Docstrings of this package as reST: they are Markdown with sections, "Args:" and its like, and code below a colon."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

_SECTION = re.compile(
    r"((?:Args|Shapes|Returns|Raises|Attributes)(?:, (?:Args|Shapes|Raises))*|Equivalent to[^:]*|Source): *(.*)"
)
_OF_ITEMS = {"Args", "Attributes", "Raises"}


def as_rest(lines: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The lines of a docstring in reST.

    Args:
        lines: without the indentation that all have.
        names: the full name of each public one, by what docstrings call it.

    >>> as_rest(["Sums x_1.", "", "Args:", "    x: `W`'s points."], {})
    ['Sums x\\\\_1.', '', ':Args:', "    * **x**: \\\\ ``W``\\\\ 's points.", '']
    """
    return list(_Lines(lines, names).converted())


class _Lines:
    """A docstring being read, from its first line to its last."""

    def __init__(self, lines: Sequence[str], names: Mapping[str, str]) -> None:
        self.lines, self.names, self.at = list(lines), names, 0

    def converted(self) -> Iterator[str]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            section = _SECTION.fullmatch(line)
            if line.startswith(">>>"):
                yield from ["", *self._taken(lambda text: bool(text.strip())), ""]
            elif line.startswith("|") and self.lines[self.at + 1 :][:1] and self.lines[self.at + 1].startswith("|-"):
                yield from self._table(self._taken(lambda text: text.startswith("|")))
            elif line.startswith("    "):
                yield from _code(self._indented())
            elif section:
                self.at += 1
                yield from self._section(section[1], section[2])
            else:
                self.at += 1
                yield self._inline(line)
                if line.endswith(":") and self._is_indented():
                    yield from _code(self._indented())

    def _is_indented(self) -> bool:
        return self.at < len(self.lines) and self.lines[self.at].startswith("    ")

    def _taken(self, belongs: object) -> list[str]:
        """The lines from here on for which `belongs`."""
        start = self.at
        while self.at < len(self.lines) and belongs(self.lines[self.at]):  # type: ignore[operator]
            self.at += 1
        return self.lines[start : self.at]

    def _indented(self) -> list[str]:
        return self._taken(lambda text: text.startswith("    "))

    def _section(self, name: str, rest: str) -> Iterator[str]:
        if name in _OF_ITEMS and not rest:
            yield f":{name}:"
            yield from (f"    * {self._item(item)}" for item in _items(self._indented()))
        elif rest or not name.startswith("Equivalent"):
            text = " ".join([rest, *(line.strip() for line in self._taken(lambda text: bool(text.strip())))])
            yield f":{name}: {self._inline(text.strip())}"
        else:
            yield f":{name}:"
            yield from (f"    {line}".rstrip() for line in _code(self._indented()))
        yield ""

    def _item(self, item: str) -> str:
        name, _, text = item.partition(": ")
        return f"**{self._plain(name)}**: {self._inline(text)}" if text else self._inline(item)

    def _table(self, rows: Sequence[str]) -> Iterator[str]:
        yield from ["", ".. list-table::", "   :header-rows: 1", ""]
        for row in [row for row in rows if not set(row) <= set("|-: ")]:
            cells = [self._inline(cell.strip()) for cell in row.strip("|").split("|")]
            yield from (f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(cells))
        yield ""

    def _inline(self, text: str) -> str:
        """A line of text: names as links or as code, and what reST would take for markup as it stands."""
        parts = re.split(r"`([^`]+)`", text)
        return "".join(self._name(part) if i % 2 else self._plain(part) for i, part in enumerate(parts))

    def _name(self, name: str) -> str:
        full = self.names.get(name.removesuffix("()"))
        return f"\\ :py:obj:`{name} <{full}>`\\ " if full else f"\\ ``{name}``\\ "

    def _plain(self, text: str) -> str:
        return re.sub(r"([\\*|_])", r"\\\1", text)


def _code(lines: Sequence[str]) -> list[str]:
    """A block of code, or of formulas, which Python does not compile."""
    block = textwrap.dedent("\n".join(lines))
    try:
        compile(block, "docstring", "exec")
    except SyntaxError:
        language = "text"
    else:
        language = "python"
    return ["", f".. code-block:: {language}", "", *(f"    {line}" for line in block.splitlines()), ""]


def _items(lines: Sequence[str]) -> Iterator[str]:
    """The entries of a section, each on one line; two kinds of errors on one line are two entries."""
    item = ""
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if item and not line.startswith(" "):
            yield from re.split(r"  (?=\w+: )", item)
            item = ""
        item = f"{item} {line.strip()}" if item else line
    if item:
        yield from re.split(r"  (?=\w+: )", item)
