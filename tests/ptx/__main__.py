"""Checks the kernels' machine code for whole architectures, without a GPU: `make ptx`.

Each case's result is written at once, so that a run which was interrupted goes on where it was; a result counts as
long as the code of its kernels, all tiles and the version of Triton are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from bench.environment import RESULTS, environment
from gradnets_fast.activations import TABLE, TRANSFORMS
from gradnets_fast.apps.files import write_atomically
from gradnets_fast.kernels import configuration, sources

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
        return {"unsupported": str(unsupported), "kernels": sorted(checker.kernels)}
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


def code_of(kernels: Sequence[str]) -> dict[str, str]:
    """Digests of all tiles, and of the code of kernels."""
    names = frozenset((*TABLE, *TRANSFORMS))
    table = json.loads(configuration.TABLE.read_text(encoding="utf-8"))
    entries = [e for of in table.values() for kinds in of.values() for found in kinds.values() for e in found]
    tiles = hashlib.sha256(json.dumps([entry["options"] for entry in entries]).encode()).hexdigest()[:16]
    return {"tiles": tiles} | {kernel: sources.digest(kernel, names) for kernel in kernels}


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
    wrong = []
    for case in (case for case in cases if options.only in case.name):
        name = f"Triton {triton.__version__}, {case.name}"
        result = known.get(name, {})
        is_new = result.get("code") != code_of(result.get("kernels", ()))
        if is_new:
            result = outcome(case, options.seed)
            result["code"] = code_of(result["kernels"])
        print(line(case, result), flush=True)
        wrong += [] if is_right(result) or "unsupported" in result else [case.name]
        if options.sample is None and is_new:
            known[name] = result
            content = {"environment": environment(), "cases": known}
            _write(options.out, content)
    print(f"{len(wrong)} cases with findings")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
