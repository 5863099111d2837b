"""Files that are there whole or not at all, and folders that one run has at a time: used by all applications."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import message

_PART = ".part"
"""In the names of files that are being written, which a writer that is killed leaves."""

_UNFINISHED = re.compile(rf"\.(probe-\w+|.+-\d+){re.escape(_PART)}(\.\w+)?")
"""The names that `prepare_folder` and `write_atomically` give."""


def prepare_folder(folder: Path, where: str = "train") -> None:
    """Makes the output folder, and proves that files can be written there; `where` names the command.

    Raises:
        OSError: naming the folder and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(_PART, ".probe-", folder)
        os.close(descriptor)
        os.unlink(probe)
    except OSError as error:
        fix = "choose another folder with --out, or change its permissions"
        raise OSError(message(where, f"out {folder}", "a folder that can be written", error.strerror, fix)) from error


@contextmanager
def locked(folder: Path, where: str = "train") -> Iterator[None]:
    """Hold a folder for this process alone; the system frees it when the process ends, however it ends.

    What processes that were killed while they wrote there have left goes first.

    Raises:
        OSError: another process holds it, or no file can be written there.
    """
    lock = FileLock(folder / ".lock")
    fix = "choose another folder with --out"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        expected = "a folder that no other run is using"
        raise OSError(
            message(where, f"out {folder}", expected, "one in use", f"wait for that run, or {fix}")
        ) from error
    except OSError as error:
        expected, fix = "a folder that can be written", f"{fix}, or change its permissions"
        raise OSError(message(where, f"out {folder}", expected, error.strerror, fix)) from error
    try:
        for path in folder.glob(f".*{_PART}*"):
            if _UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def clear(folder: Path, names: Sequence[str], overwrite: bool, where: str = "train", other: str = "") -> None:
    """Delete an earlier run's files, in this order, or refuse to; other: what can be done besides.

    Raises:
        FileExistsError: there are some, and `overwrite` is not given.
    """
    present = [name for name in names if (folder / name).exists()]
    if present and not overwrite:
        fix = f"add --overwrite to replace it, {other}or choose another folder with --out"
        got = ", ".join(present)
        raise FileExistsError(message(where, f"out {folder}", "a folder without an earlier run", got, fix))
    for name in present:
        (folder / name).unlink()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path) and moves the result to `path`, which never holds half a file."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{_PART}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON atomically; a number that is not finite, which JSON lacks, is null, and named under "not_finite".

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_json(Path(folder, "a.json"), {"errors": [0.5, float("inf")]})
    ...     json.loads(Path(folder, "a.json").read_text())
    {'errors': [0.5, None], 'not_finite': {'errors.1': 'inf'}}
    """
    lost: dict[str, str] = {}
    strict = _without_infinities(content, "", lost) | ({"not_finite": lost} if lost else {})
    text = json.dumps(strict, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A path that is not UTF-8 has surrogates, and a backslash before their numbers is how JSON writes them.
    data = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def _without_infinities(value: Any, place: str, lost: dict[str, str]) -> Any:
    """A copy with None for each number that is not finite; they are put into `lost` by their places."""
    if isinstance(value, dict):
        return {name: _without_infinities(each, f"{place}.{name}".strip("."), lost) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(each, f"{place}.{i}".strip("."), lost) for i, each in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost[place] = str(value)
        return None
    return value
