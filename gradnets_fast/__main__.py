"""The command gradnets-fast, which `python -m gradnets_fast` is too."""

from __future__ import annotations

import sys

from .apps.text import write_anywhere


def main() -> None:
    """Run the command line, or say what it lacks; the doctor runs without it."""
    write_anywhere()
    arguments = sys.argv[1:]
    try:
        from .apps.cli import run
    except Exception as error:  # a broken torch raises whatever it comes to
        lacking = _lacking(error)
        if arguments[:1] == ["doctor"]:
            from .apps.doctor import command

            sys.exit(command.main(arguments[1:], lacking or f"{type(error).__name__}: {error}"))
        if lacking is None:
            raise
        print(f"gradnets-fast: {lacking}; gradnets-fast doctor says more", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())


def _lacking(error: Exception) -> str | None:
    """What to install for the command line; None if the error is of this package's own making."""
    if not isinstance(error, (ImportError, OSError)):
        return None
    name = getattr(error, "name", None) or ""
    if name.startswith("gradnets_fast"):
        return None
    if isinstance(error, ModuleNotFoundError):
        return f"the command line needs {name}; pip install 'gradnets_fast[train]'"
    return f"the command line needs what cannot be imported ({' '.join(str(error).split())})"


if __name__ == "__main__":
    main()
