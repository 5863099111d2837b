"""Runs that are killed at random instants, alone or with others, and go on."""

from __future__ import annotations

import random
import time
from pathlib import Path

from .children import check_refused
from .kinds import Kind, one_by_one
from .runs import Run, check_whole, finish, wait_until


def _killed(number: int, folder: Path, processes: int) -> str:
    """Kill a run up to three times, each time at a random instant, and go on."""
    draw = random.Random(f"killed {processes} {number}")
    run, out = Run.drawn(draw, processes), folder / "out"
    seconds = run.undisturbed()[1]
    for attempt in range(draw.randint(1, 3)):
        words = ("--save-every", draw.choice([0, 0, 0.05]))
        begun = attempt and (out / "checkpoint.safetensors").exists()
        children = run.resumed(out, *words) if begun else run.started(out, "--overwrite", *words)
        time.sleep(draw.uniform(0, seconds))
        draw.shuffle(children)
        for child in children:
            child.kill()
        if out.is_dir():
            check_whole(out)
    finish(run, out)
    return "the same result"


def _killed_alone(number: int, folder: Path) -> str:
    return _killed(number, folder, 1)


def _killed_in_two(number: int, folder: Path) -> str:
    return _killed(number, folder, 2)


def _lost(number: int, folder: Path) -> str:
    """Kill one of two processes at a random instant of the training; the other must say so and end."""
    draw = random.Random(f"lost {number}")
    run, out = Run.drawn(draw, 2), folder / "out"
    seconds, lost = run.undisturbed()[1], draw.randrange(2)
    children = run.started(out, "--save-every", draw.choice([0, 0.05, 30]))
    over = wait_until(children[0], "training ")
    assert over is None, over
    time.sleep(draw.uniform(0, seconds / 2))
    children[lost].kill()
    ended = children[1 - lost].wait(60)
    if ended.status != 0:  # it may have been through
        check_refused(ended, "another process was lost")
        assert "another process has stopped" in ended.err, ended
    check_whole(out)
    finish(run, out)
    return "the same result"


KINDS = (
    Kind("killed", "`kill -9` up to three times at random instants of `train`, then `--resume`: the tensors, history "
         "and measurements of an undisturbed run, bit for bit", 50, one_by_one(_killed_alone)),
    Kind("killed, two processes", "the same of two processes (gloo), both killed", 50, one_by_one(_killed_in_two)),
    Kind("a worker lost", "one of two processes killed in the middle of training: the other ends with one line, and "
         "both go on to the same result", 50, one_by_one(_lost)),
)  # fmt: skip
