"""Seeds the faults one by one in a copy of this checkout, and writes down what the suite says: `make mutants`.

A run that was interrupted goes on where it was: results are written after each fault, for its change and its tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from gradnets_fast.apps.environment import environment

from .faults import LIST, ROOT, faults
from .results import RESULTS, TABLE, Results
from .workplace import Workplace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--faults", type=Path, default=LIST, help="the list of faults")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to copy, with its .venv")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go, and those of an earlier run are")
    parser.add_argument("--work", type=Path, help="a folder for the copy that stays; by default a temporary one")
    parser.add_argument("--only", default="", help="only faults with this in their name")
    parser.add_argument("--check", action="store_true", help="only say which faults cannot be seeded")
    parser.add_argument("--table", action="store_true", help=f"only write {TABLE.name} anew from the results")
    options = parser.parse_args()
    everything = faults(options.faults)
    chosen = [fault for fault in everything if options.only in fault.id]
    complaints = {fault.id: complaint for fault in chosen if (complaint := fault.complaint(options.tree))}
    for name, complaint in complaints.items():
        print(f"{name}: {complaint}", file=sys.stderr)
    if options.check:
        return bool(complaints)
    results = Results(options.out)
    if not options.table:
        results.keep(everything)
        able = [fault for fault in chosen if fault.id not in complaints]
        with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
            workplace = Workplace(options.tree, options.work or Path(temporary), able)
            for fault in able:
                if not results.has(fault):
                    results.add(fault, workplace.outcome(fault), environment("python -m tests.mutants"))
                print(results.line(fault), flush=True)
    if options.out == RESULTS:
        TABLE.write_text(results.table(), encoding="utf-8")
    missed = [fault.id for fault in chosen if not results.caught(fault)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults caught", *missed, sep="\n  not: ")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
