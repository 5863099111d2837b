"""Runs the cases of an experiment that its folder does not have yet, and keeps each as soon as it is done."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import message
from ..environment import environment
from ..files import write_json
from .experiment import Case, Experiment, Row, Settings

RESULTS_FILE = "results.json"
_PLACE = ("processor", "threads", "instruction_set", "torch", "commit")
"""What makes a later part of a run another one's, as far as times go."""


class Run:
    """A run in a folder: what it has, and what is left to do.

    Attributes:
        content: of the result file: experiment, environment, settings, and an entry for each case with its row and
            the seconds that it took; "resumed" has the environments of later parts that differ from the first.

    Raises:
        ValueError: the folder has a run of something else.
    """

    def __init__(self, experiment: Experiment, settings: Settings, out: Path, command: str) -> None:
        self.experiment, self.settings, self.file = experiment, settings, out / RESULTS_FILE
        where = environment(command)
        if self.file.exists():
            self.content = read(self.file)
            self._check()
            parts = [self.content["environment"], *self.content.get("resumed", [])]
            if self.left() and _place(parts[-1]) != _place(where):
                self.content["resumed"] = [*parts[1:], where]
        else:
            head = {"experiment": experiment.name, "environment": where}
            self.content = {**head, "settings": _plain(settings), "cases": []}

    def _check(self) -> None:
        fix = f"choose another folder with --out, or delete {self.file}"
        name, kept = self.content["experiment"], self.content["settings"]
        if name != self.experiment.name:
            expected, where = f"a run of {name}, as is there", f"out {self.file.parent}"
            raise ValueError(message("reproduce", where, expected, self.experiment.name, fix))
        asked = _plain(self.settings)
        other = [key for key in {**kept, **asked} if kept.get(key) != asked.get(key)]
        if other:
            expected, got = (", ".join(f"{key} {each.get(key)}" for key in other) for each in (kept, asked))
            where = f"out {self.file.parent}"
            raise ValueError(message("reproduce", where, f"the settings of the run there ({expected})", got, fix))

    @property
    def rows(self) -> list[Row]:
        """Those of the cases that are done."""
        return rows_of(self.content)

    def left(self) -> list[Case]:
        """The cases that are not done."""
        done = [entry["case"] for entry in self.content["cases"]]
        return [case for case in self.experiment.cases(self.settings) if _plain(case) not in done]

    def do(self, case: Case) -> float:
        """Runs a case, and returns its seconds; it is in the file then."""
        began = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(case.get("seed", 0))
            row = self.experiment.run(case, self.settings)
        seconds = time.perf_counter() - began
        cases = [*self.content["cases"], {"case": dict(case), "row": row, "seconds": seconds}]
        write_json(self.file, self.content | {"cases": cases})
        # What is shown is what the file has, whether or not the run was interrupted.
        self.content = read(self.file)
        return seconds


def rows_of(content: dict[str, Any]) -> list[Row]:
    """The rows of a result file: each case's entries, what was found of it, and its seconds."""
    return [{**entry["case"], **entry["row"], "seconds": entry["seconds"]} for entry in content["cases"]]


def read(file: Path) -> dict[str, Any]:
    """A result file, with the numbers that are not finite in their places.

    Raises:
        ValueError: the file has something else.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for place, value in content.pop("not_finite", {}).items():
            *path, last = place.split(".")
            home: Any = content
            for key in path:
                home = home[_key(home, key)]
            home[_key(home, last)] = float(value)
        rows_of(content), content["experiment"]
        for part in (content["settings"], content["environment"], *content.get("resumed", [])):
            dict(part)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        fix = "delete it, or choose another folder with --out"
        got = f"{type(error).__name__}: {error}"
        raise ValueError(message("reproduce", str(file), "the result file of a run", got, fix)) from error
    return content


def _key(home: Any, key: str) -> Any:
    return int(key) if isinstance(home, list) else key


def _plain(settings: Settings) -> dict[str, Any]:
    """As JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return plain


def _place(where: dict[str, Any]) -> list[Any]:
    return [where.get(name) for name in _PLACE]


@contextmanager
def stoppable() -> Iterator[None]:
    """Has SIGTERM raise KeyboardInterrupt as Ctrl-C does, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def shown(case: Case) -> str:
    """A case in a line.

    >>> shown({"network": "MLP", "seed": 0})
    'network MLP, seed 0'
    """
    return ", ".join(f"{name} {value}" for name, value in case.items())


def mean(rows: Sequence[Row], quantity: str) -> float:
    """The mean of a quantity over rows, such as those of several seeds."""
    return sum(float(row[quantity]) for row in rows) / len(rows)
