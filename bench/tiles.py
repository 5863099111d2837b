"""Chooses the tiles of kernels/table.json without a GPU, by what the compiler says that candidates take.

python -m bench.tiles   # entry by entry, what the table lacks, and what was compiled from other kernels than these

An hour on two cores from nothing.  After a change of the kernels the tiles that still fit are kept, and what translates
to the same code as before is not compiled again: a quarter of an hour if all code changed, minutes if none did.

The first candidate of which two programs fit into a multiprocessor wins, so that one computes φ while the other's
products run; else the first that spills nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from types import MappingProxyType
from typing import Any

import triton

from gradnets_fast.apps.files import write_atomically
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.candidates import CANDIDATES, Case, cases
from gradnets_fast.kernels.mode import Mode

from . import gate

_REGISTERS = 65536
"""Registers of a multiprocessor."""

_LARGE = ("deep.forward", "deep.backward")
"""Kernels of which taller tiles gain more than a second program: they read all weights for each."""

_MATRIX_KERNELS = (
    *("forward", "backward", "numbers", "derivatives", "modules.forward", "modules.backward"),
    *_LARGE,
)
_HOPELESS = {"tf32x3": 2, "ieee": 2}
"""How many of the first candidates of these kernels spill for every d, and take minutes to compile."""


def taken(
    case: Case, tiles: dict[str, int], known: Mapping[str, compiler.Resources] = MappingProxyType({})
) -> dict[str, compiler.Resources] | None:
    """What each variant of the entry's kernel takes with these tiles; None if one does not fit, or `gate` says no.

    known: of variants that need not be compiled.
    """
    architecture, kernel, kind, d, layers = case
    mode = Mode(architecture, kind, offline.BASIS, layers)
    found = {}
    for name in offline.variants(kernel, layers):
        needs = known.get(name)
        if needs is None:
            made = compiler.compiled(offline.launch(name, mode, d, tiles, even=True, absent=()), architecture)
            wrong, needs = gate.complaint(made.asm["ttgir"], made.asm["ptx"]), compiler.Resources.of(made)
            if wrong is not None:
                print(*case, tiles, f"{name}: {wrong}", flush=True)
                return None
        if not needs.fits(architecture):
            return None
        found[name] = needs
    return found


def _two_fit(architecture: int, tiles: dict[str, int], needs: compiler.Resources) -> bool:
    shared = 2 * needs.shared <= 1024 * configuration.SHARED_KB[architecture]
    return shared and 2 * 32 * tiles["num_warps"] * needs.registers <= _REGISTERS


def code(case: Case, tiles: dict[str, int]) -> list[str]:
    """For each variant of the entry a digest of what machine code is made from: Triton's language, and options."""
    architecture, kernel, kind, d, depth = case
    mode = Mode(architecture, kind, offline.BASIS, depth)
    found = []
    for name in offline.variants(kernel, depth):
        launch = offline.launch(name, mode, d, tiles, even=True, absent=())
        options = json.dumps({option: launch.constants.get(option) for option in compiler.OPTIONS})
        text = compiler.translated(launch, architecture)[1] + options
        found.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return found


def chosen(case: Case) -> dict[str, Any]:
    """The entry of one case, with no options if every candidate spills."""
    architecture, kernel, kind, d, depth = case
    best = None
    for tiles in CANDIDATES[kernel][_HOPELESS.get(kind, 0) if kernel in _MATRIX_KERNELS else 0 :]:
        found = taken(case, tiles)
        if found is None:
            continue
        entry = {"d": d, "depth": depth, "options": tiles, "resources": {k: astuple(v) for k, v in found.items()}}
        if kernel in _LARGE or all(_two_fit(architecture, tiles, needs) for needs in found.values()):
            return entry
        best = best or entry
    return best or {"d": d, "depth": depth, "options": None, "resources": {}}


def again(entry: dict[str, Any], case: Case) -> dict[str, Any]:
    """The table's entry of a case: variants whose code has changed are compiled anew, other tiles where they spill."""
    tiles = entry["options"]
    if tiles is None:
        return entry
    now, before = code(case, tiles), entry.get("code") if entry["triton"] == triton.__version__ else None
    variants = zip(offline.variants(case[1], case[4]), before or (), now)
    same = [name for name, earlier, later in variants if earlier == later]
    if len(same) == len(now):
        return entry
    found = taken(case, tiles, {name: compiler.Resources(*entry["resources"][name]) for name in same})
    if found is None:
        return chosen(case)
    return entry | {"resources": {name: astuple(needs) for name, needs in found.items()}, "code": now}


def updated(case: Case) -> dict[str, Any]:
    """The entry of one case."""
    known = _entries(_read(), case)
    entry = {"code": None} | (again(known[0], case) if known else chosen(case))
    if entry["options"] is not None and entry["code"] is None:
        entry["code"] = code(case, entry["options"])
    account = {"sources": offline.digest(case[1], case[4]), "triton": triton.__version__}
    return {name: entry[name] for name in ("d", "depth", "options", "resources", "code")} | account


def is_fresh(case: Case) -> bool:
    """Whether the table has the case, compiled from these kernels."""
    return any(entry.get("sources") == offline.digest(case[1], case[4]) for entry in _entries(_read(), case))


def _read() -> dict[str, Any]:
    text = configuration.TABLE.read_text(encoding="utf-8") if configuration.TABLE.exists() else "{}"
    table: dict[str, Any] = json.loads(text)
    return table


def _entries(table: dict[str, Any], case: Case) -> list[dict[str, Any]]:
    architecture, kernel, kind, d, depth = case
    entries = table.get(str(architecture), {}).get(kernel, {}).get(kind, [])
    return [entry for entry in entries if (entry["d"], entry["depth"]) == (d, depth)]


def _add(case: Case, entry: dict[str, Any]) -> None:
    """Writes one entry, so that nothing is lost when the program is stopped."""
    architecture, kernel, kind, *place = case
    table = _read()
    entries = table.setdefault(str(architecture), {}).setdefault(kernel, {}).setdefault(kind, [])
    others = [e for e in entries if [e["d"], e["depth"]] != place]
    entries[:] = sorted([*others, entry], key=lambda e: (e["d"], e["depth"]))
    _write(table)


def _write(table: dict[str, Any]) -> None:
    """Write the table as JSON with an entry a line."""
    lines = {
        architecture: {
            kernel: {kind: list(map(json.dumps, entries)) for kind, entries in kinds.items()}
            for kernel, kinds in kernels.items()
        }
        for architecture, kernels in table.items()
    }
    text = re.sub(r'"\{.*\}"', lambda found: str(json.loads(found[0])), json.dumps(lines, indent=1)) + "\n"
    write_atomically(configuration.TABLE, lambda path: path.write_text(text, encoding="utf-8"))


def main() -> None:
    stale = [case for case in cases() if not is_fresh(case)]
    print(f"Triton {triton.__version__}: {len(stale)} entries")
    with ProcessPoolExecutor() as pool:
        for case, entry in zip(stale, pool.map(updated, stale)):
            _add(case, entry)
            print(*case, entry["options"], entry["resources"], flush=True)


if __name__ == "__main__":
    main()
