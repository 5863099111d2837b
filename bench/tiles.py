"""Chooses the tiles of kernels/table.json without a GPU, by what the compiler says that candidates take.

python -m bench.tiles   # entry by entry, what the table lacks, and what was compiled from other kernels than these
python -m bench.tiles --choose "90 backward half"    # chooses anew tiles of entries whose words begin with these

Hours on two cores from nothing.  After a change of the kernels the tiles that still fit are kept, and what translates
to the same code as before is not compiled again: a quarter of an hour if all code changed, minutes if none did.

Of the kernels that `bench.model` knows, the candidate wins that is predicted to be the fastest of those that spill
nothing; of each tile the most stages that fit are tried.  Of others the first candidate wins of which two programs fit
into a multiprocessor, so that one computes φ while the other's products run; else the first that spills nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from math import log2
from types import MappingProxyType
from typing import Any

import triton

from gradnets_fast.apps.files import write_atomically
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.candidates import CANDIDATES, Case, cases
from gradnets_fast.kernels.mode import Mode

from . import gate
from .model import kernel as model
from .model.rows import BARE

_REGISTERS = 65536
"""Registers of a multiprocessor."""

_LARGE = ("deep.forward", "deep.backward")
"""Kernels of which taller tiles gain more than a second program: they read all weights for each."""

_MATRIX_KERNELS = (
    *("forward", "backward", "numbers", "derivatives", "modules.forward", "modules.backward"),
    *_LARGE,
)
_HOPELESS, _SLOW = {"forward": 4, "backward": 4}, ("tf32x3", "ieee")
"""How many of the first candidates of these kernels, else 2, spill for every d of slow kinds, and take minutes."""


class SpillsError(Exception):
    """A kernel takes so many more registers than there are that fewer stages do not help."""


_SLIGHT = 512
"""Bytes of stack that fewer stages may spare."""


@dataclass(frozen=True)
class Taken:
    """What the variants of an entry's kernel take with its tiles.

    Attributes:
        resources: of each variant.
        predicted: the part of the roofline's bound that `bench.model` predicts; None of kernels that it does not know.
    """

    resources: dict[str, compiler.Resources]
    predicted: float | None = None

    def parts(self) -> dict[str, Any]:
        """As the entry has them."""
        named = {name: astuple(needs) for name, needs in self.resources.items()}
        return {"resources": named, "predicted": self.predicted and round(self.predicted, 4)}


def taken(
    case: Case, tiles: dict[str, int], known: Mapping[str, compiler.Resources] = MappingProxyType({})
) -> Taken | None:
    """What each variant of the entry's kernel takes with these tiles; None if one does not fit, or `gate` says no.

    known: of variants that need not be compiled.

    Raises:
        SpillsError: it does not fit for its registers.
    """
    architecture, kernel, kind, d, layers = case
    mode = Mode(architecture, kind, offline.BASIS, layers)
    found, predicted = {}, None
    for name in offline.variants(kernel, layers):
        needs = known.get(name)
        if needs is None:
            made = compiler.compiled(offline.launch(name, mode, d, tiles, even=True, absent=()), architecture)
            wrong, needs = gate.complaint(made.asm["ttgir"], made.asm["ptx"]), compiler.Resources.of(made)
            if wrong is not None:
                print(*case, tiles, f"{name}: {wrong}", flush=True)
                return None
            if needs.stack > _SLIGHT:
                raise SpillsError
            if kernel in model.KERNELS and needs.fits(architecture):
                predicted = _predicted(case, tiles, mode, made)
        if not needs.fits(architecture):
            return None
        found[name] = needs
    return Taken(found, predicted)


def _predicted(case: Case, tiles: dict[str, int], mode: Mode, made: Any) -> float | None:
    """The part of the bound that is predicted, for the vectors that networks of so many layers have."""
    architecture, kernel, kind, d, layers = case
    if without := BARE.get(layers):
        made = compiler.compiled(offline.launch(kernel, mode, d, tiles, even=True, absent=without), architecture)
    found = model.of_compiled(kernel, architecture, kind, d, layers, tiles, made)
    return found and found.of_bound


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


def _fitting(case: Case) -> Iterator[tuple[dict[str, int], Taken]]:
    """The candidates of a case that fit, of each tile the one with the most stages."""
    _, kernel, kind, *_ = case
    by_model = kernel in model.KERNELS
    skipped = _HOPELESS.get(kernel, 2) if kernel in _MATRIX_KERNELS and kind in _SLOW else 0
    done: list[dict[str, int]] = []
    for tiles in CANDIDATES[kernel][skipped:]:
        unstaged = tiles | {"num_stages": 0}
        if by_model and unstaged in done:
            continue
        try:
            found = taken(case, tiles)
        except SpillsError:
            done.append(unstaged)
            continue
        if found is not None:
            done.append(unstaged)
            yield tiles, found


def _best(fitting: list[tuple[dict[str, int], Taken]]) -> tuple[dict[str, int], Taken]:
    """The one that is predicted to be the fastest, or of those nearly as fast the one with the most usual rows.

    With more rows small batches occupy few multiprocessors; with fewer, programs are started for little work.  Of those
    that the model does not know, the first.
    """
    known = [(found.predicted, tiles, found) for tiles, found in fitting if found.predicted]
    if not known:
        return fitting[0]
    most = max(speed for speed, *_ in known)
    near = [one for one in known if one[0] >= _NEARLY * most]
    _, tiles, found = min(near, key=lambda one: (abs(log2(one[1]["BM"] / _ROWS)), -one[0]))
    return tiles, found


_NEARLY, _ROWS = 0.96, 64
"""The part of the fastest prediction that counts as much, for the model is not more exact; and usual rows."""


def chosen(case: Case) -> dict[str, Any]:
    """The entry of one case, with no options if every candidate spills."""
    architecture, kernel, _, d, depth = case
    fitting: list[tuple[dict[str, int], Taken]] = []
    for tiles, found in _fitting(case):
        fitting.append((tiles, found))
        two_fit = all(_two_fit(architecture, tiles, needs) for needs in found.resources.values())
        if kernel not in model.KERNELS and (kernel in _LARGE or two_fit):
            fitting = fitting[-1:]
            break
    if not fitting:
        return {"d": d, "depth": depth, "options": None, "resources": {}, "predicted": None}
    tiles, found = _best(fitting)
    return {"d": d, "depth": depth, "options": tiles} | found.parts()


def again(entry: dict[str, Any], case: Case) -> dict[str, Any]:
    """The table's entry of a case: variants whose code has changed are compiled anew, other tiles where they spill."""
    tiles = entry["options"]
    if tiles is None:
        return entry
    now, before = code(case, tiles), entry.get("code") if entry["triton"] == triton.__version__ else None
    variants = zip(offline.variants(case[1], case[4]), before or (), now)
    same = [name for name, earlier, later in variants if earlier == later]
    if len(same) == len(now) and not _lacks_prediction(entry, case[1]):
        return entry
    if case[1] in model.KERNELS:  # whose predictions take the machine code
        same = []
    try:
        found = taken(case, tiles, {name: compiler.Resources(*entry["resources"][name]) for name in same})
    except SpillsError:
        found = None
    return chosen(case) if found is None else entry | found.parts() | {"code": now}


def updated(case: Case, anew: bool = False) -> dict[str, Any]:
    """The entry of one case; anew: whether its tiles are chosen as if the table had none."""
    known = [] if anew else _entries(_read(), case)
    entry = {"code": None, "predicted": None} | (again(known[0], case) if known else chosen(case))
    if entry["options"] is not None and entry["code"] is None:
        entry["code"] = code(case, entry["options"])
    account = {"sources": offline.digest(case[1], case[4]), "triton": triton.__version__}
    return {name: entry[name] for name in ("d", "depth", "options", "resources", "predicted", "code")} | account


def is_fresh(case: Case) -> bool:
    """Whether the table has the case, compiled from these kernels, with its prediction."""
    return any(
        entry.get("sources") == offline.digest(case[1], case[4]) and not _lacks_prediction(entry, case[1])
        for entry in _entries(_read(), case)
    )


def _lacks_prediction(entry: dict[str, Any], kernel: str) -> bool:
    return kernel in model.KERNELS and entry["options"] is not None and entry.get("predicted") is None


def _has_tiles(case: Case) -> bool:
    return any(entry["options"] for entry in _entries(_read(), case))


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
    """Brings the table up to date, or chooses some of its tiles anew."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--choose", metavar="WORDS", help="such as 90, or '90 backward half 64'")
    words = parser.parse_args().choose
    if words is None:
        listed = [case for case in cases() if not is_fresh(case)]
    else:
        listed = [
            case for case in cases() if f"{' '.join(map(str, case))} ".startswith(f"{words} ") and _has_tiles(case)
        ]
    print(f"Triton {triton.__version__}: {len(listed)} entries", flush=True)
    with ProcessPoolExecutor() as pool:
        for case, entry in zip(listed, pool.map(partial(updated, anew=words is not None), listed)):
            _add(case, entry)
            print(*case, entry["options"], entry["resources"], entry["predicted"], flush=True)


if __name__ == "__main__":
    main()
