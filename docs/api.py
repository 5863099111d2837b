"""Renders the docstrings of the public names to HTML with pdoc: `make docs`.

python docs/api.py build/docs
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

MODULES = (
    *("gradnets_fast", "gradnets_fast.nn", "gradnets_fast.convex", "gradnets_fast.flows", "gradnets_fast.export"),
    *("gradnets_fast.structure", "gradnets_fast.interop.dynamics", "gradnets_fast.interop.transport"),
)
ADAPTERS = ("gradnets_fast.interop.imaging", "gradnets_fast.interop.lightning")
"""Modules whose import needs another library, which may be missing or broken."""
_SECTIONS = "Args|Returns|Raises|Attributes"
"""Headings that pdoc knows."""


def with_code_blocks(docstring: str) -> str:
    """The docstring with headings such as "Equivalent to:" set off, and the code below them as Markdown has code.

    >>> with_code_blocks("Equivalent to:\\n    x @ W\\n\\nArgs:\\n    x: points")
    '**Equivalent to:**\\n\\n    x @ W\\n\\nArgs:\\n    x: points'
    """
    docstring = re.sub(rf"^(?!(?:{_SECTIONS}):)([A-Z].*:)\n(?=    )", r"**\1**\n\n", docstring, flags=re.MULTILINE)
    return re.sub(r"^([a-z].*:\n)(?=    )", r"\1\n", docstring, flags=re.MULTILINE)


def main() -> None:
    """Writes a page for each module, and an index, into a folder."""
    import pdoc
    from pdoc import docstrings

    if len(sys.argv) != 2:
        sys.exit("docs/api.py: arguments: expected the folder to write to; run make docs")
    google = docstrings.google
    docstrings.google = lambda text: google(with_code_blocks(text))
    pdoc.render.configure(docformat="google")
    # A package's other modules are not pages of the reference.
    specs = [spec for name in (*MODULES, *_importable()) for spec in (name, rf"!{re.escape(name)}\..*")]
    pdoc.pdoc(*specs, output_directory=Path(sys.argv[1]))


def _importable() -> list[str]:
    """The adapters that can be imported here; says why of the others."""
    found = []
    for name in ADAPTERS:
        try:
            importlib.import_module(name)
        except Exception as error:  # as a library may raise anything
            print(f"docs/api.py: no page of {name}: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


if __name__ == "__main__":
    main()
