"""The pages of the reference: an entry for each public name, by its docstring, which is Markdown with sections."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from docs.site.docstring import as_rest


class Page(NamedTuple):
    """One page: its names are those of the `__all__` of its modules.

    Attributes:
        title: the heading.
        module: where its readers import the names from.
        homes: the modules that list them, below `gradnets_fast`.
        words: what stands above the names.
        more: further names of the module, which its `__all__` leaves out.
    """

    title: str
    module: str
    homes: tuple[str, ...]
    words: str
    more: tuple[str, ...] = ()


PAGES = {
    "networks": Page(
        "Networks",
        "gradnets_fast",
        ("nn",),
        "Modules of torch.nn.  What they compute, they have from :py:obj:`~gradnets_fast.nn.GradNet`, at the end.",
        ("gradnets_fast.nn.GradNet",),
    ),
    "operators": Page(
        "Operators",
        "gradnets_fast",
        ("functional", "functional._determinant"),
        "The same as functions of tensors: families, and for each of them the potential, J(x) v, tr J(x) and J(x).",
    ),
    "training": Page(
        "Training and where it starts",
        "gradnets_fast",
        ("fitting", "nn.initial", "nn.unit_scale"),
        "A loop of training, a loss that is quicker than its parts, and initial values.",
    ),
    "backends": Page(
        "Backends",
        "gradnets_fast",
        ("backend", "explanation", "_warmup"),
        "Which kernels run, why, and when they are compiled.",
    ),
    "swapping": Page(
        "Swapping in", "gradnets_fast", ("swap",), "Networks and checkpoints that exist already, run by these kernels."
    ),
    "devices": Page(
        "Large batches, many devices",
        "gradnets_fast",
        ("chunks", "parallel"),
        "Batches larger than the device, and networks divided among several.",
    ),
    "convex": Page("Convex potentials", "gradnets_fast.convex", ("convex",), ""),
    "flows": Page("Densities", "gradnets_fast.flows", ("flows",), ""),
    "score": Page("Scores", "gradnets_fast.score", ("score",), ""),
    "structure": Page("Sparse and of low rank", "gradnets_fast.structure", ("structure",), ""),
    "export": Page("Export", "gradnets_fast.export", ("export",), ""),
    "interop": Page("Other libraries", "gradnets_fast.interop", ("interop",), ""),
}


@lru_cache(maxsize=None)
def entries(page: str) -> tuple[str, ...]:
    """The full names that a page has entries for; of interop those whose library can be imported here."""
    of = PAGES[page]
    names = [name for home in of.homes for name in importlib.import_module(f"gradnets_fast.{home}").__all__]
    full = [f"{of.module}.{name}" for name in names] + [name for name in of.more if _found(name) is not None]
    return tuple(name for name in full if page != "interop" or _importable(name))


def _found(name: str) -> Any:
    """What a full name stands for, or None."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last, None)


@lru_cache(maxsize=None)
def _importable(name: str) -> bool:
    """Whether the library that an adapter is for can be imported; says on stderr why not."""
    try:
        _found(name)
    except Exception as error:  # as a library may raise anything
        print(f"docs.site: no entry of {name}: {error}", file=sys.stderr)
        return False
    return True


@lru_cache(maxsize=None)
def public() -> dict[str, str]:
    """The full name of each entry by what docstrings call it: all ends of the full name, and where it is defined."""
    known = {of.module: of.module for of in PAGES.values() if not of.words}
    for page in PAGES:
        for full in entries(page):
            parts, found = full.split("."), _found(full)
            for i in range(len(parts)):
                known.setdefault(".".join(parts[i:]), full)
            known.setdefault(f"{getattr(found, '__module__', '')}.{parts[-1]}", full)
            if inspect.isclass(found):
                for method, value in vars(found).items():
                    if not method.startswith("_") and inspect.getdoc(value):
                        known.setdefault(f"{parts[-1]}.{method}", f"{full}.{method}")
    return known


def pages() -> Iterator[tuple[str, str]]:
    """Every page of the reference and its text."""
    toctree = "\n".join([".. toctree::", "   :maxdepth: 1", "", *(f"   {page}" for page in PAGES)])
    yield "api/index", "\n".join([_title("Reference"), ".. automodule:: gradnets_fast", "", _VERSION, toctree, ""])
    for page, of in PAGES.items():
        yield f"api/{page}", "\n".join([_title(of.title), *_body(of, entries(page)), ""])


_VERSION = """.. py:data:: __version__

   The version, a string.
"""


def _title(title: str) -> str:
    return f"{title}\n{'=' * len(title)}\n"


def _body(of: Page, names: Sequence[str]) -> list[str]:
    """What stands below a title: words, a table of the names, their entries."""
    intro = [of.words] if of.words else [f".. automodule:: {of.module}"]
    short = (name.removeprefix(f"{of.module}.") for name in names)
    summary = [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in short)]
    body = [*intro, "", f".. currentmodule:: {of.module}", "", *summary, ""]
    for name in names:
        found = _found(name)
        if inspect.isclass(found):
            body += [f".. autoclass:: {name}", "   :members:", ""]
        else:
            body += [f".. autofunction:: {name}", ""]
    return body


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reST of a docstring, in place, for autodoc."""
    lines[:] = as_rest(lines, public())


def _skipped(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which their docstring has under Attributes; None leaves the choice."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def _resolved(app: Any, env: Any, node: Any, contents: Any) -> Any:
    """A reference to a public name by where it is defined, which signatures have, led to its entry."""
    target = node.get("reftarget", "")
    full = public().get(target) or public().get(target.rpartition(".")[2])
    if node.get("refdomain") != "py" or full is None or full == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contents)


def setup(app: Any) -> dict[str, bool]:
    """Connects all of it to Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skipped)
    app.connect("missing-reference", _resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
