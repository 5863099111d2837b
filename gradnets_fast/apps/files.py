"""Files that are there whole or not at all, whoever interrupts the program: used by all applications."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import message


def prepare_folder(folder: Path, where: str = "train") -> None:
    """Makes the output folder, and proves that files can be written there; `where` names the command.

    Raises:
        OSError: naming the folder and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        os.unlink(probe)
    except OSError as error:
        fix = "choose another folder with --out, or change its permissions"
        raise OSError(message(where, f"out {folder}", "a folder that can be written", error.strerror, fix)) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path) and moves the result to `path`, which never holds half a file."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
