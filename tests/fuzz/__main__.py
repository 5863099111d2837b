"""Tries calls that hypothesis draws, in blocks of which each has a seed of its own: `make fuzz`.

A run that was interrupted goes on after its last block, unless the code has changed.  A failure is made as small as
possible, and printed as a program.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import HypothesisException

from gradnets_fast.apps.environment import environment
from gradnets_fast.apps.files import write_json

from .cases import Case
from .judge import judge
from .strategies import cases

_BLOCK = 250


def tried(number: int, count: int) -> Case | None:
    """Try so many calls; return the smallest one that fails, or None."""
    last: list[Case] = []

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(cases())
    def check(case: Case) -> None:
        last[:] = [case]
        judge(case)

    try:
        check()
    except HypothesisException:
        raise
    except Exception:  # whatever a call may raise: the last one is the smallest
        return last[0]
    return None


def _earlier(path: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier run by the same command of the same code has left."""
    if not path.exists() or str(now["commit"]).endswith("-modified"):
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if all(found["environment"][name] == now[name] for name in ("command", "commit")) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="how many calls")
    parser.add_argument("--seed", type=int, default=0, help="of the first block")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz.json"), help="what passed, and what failed")
    options = parser.parse_args()
    command = f"python -m tests.fuzz --count {options.count} --seed {options.seed}"
    content: dict[str, Any] = {"environment": environment(command), "passed": [], "failed": {}}
    content = _earlier(options.out, content["environment"]) or content
    began, blocks = time.monotonic(), range(options.seed, options.seed + -(-options.count // _BLOCK))
    for block in blocks:
        if block in content["passed"] or str(block) in content["failed"]:
            continue
        case = tried(block, _BLOCK)
        if case is None:
            content["passed"].append(block)
        else:
            content["failed"][str(block)] = case.program()
            print(f"\n# a call of block {block} fails; at the root of the checkout this shows it again:", flush=True)
            print(case.program(), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, content)
        done = block - options.seed + 1
        print(f"\r{done * _BLOCK} of {options.count} calls, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    print(f"\n{len(content['passed'])} blocks of {_BLOCK} calls passed, {len(content['failed'])} failed")
    return bool(content["failed"])


if __name__ == "__main__":
    sys.exit(main())
