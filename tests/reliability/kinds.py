"""What a kind of case is: how many there should be, and what one of them came to."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a case came to: one of a few words, and for a failure what was found."""

    number: int
    word: str
    failure: str = ""


Block = Callable[[Sequence[int]], list[Outcome]]


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Attributes:
        name: in the results.
        what: what is done, and what has to hold, for the table.
        count: how many cases `make reliability` tries.
        run: tries the cases of these numbers, from which all that is random follows.
        block: how many cases are tried at a time.
        needs: why it cannot be tried here; None if it can.
    """

    name: str
    what: str
    count: int
    run: Block
    block: int = 1
    needs: Callable[[], str | None] = lambda: None


def one_by_one(case: Callable[[int, Path], str]) -> Block:
    """A block of cases, each a function of its number and an empty folder that returns its outcome or raises."""

    def run(numbers: Sequence[int]) -> list[Outcome]:
        found = []
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
                try:
                    found.append(Outcome(number, case(number, Path(folder))))
                except Exception as error:  # whatever it is, it is what the case has found
                    text = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                    found.append(Outcome(number, "failed", text[-4000:]))
        return found

    return run
