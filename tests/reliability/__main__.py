"""Tries to break the package, in ways whose cases follow from their numbers: `make reliability`.

A run that was interrupted goes on where it was; results are written after each block of cases.  The word soak in place
of options has work done at full load for a time: `python -m tests.reliability soak --minutes 30`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# A process that has threads cannot be forked, and the cases have one core each.
os.environ["OMP_NUM_THREADS"] = "1"

from gradnets_fast.apps.environment import environment

from . import children, damage, interruption, sanitized, soak, surroundings
from .kinds import Kind
from .results import RESULTS, TABLE, Results

KINDS: tuple[Kind, ...] = (*interruption.KINDS, *surroundings.KINDS, *damage.KINDS, *sanitized.KINDS)


def attempt(kind: Kind, results: Results, first: int, count: int) -> None:
    """Try those of a kind's cases that have not been tried."""
    results.begin(kind, environment("python -m tests.reliability"))
    if why := kind.needs():
        print(f"{kind.name}: not tried: {why}", flush=True)
        return
    left = results.left(kind, range(first, first + count))
    for i in range(0, len(left), kind.block):
        began = time.monotonic()
        outcomes = kind.run(left[i : i + kind.block])
        results.add(kind, outcomes, time.monotonic() - began)
        for outcome in outcomes:
            if outcome.failure:
                print(f"{kind.name}, case {outcome.number} fails:\n{outcome.failure}", flush=True)
    tried = count - len(results.left(kind, range(first, first + count)))
    print(f"{kind.name}: {tried} of {kind.count} tried, {len(results.failures(kind))} failures", flush=True)


def main() -> int:
    """The command; returns the exit code."""
    if sys.argv[1:2] == ["soak"]:
        return soak.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--only", default="", help="kinds with this in their names, several separated by commas")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case of each kind")
    parser.add_argument("--count", type=int, help="cases of each kind (default: as many as the table wants)")
    parser.add_argument("--share", type=float, default=1.0, help="this part of the cases, at least one of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go, and those of an earlier run are")
    parser.add_argument("--table", action="store_true", help=f"only write {TABLE.name} anew from the results")
    options = parser.parse_args()
    results, words = Results(options.out), options.only.split(",")
    chosen = [kind for kind in KINDS if any(word in kind.name for word in words)]
    if not options.table:
        children.load()
        for kind in chosen:
            share = max(1, round(kind.count * options.share))
            attempt(kind, results, options.first, options.count or share)
    results.keep(KINDS)
    if options.out == RESULTS:
        TABLE.write_text(results.table(), encoding="utf-8")
    return any(results.failures(kind) for kind in chosen)


if __name__ == "__main__":
    sys.exit(main())
