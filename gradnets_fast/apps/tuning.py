"""`gradnets-fast tune`: the table of tiles, measured anew on the GPU that is there."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import check_choice, message
from ..ops import _triton
from .files import locked, prepare_folder, write_json


def tune(device: torch.device, kernel: str, out: Path | None, report: Callable[[str], None]) -> Path:
    """Time the candidates of every entry of the table for this device, and write the fastest to `out`.

    Entries are written one by one, so that a run that is stopped loses none; entries of an earlier run stay.
    kernel: the name of the only kernel to tune, "" for all.  report: a function that takes a line for each entry.

    Raises:
        ValueError: an unknown kernel, or an `out` that holds something else.  OSError: `out` cannot be written, or
            another process writes there.  RuntimeError: no device that the kernels can run on.
    """
    # A table without tiles for this GPU is what tuning is for.
    refusal = _triton.why_not(device, torch.float32, tiles=False)
    if refusal is not None:
        fix = "run it where there is one; gradnets-fast doctor says what is here"
        got = f"{device} ({refusal})"
        raise RuntimeError(message("tune", "device", "an NVIDIA GPU that the kernels run on", got, fix))
    configuration, tuning = (importlib.import_module(f"..kernels.{name}", __package__) for name in _MODULES)
    if kernel:
        check_choice("tune", "kernel", kernel, tuple(configuration.TILES))
    path = configuration.tuned_table() if out is None else out
    prepare_folder(path.parent, "tune")
    with locked(path.parent, "tune"):
        _tune(tuning, device, kernel, path, report)
    return path


def _tune(tuning: Any, device: torch.device, kernel: str, path: Path, report: Callable[[str], None]) -> None:
    written = _earlier(path)
    written["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"
    for case in tuning.listed(device, kernel):
        measured = tuning.measure(case, device)
        if measured is None:
            report(f"{_label(case)}: no candidate fits")
            continue
        _keep(written["tables"], case, measured.entry())
        write_json(path, written)
        gain = "" if not measured.before else f", {measured.before / measured.milliseconds:.2f} times as fast as before"
        report(f"{_label(case)}: {measured.milliseconds:.3f} ms{gain}, {measured.options}")


def _earlier(path: Path) -> dict[str, Any]:
    """What an earlier run has written, or an empty table.

    Raises:
        ValueError: it is no such file.
    """
    if not path.is_file():
        return {"tables": {}}
    try:
        written: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(message("tune", f"out {path}", "valid JSON", str(error), _FIX)) from error
    if not isinstance(written, dict) or not isinstance(written.get("tables"), dict):
        raise ValueError(message("tune", f"out {path}", "a table that tune has written", "other JSON", _FIX))
    return written


def parsed(device: str) -> torch.device:
    """The torch device of this name, with a number if it is a GPU.

    Raises:
        ValueError: it is no name of a device.
    """
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ValueError(message("tune", "device", "a torch device", device, 'for example "cuda:0"')) from error
    if named.type == "cuda" and named.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return named


_MODULES = ("configuration", "tuning")
_FIX = "delete it, or name another file with --out"


def _label(case: tuple[Any, ...]) -> str:
    _, kernel, kind, d, depth = case
    return f"{kernel} {kind} d={d} depth={depth}"


def _keep(tables: dict[str, Any], case: tuple[Any, ...], entry: dict[str, Any]) -> None:
    architecture, kernel, kind, d, depth = case
    entries = tables.setdefault(str(architecture), {}).setdefault(kernel, {}).setdefault(kind, [])
    entries[:] = [*(e for e in entries if (e["d"], e["depth"]) != (d, depth)), entry]
