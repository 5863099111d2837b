"""What all commands share: foreseen failures, which are one line and exit code 2, and the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from ...errors import is_message, message

_EXPECTED_FAILURES = (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
_NO_MEMORY = re.compile(
    r"(can't|[Cc]annot) allocate memory|bad_alloc|can't start new thread|not enough memory|[Oo]ut of memory|"
    r"failed to map segment"
)
"""Errors of PyTorch's allocators, of kernels, and of libraries that are loaded on the way."""
_LOST_CONNECTION = re.compile(r"Connection (closed|reset) by peer|NCCL .*remote")
"""Errors of a collective in which another process has stopped."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a foreseen exception into its message on standard error and exit code 2; let others pass."""
    try:
        yield
    except typer.Exit:
        raise
    except _EXPECTED_FAILURES as error:
        text, rank = " ".join(str(error).split()), os.environ.get("RANK", "0")
        if rank != "0" and getattr(error, "of_first", False):
            raise typer.Exit(2) from error  # process 0 says it
        if _LOST_CONNECTION.search(text):
            text = "another process has stopped; see its message"
        elif not is_message(text) and (isinstance(error, MemoryError) or _NO_MEMORY.search(text)):
            fix = "make the batch, the network or the data smaller"
            text = message("memory", "size", "what fits into the memory left", text[:200] or "more", fix)
        elif not isinstance(error, OSError) and not is_message(text):
            raise  # nobody foresaw it: the traceback is what helps
        who = "" if rank == "0" else f"process {rank}: "
        print(f"gradnets-fast: {who}{text}\n", end="", file=sys.stderr, flush=True)
        raise typer.Exit(2) from error


def plain_console(quiet: bool = False) -> Console:
    """A terminal that prints texts as they are: a file's name may hold what rich takes for markup."""
    return Console(quiet=quiet, markup=False, emoji=False)


def help_of(text: str, choices: Iterable[str]) -> str:
    """The help text of an option with these choices."""
    return f"{text}: {', '.join(choices)}."
