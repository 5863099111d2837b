"""The command gradnets-fast: `python -m gradnets_fast` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("gradnets_fast"):
            raise
        print(
            f"gradnets-fast: the command line needs {error.name}; pip install 'gradnets_fast[train]'", file=sys.stderr
        )
        sys.exit(2)
    sys.exit(run())


if __name__ == "__main__":
    main()
