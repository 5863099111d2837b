"""Checks the kernels' machine code for whole architectures, without a GPU: `make ptx`.

Each case's result is written at once, so that a run which was interrupted goes on where it was; a result counts as
long as the PTX of its launches could not have changed: for these files of the kernels, and this version of Triton.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import triton

from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_atomically
from gradnets_fast.kernels import configuration

from .cases import Case, everything, sample
from .checking import Checker
from .compiling import Compiled
from .program import UnsupportedError


def outcome(case: Case, seed: int = 0) -> dict[str, Any]:
    """What became of a case."""
    checker, cache, start = Checker(seed=seed), dict[str, Compiled](), time.process_time()
    try:
        verdict = case.check(checker, cache)
        fault, error = verdict.fault, verdict.of_allowed
    except UnsupportedError as unsupported:
        return {"unsupported": str(unsupported)}
    findings = {kind: [count, checker.findings.first[kind]] for kind, count in checker.findings.counts.items()}
    return {
        "fault": fault,
        "of_allowed": round(error, 3),
        "findings": findings,
        "launches": checker.launches,
        "kernels": sorted(checker.kernels),
        "seconds": round(time.process_time() - start, 1),
    }


def is_right(result: dict[str, Any]) -> bool:
    """Whether nothing was wrong."""
    return not result.get("fault") and not result.get("findings") and "unsupported" not in result


def line(case: Case, result: dict[str, Any]) -> str:
    """A case and what became of it."""
    if "unsupported" in result:
        return f"-     {case.name}: not checked, {result['unsupported']}"
    what = [result["fault"]] if result["fault"] else []
    what += [f"{count} × {kind} ({where})" for kind, (count, where) in result["findings"].items()]
    word = "right" if is_right(result) else "WRONG"
    return f"{word} {case.name}: {result['of_allowed']} of the error allowed; {'; '.join(what) or 'no finding'}"


def sources() -> str:
    """A digest of the kernels and their table."""
    folder = configuration.TABLE.parent
    files = sorted((*folder.glob("*.py"), configuration.TABLE))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ptx", description=__doc__)
    parser.add_argument("--architecture", type=int, action="append", choices=configuration.ARCHITECTURES)
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="only the first N cases of the sample; nothing is written"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "ptx.json", help="where results go, and earlier ones are")
    parser.add_argument("--seed", type=int, default=0, help="of the schedules")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [c for a in options.architecture or configuration.ARCHITECTURES for c in everything(a)]
    if options.sample is not None:
        cases = sample()[: options.sample]
    known = json.loads(options.out.read_text(encoding="utf-8"))["cases"] if options.out.exists() else {}
    here, wrong = {"sources": sources(), "triton": triton.__version__}, []
    for case in (case for case in cases if options.only in case.name):
        before = known.get(f"Triton {triton.__version__}, {case.name}", {})
        result = before if before.items() >= here.items() else outcome(case, options.seed) | here
        print(line(case, result), flush=True)
        wrong += [] if is_right(result) or "unsupported" in result else [case.name]
        if options.sample is None and result is not before:
            known[f"Triton {triton.__version__}, {case.name}"] = result
            content = {"environment": environment(), "cases": known}
            _write(options.out, content)
    print(f"{len(wrong)} cases with findings")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
