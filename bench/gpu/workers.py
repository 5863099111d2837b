"""Work in processes of their own: one that breaks its CUDA context, hangs or dies spoils nothing but its own task.

A worker reads a line of JSON for each task, and answers with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import IO, Any

from bench.environment import ROOT

Task = dict[str, Any]
Answer = dict[str, Any]
_TAIL, _GRACE_SECONDS = 300, 30.0
_LAST = "last"
"""In an answer: whether the process ends after it."""


class WorkerError(RuntimeError):
    """A worker gave no answer."""


@dataclass
class Worker:
    """A process that is started when a task needs it, and again after one that it did not survive.

    Attributes:
        command: what starts it.
        environment: variables that it has besides those here.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None
    _errors: IO[str] = field(default_factory=partial(tempfile.TemporaryFile, "w+", errors="replace"))

    def ask(self, task: Task, seconds: float) -> Answer:
        """The answer to a task.

        Raises:
            WorkerError: there was none within that time.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        try:
            print(json.dumps(task), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            alarm.cancel()
        if not line.endswith("\n"):
            raise WorkerError(f"the process ended with code {process.wait()}: {self._last_words()}")
        answer: Answer = json.loads(line)
        if answer.pop(_LAST, False):
            self._end()  # before another task reaches a process on its way out
        return answer

    def _start(self) -> None:
        environment = {**os.environ, **self.environment}
        pipe = subprocess.PIPE
        self._end()
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, cwd=ROOT, env=environment
        )

    def _last_words(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().split())[-_TAIL:] or "it said nothing"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            # Leaving the block closes the pipes, one of which may hold a task that nobody read, and waits.
            with contextlib.suppress(BrokenPipeError), self._process:
                self._process = None

    def close(self) -> None:
        """Ends the process."""
        self._end()
        self._errors.close()


def command(role: str) -> list[str]:
    """The command line of a worker of this program."""
    return [sys.executable, "-m", "bench.gpu", "--worker", role]


@contextlib.contextmanager
def pool(
    line: Sequence[str], count: int, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[list[Worker]]:
    """As many workers of a command line, which end with the block."""
    workers = [Worker(line, environment) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


@dataclass
class Budget:
    """What there is time for, going by what took longest so far.

    Attributes:
        seconds: in all.
        now: the clock.
        longest: seconds that a kind of work took at most; to begin with, a guess.
    """

    seconds: float
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._end = self.now() + self.seconds
        self.longest = {"case": 8.0, "compile": 15.0, "compile, max-autotune": 60.0}
        self._seen: set[str] = set()

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - self.now()

    def has_time(self) -> bool:
        """Whether there is any left."""
        return self.left() > 0

    def within(self, seconds: float) -> float:
        """A limit for a task that may take so long: not far beyond the end."""
        return min(seconds, max(0.0, self.left()) + _GRACE_SECONDS)

    def limit(self, seconds: float) -> float:
        """A limit for a process that may take so long.

        Raises:
            subprocess.TimeoutExpired: there is no time left to begin it.
        """
        if self.left() <= 0:
            raise subprocess.TimeoutExpired("a process that was not begun", 0.0)
        return self.within(seconds)

    def spent(self, work: str, seconds: float) -> None:
        """Learns how long some work took."""
        self.longest[work] = max(seconds, self.longest[work] if work in self._seen else 0.0)
        self._seen.add(work)

    def affordable(self, works: Iterable[str]) -> list[str]:
        """The first of some works that there is time for together."""
        chosen: list[str] = []
        for work in works:
            if sum(self.longest[w] for w in (*chosen, work)) > self.left():
                break
            chosen.append(work)
        return chosen


def serve(handle: Callable[[Task], Answer], healthy: Callable[[], bool]) -> None:
    """Answers tasks until there are none, or until the process is no longer fit for any."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        answer = handle(json.loads(line))
        last = not healthy()
        print(json.dumps(answer | {_LAST: last}), file=answers, flush=True)
        if last:
            break


def share(
    tasks: Iterable[Task],
    workers: Sequence[Worker],
    seconds: Callable[[], float],
    has_time: Callable[[], bool],
    done: Callable[[Task, Answer | WorkerError], None],
) -> list[Task]:
    """Shares tasks among workers until there is no time left; returns those that were not begun.

    seconds: for a task, asked when it begins.  done: is called with each task and its answer, never by two at once.
    """
    waiting, lock = iter(tasks), threading.Lock()
    stop = threading.Event()

    def take() -> Task | None:
        with lock:
            return None if stop.is_set() or not has_time() else next(waiting, None)

    def serve_one(worker: Worker) -> None:
        while (task := take()) is not None:
            try:
                answer: Answer | WorkerError = worker.ask(task, seconds())
            except WorkerError as error:
                answer = error
            with lock:
                if not stop.is_set():
                    done(task, answer)

    threads = [threading.Thread(target=serve_one, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        raise
    return list(waiting)
