"""Processes forked from this one, which has loaded the package but started no threads: one takes milliseconds.

This process must not compute with torch itself, for a forked process has no threads but the one that forked it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120.0
"""Seconds after which a process that should have ended has not."""


def load() -> None:
    """Load, once and for all processes, what a run of the command line imports on its way: by such a run."""
    if os.access("/dev/shm", os.W_OK):  # nothing here is about a disk's speed
        tempfile.tempdir = "/dev/shm"
    from gradnets_fast.apps.cli import app

    with contextlib.suppress(ImportError):  # where there is no Triton
        import gradnets_fast.kernels.prebuild  # noqa: F401
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = ["train", "--steps", "2", "--samples", "100", "--arch", "mgradnet-m", "--out", folder]
        app(words, standalone_mode=False)
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    others = [name for name in threads[1:] if name != "jemalloc_bg_thd"]  # Arrow's, which knows of forks
    assert not others, f"expected no threads, which are lost in a fork, got {others}"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, negative for a signal, and what it printed."""

    status: int
    out: str
    err: str


class Child:
    """A process that calls `body` and ends; its exit status is what that returns.

    What it prints goes through pipes, for a limit of the sizes of files would hold for a file.
    """

    def __init__(self, body: Callable[[], int], variables: Mapping[str, str] | None = None) -> None:
        pipes = [os.pipe() for _ in range(2)]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(body, variables or {}, [end for _, end in pipes])
        self._status: int | None = None
        self._texts = (bytearray(), bytearray())
        self._pipes = []
        for ours, its in pipes:
            os.close(its)
            os.set_blocking(ours, False)
            self._pipes.append(os.fdopen(ours, "rb", buffering=0))

    def printed(self, number: int = 0) -> str:
        """What it has printed so far, on standard output or, of number 1, as errors."""
        for pipe, text in zip(self._pipes, self._texts):
            while part := pipe.read(2**16):
                text += part
        return self._texts[number].decode("utf-8", "replace")

    def over(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self._status is not None

    def wait(self, limit: float = LIMIT) -> Ended:
        """How it ends; AssertionError where it has not after `limit` seconds."""
        until = time.monotonic() + limit
        while not self.over():
            if time.monotonic() > until:
                self.kill()
                raise AssertionError(f"no end within {limit:.0f} s; printed: {self.printed(0)} {self.printed(1)}")
            self.printed()  # so that the pipes are never full
            time.sleep(0.002)
        assert self._status is not None
        return Ended(self._status, self.printed(0), self.printed(1))

    def kill(self) -> None:
        """Ends it at once, as by kill -9, wherever it is."""
        if not self.over():
            os.kill(self.pid, signal.SIGKILL)
            self._end(os.waitpid(self.pid, 0)[1])

    def _end(self, status: int) -> None:
        self._status = os.waitstatus_to_exitcode(status)
        self.printed()
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()


def _become(body: Callable[[], int], variables: Mapping[str, str], outputs: Sequence[int]) -> None:
    """In the new process: call body, and end."""
    status = 1
    try:
        for file, number in zip(outputs, (1, 2)):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        os.environ.update(variables)
        status = body()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def command(
    words: Sequence[object],
    prepare: Callable[[], object] = lambda: None,
    variables: Mapping[str, str] | None = None,
) -> Child:
    """`gradnets-fast` with these words, after `prepare()` in its process."""

    def body() -> int:
        from gradnets_fast.apps.cli import run

        prepare()
        sys.argv = ["gradnets-fast", *map(str, words)]
        return run()

    return Child(body, variables)


def check_refused(ended: Ended, what: str = "") -> None:
    """Raise AssertionError unless a command ended with one line that says why."""
    lines = ended.err.splitlines()
    expected = f"expected one line of gradnets-fast and status 2{what and f' ({what})'}"
    assert ended.status == 2, f"{expected}, got {ended}"
    assert [line[:15] for line in lines] == ["gradnets-fast: "], f"{expected}, got {ended}"


def limit_memory(more: int) -> None:
    """Let this process ask for so many more bytes of addresses."""
    text = Path("/proc/self/status").read_text()
    size = 1024 * int(text.split("VmSize:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))


def limit_files(size: int) -> None:
    """Have writes fail with EFBIG beyond so many bytes of a file; Python ignores the signal that goes with it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITIES_V3, _OVERRIDE = 0x20080522, 0b110
"""The system's interface, and the capabilities to write and to read whatever the permissions: numbers 1 and 2."""


def obey_permissions() -> None:
    """Have permissions of files hold for this process, also where it is root's; it stays the files' owner."""
    header, sets = _Header(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    system = ctypes.CDLL(None, use_errno=True)
    for call in ("capget", "capset"):
        for i in range(3):
            sets[i] &= ~_OVERRIDE
        if getattr(system, call)(ctypes.byref(header), sets):
            raise OSError(ctypes.get_errno(), call)


class Disk:
    """A file system of so many bytes and files, in memory, mounted at a folder; it takes root."""

    def __init__(self, folder: Path, size: int, files: int) -> None:
        self._folder, self._size, self._files = folder, size, files
        self._system = ctypes.CDLL(None, use_errno=True)

    def _mount(self, flags: int, size: int, files: int) -> None:
        options = f"size={size},nr_inodes={files}".encode()
        if self._system.mount(b"tmpfs", os.fsencode(self._folder), b"tmpfs", flags, options):
            raise OSError(ctypes.get_errno(), "mount")

    def __enter__(self) -> Disk:
        self._mount(0, self._size, self._files)
        return self

    def grow(self) -> None:
        """Give it room for all."""
        self._mount(32, 2**27, 10_000)  # MS_REMOUNT

    def __exit__(self, *_: object) -> None:
        self._system.umount2(os.fsencode(self._folder), 2)  # MNT_DETACH


def can_mount() -> bool:
    """Whether `Disk` works here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Disk(Path(folder), 4096, 10):
                return True
        except OSError:
            return False
